"""Fuzz the ROUGE-L filter against rouge_score: every decision, score and nearest text, in every implementation.

    python bench/fuzz_filters.py [--texts 20000]

The corpora have 100 texts over tiny vocabularies, where ties at the threshold are frequent. rouge_score computes the
scores of all pairs of a corpus once. For each of eight thresholds, the verdicts of the loop in the paper's code are
compared with the verdicts of the index, one text at a time and in blocks.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import time

from rouge_score.rouge_scorer import RougeScorer

from selfinstruct.filters import NoveltyIndex

SCORER = RougeScorer(["rougeL"])
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SIZE = 100


def corpus(rng: random.Random) -> list[str]:
    """Return random texts, 40% of them edited copies of earlier ones."""
    vocabulary, longest = rng.choice([2, 3, 5, 8, 13, 40]), rng.choice([4, 8, 14, 24])
    texts: list[str] = []
    for _ in range(SIZE):
        words = [f"w{rng.randrange(vocabulary)}" for _ in range(rng.randrange(longest))]
        if texts and rng.random() < 0.4:
            words = rng.choice(texts).split()
            for _ in range(rng.randrange(5)):
                words.insert(rng.randrange(len(words) + 1), f"w{rng.randrange(vocabulary)}")
        texts.append(" ".join(words))
    return texts


def expected(scores: list[list[float]], threshold: float) -> tuple[list[tuple], int]:
    """Return the verdicts of the loop in the paper's code, and the number of ties with the threshold."""
    pool: list[int] = []
    verdicts: list[tuple] = []
    ties = 0
    for index, row in enumerate(scores):
        top = max((row[other] for other in pool), default=0.0)
        ties += abs(top - threshold) < 1e-9
        if top <= threshold:
            pool.append(index)
            verdicts.append((True, None, None))
        else:
            verdicts.append((False, top, str(next(other for other in pool if row[other] == top))))
    return verdicts, ties


def brief(verdicts) -> list[tuple]:
    """Return the compared fields of each verdict."""
    return [(verdict.kept, verdict.score, verdict.nearest) for verdict in verdicts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000)
    options = parser.parse_args()
    engines = ["numpy"] + (["numba"] if importlib.util.find_spec("numba") else [])
    start, decided, ties, mismatches = time.perf_counter(), 0, 0, 0
    for number in range(options.texts // SIZE):
        texts = corpus(random.Random(number))
        scores = [[SCORER.score(a, b)["rougeL"].fmeasure for b in texts[:index]] for index, a in enumerate(texts)]
        for threshold in THRESHOLDS:
            reference, tied = expected(scores, threshold)
            ties += tied
            for engine in engines:
                block = brief(NoveltyIndex(threshold, "rouge", engine=engine).offer_many(texts))
                index = NoveltyIndex(threshold, "rouge", engine=engine)
                single = brief(index.offer(text) for text in texts)
                decided += 2 * len(texts)
                mismatches += sum(a != b for a, b in zip(block, reference, strict=True))
                mismatches += sum(a != b for a, b in zip(single, reference, strict=True))
    print(
        f"{options.texts:,} texts, thresholds {THRESHOLDS[0]} to {THRESHOLDS[-1]}, {' and '.join(engines)}, one by one "
        f"and in blocks: {decided:,} verdicts, {ties:,} ties with the threshold, {mismatches} mismatches, "
        f"{time.perf_counter() - start:.0f} s"
    )
    raise SystemExit(mismatches > 0)


if __name__ == "__main__":
    main()

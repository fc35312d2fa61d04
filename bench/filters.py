"""Measure speed, memory and recall of the filters next to the reference packages.

    python bench/filters.py [--data FILE.jsonl.gz] [--rows N] [--write]
    python bench/filters.py --scale 2000000     # memory and speed of the MinHash index alone

Without a data file, similar texts are generated. A package that cannot be imported appears in the table with the
reason; the extra ``bench`` installs all of them. Extrapolated figures are marked. Ratios compare figures of the same
run, in which other load on the machine affects both sides.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import itertools
import json
import os
import platform
import random
import resource
import statistics
import time
import tracemalloc
from pathlib import Path

import peers
from reporting import RESULTS, hardware, today

from selfinstruct.filters import NearDuplicateIndex, NoveltyIndex

ENGINES = ["numpy"] + (["numba"] if importlib.util.find_spec("numba") else [])
NEW = ("some", "other", "word", "that", "was", "new")


def load(path: Path | None, rows: int) -> tuple[list[str], str]:
    """Return instructions and the name of their source; generated ones if there is no file."""
    if path is not None:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line)["instruction"] for line in itertools.islice(file, rows)], path.name
    rng = random.Random(7)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(30_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    texts: list[str] = []
    for row in range(rows):
        if row % 4 == 3:
            texts.append(edited(rng.choice(texts[-2000:]), rng, rng.randint(1, 6)))
        else:
            texts.append(" ".join(rng.choices(words, weights, k=max(4, int(rng.lognormvariate(2.9, 0.6))))))
    return texts, "generated texts"


def edited(text: str, rng: random.Random, edits: int) -> str:
    """Return the text with some words replaced, dropped or added."""
    words = text.split()
    for _ in range(edits):
        index = rng.randrange(len(words) + 1)
        kind = rng.randrange(3)
        words[index : index + (kind < 2)] = [] if kind == 0 else [rng.choice(NEW)]
    return " ".join(words)


def seconds(work, repeat: int = 3) -> tuple[float, object]:
    """Return the median wall time of `repeat` runs and the last result."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def novelty(texts: list[str]) -> list[tuple]:
    """Measure the ROUGE-L filter; estimate the time of rouge_score for all pairs that the papers' loop compares."""
    from rouge_score.rouge_scorer import RougeScorer

    taken, verdicts = {}, {}
    for engine in ENGINES:
        NoveltyIndex(tokenizer="rouge", engine=engine).offer_many(texts[:100])  # compiles
        taken[engine], verdicts[engine] = seconds(
            lambda engine=engine: NoveltyIndex(tokenizer="rouge", engine=engine).offer_many(texts)
        )
    kept = [verdict.kept for verdict in verdicts["numpy"]]
    pairs = sum(itertools.accumulate(kept)) - sum(kept)
    rng = random.Random(1)
    sample = [(rng.choice(texts), rng.choice(texts)) for _ in range(400)]
    scorer = RougeScorer(["rougeL"])
    sample_time, _ = seconds(lambda: [scorer.score(a, b)["rougeL"].fmeasure for a, b in sample])
    original = sample_time / len(sample) * pairs
    rows = [("rouge_score, every pair (extrapolated)", f"{original:,.0f} s", "1x", f"{pairs:,} pairs")]
    for engine in ENGINES:
        same = "same verdicts" if verdicts[engine] == verdicts["numpy"] else "DIFFERENT VERDICTS"
        rows.append((f"NoveltyIndex, {engine}", f"{taken[engine]:.2f} s", f"{original / taken[engine]:,.0f}x", same))
    dense, exact = seconds(lambda: dense_check(texts, verdicts["numpy"], rng), 1)
    rows.append(("50 verdicts against rouge_score itself", f"{dense:.1f} s", "", exact))
    for engine in ENGINES:
        index = NoveltyIndex(tokenizer="rouge", engine=engine).fit(texts)
        probes = [edited(text, rng, 3) for text in rng.sample(texts, 500)]
        index.query(probes[0])
        times = sorted(seconds(lambda text=text, index=index: index.offer(text), 1)[0] for text in probes)
        late = f"p99 {times[495] * 1e3:.2f} ms"
        rows.append((f"one offer to all rows, median, {engine}", f"{times[250] * 1e3:.3f} ms", "", late))
    tracemalloc.start()
    index = NoveltyIndex(tokenizer="rouge")
    index.fit(texts)
    size = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    rows.append(("memory of the index", f"{size:.0f} MiB", "", f"{len(index):,} rows"))
    return rows


def dense_check(texts: list[str], verdicts, rng: random.Random) -> str:
    """Compare 50 verdicts with rouge_score over all pairs of the pool that the verdicts imply."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    wrong = 0
    for row in rng.sample(range(min(len(texts), 4000)), 50):
        pool = [texts[other] for other in range(row) if verdicts[other].kept]
        top = max((scorer.score(text, texts[row])["rougeL"].fmeasure for text in pool), default=0.0)
        verdict = verdicts[row]
        wrong += (top <= 0.7) != verdict.kept or (not verdict.kept and top != verdict.score)
    return f"{wrong} of 50 differ"


def near_duplicates(texts: list[str]) -> list[tuple]:
    """Measure MinHash end to end, next to the tutorial loop of datasketch and rensa with shingles made in Python."""
    some = texts[:2000]
    works = {engine: lambda engine=engine: NearDuplicateIndex(engine=engine).offer_many(texts) for engine in ENGINES}
    works |= {name: lambda loop=loop: loop(some) for name, loop in peers.SLOW.items()}
    works |= {name: lambda loop=loop: loop(texts) for name, loop in peers.FAST.items()}
    sizes = {name: len(some) if name in peers.SLOW else len(texts) for name in works}
    for engine in ENGINES:
        NearDuplicateIndex(engine=engine).offer_many(texts[:6000])  # compiles
    taken: dict[str, list[float]] = {name: [] for name in works}
    missing = {}
    for _ in range(3):  # in turns, so that other load on the machine affects all alike
        for name in [name for name in works if name not in missing]:
            start = time.perf_counter()
            try:
                works[name]()
            except ImportError as error:
                missing[name] = f"not run: {error}"
                continue
            taken[name].append(time.perf_counter() - start)
    best = statistics.median(taken[ENGINES[-1]]) / len(texts)
    rows = []
    for name, times in taken.items():
        if name in missing:
            rows.append((name, "", "", missing[name]))
            continue
        each = statistics.median(times) / sizes[name]
        title = f"NearDuplicateIndex, {name}, every pair verified" if name in ENGINES else name
        ratio = f"{each / best:.1f}x the time of {ENGINES[-1]}"
        rows.append((title, f"{sizes[name]:,}", f"{1 / each:,.0f} rows/s", ratio))
    return rows


def recall(texts: list[str]) -> list[tuple]:
    """Count the planted edits of similarity 0.8 or more that each package finds with its own code and defaults."""
    rng = random.Random(5)
    pairs = []
    for text in rng.sample(texts, min(len(texts), 6000)):
        other = edited(text, rng, rng.randint(1, 4))
        a, b = peers.grams(text), peers.grams(other)
        if 0.8 <= len(a & b) / len(a | b) < 1:
            pairs.append((text, other))

    def ours(originals: list[str], others: list[str]) -> list[bool]:
        index = NearDuplicateIndex(0.8).fit(originals)
        return [not index.query(other).kept for other in others]

    rows = []
    for name, find in {"this package at 0.8, verified": ours, **peers.RECALL}.items():
        start = time.perf_counter()
        try:
            matches = sum(find([text for text, _ in pairs], [other for _, other in pairs]))
        except ImportError as error:
            rows.append((name, "", "", f"not run: {error}"))
            continue
        spent = time.perf_counter() - start
        rows.append((name, f"{matches / len(pairs):.1%}", f"{spent:.1f} s", f"{len(pairs)} pairs"))
    return rows


def scale(rows: int) -> None:
    """Fill a MinHash index with generated rows and print its growth; the peaks during merges are included."""
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(30_000)]
    index = NearDuplicateIndex()
    portion = 20_000  # rows generated at once, so that nothing but the index grows
    spent = 0.0
    print("| rows | kept | rows/s | peak memory | bytes per row |\n|---|---|---|---|---|")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    printed = 0  # eighths of the rows
    for done in range(portion, rows + 1, portion):
        made = [" ".join(rng.choices(words, k=24)) for _ in range(portion)]
        for position in range(7, portion, 8):
            made[position] = edited(made[position - 7], rng, 1)
        start = time.perf_counter()
        index.offer_many(made)
        spent += time.perf_counter() - start
        if done * 8 // rows > printed:
            printed = done * 8 // rows
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            each, size = (peak - before) / done, peak / 2**30
            print(f"| {done:,} | {len(index):,} | {done / spent:,.0f} | {size:.2f} GiB | {each:.0f} |", flush=True)


def table(title: str, head: tuple, rows: list[tuple]) -> str:
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSON lines with a field `instruction`, gzipped")
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--write", action="store_true", help="also write the tables into bench/results/")
    parser.add_argument("--scale", type=int, default=0, metavar="ROWS")
    options = parser.parse_args()
    if options.scale:
        scale(options.scale)
        return
    texts, source = load(options.data, options.rows)
    head = f"# Filters, {today()}\n\n{len(texts):,} rows ({source}), {hardware()}, Python {platform.python_version()}, "
    parts = [head + f"load {os.getloadavg()[0]:.1f} at the start. Printed by `python bench/filters.py`.\n"]
    print(parts[0])
    for title, columns, work in (
        ("ROUGE-L novelty at 0.7", ("", "time", "ratio", "note"), novelty),
        ("MinHash near-duplicates at 0.8", ("", "rows", "rate", "ratio"), near_duplicates),
        ("Recall of planted edits, Jaccard of character 5-grams 0.8 to 1", ("", "recall", "time", "of"), recall),
    ):
        parts.append(table(title, columns, work(texts)))
        print(parts[-1], flush=True)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"filters-{today()}.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()

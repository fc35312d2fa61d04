"""The decision is ``rouge_score``'s own, to the last bit."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from selfinstruct.filters import NoveltyIndex, rouge_l

SCORER = RougeScorer(["rougeL"])
THRESHOLDS = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def reference(a: str, b: str) -> float:
    return SCORER.score(a, b)["rougeL"].fmeasure


def sequential(texts: list[str], threshold: float) -> list[tuple[bool, float, int | None]]:
    """The filter as the papers run it: for each text kept?, the highest F and the earliest place of it."""
    pool: list[int] = []
    verdicts = []
    for place, text in enumerate(texts):
        scores = [reference(text, texts[other]) for other in pool]
        top = max(scores, default=0.0)
        kept = top <= threshold
        verdicts.append((kept, top, pool[scores.index(top)] if top > 0 else None))
        if kept:
            pool.append(place)
    return verdicts


def corpus(rng: random.Random, count: int, vocabulary: int, longest: int) -> list[str]:
    return [" ".join(f"w{rng.randrange(vocabulary)}" for _ in range(rng.randrange(longest))) for _ in range(count)]


@given(st.text(), st.text())
def test_any_two_texts_score_as_rouge_score_does(a, b):
    assert rouge_l(a, b) == reference(a, b)


@given(st.lists(st.text(alphabet="ab ", max_size=40), max_size=12), st.sampled_from(THRESHOLDS))
@settings(max_examples=150)
def test_small_pools_judge_as_rouge_score_does(texts, threshold):
    expected = sequential(texts, threshold)
    dense = NoveltyIndex(threshold, "rouge").offer_many(texts, explain="dense")
    assert [(v.kept, v.score, None if v.nearest is None else int(v.nearest)) for v in dense] == expected


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize(("vocabulary", "longest"), [(2, 12), (4, 30), (12, 16), (60, 24)])
def test_seeded_corpora_judge_as_rouge_score_does(threshold, vocabulary, longest):
    texts = corpus(random.Random(f"{threshold} {vocabulary}"), 100, vocabulary, longest)
    expected = sequential(texts, threshold)
    for verdict, (kept, score, nearest) in zip(
        NoveltyIndex(threshold, "rouge").offer_many(texts), expected, strict=True
    ):
        assert verdict.kept == kept
        if kept:
            assert (verdict.score, verdict.nearest) == (None, None)
        else:
            assert (verdict.score, verdict.nearest) == (score, str(nearest))

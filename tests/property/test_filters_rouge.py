"""The decision equals ``rouge_score``, to the last bit, with every engine and in batches of every size."""

import importlib.util
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq
from rouge_score.rouge_scorer import RougeScorer

from selfinstruct.filters import NoveltyIndex, rouge_l

SCORER = RougeScorer(["rougeL"])
THRESHOLDS = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
ENGINES = ["numpy", "numba"] if importlib.util.find_spec("numba") else ["numpy"]


def reference(a: str, b: str) -> float:
    return SCORER.score(a, b)["rougeL"].fmeasure


def sequential(texts: list[str], threshold: float) -> list[tuple[bool, float, str | None]]:
    """The filter as the papers run it: for each text kept?, the highest F and the earliest place of it."""
    pool: list[int] = []
    verdicts = []
    for index, text in enumerate(texts):
        scores = [reference(text, texts[other]) for other in pool]
        top = max(scores, default=0.0)
        kept = top <= threshold
        verdicts.append((kept, top, str(pool[scores.index(top)]) if top > 0 else None))
        if kept:
            pool.append(index)
    return verdicts


def decisive(verdicts: list[tuple[bool, float, str | None]]) -> list[tuple[bool, float | None, str | None]]:
    """The verdicts without ``explain="full"``: a kept text has neither score nor nearest."""
    return [(True, None, None) if verdict[0] else verdict for verdict in verdicts]


def brief(verdicts) -> list[tuple[bool, float | None, str | None]]:
    return [(verdict.kept, verdict.score, verdict.nearest) for verdict in verdicts]


def corpus(rng: random.Random, count: int, vocabulary: int, longest: int) -> list[str]:
    """Texts of a tiny vocabulary, every third an edit of an earlier one."""
    texts: list[str] = []
    for number in range(count):
        words = [f"w{rng.randrange(vocabulary)}" for _ in range(rng.randrange(longest))]
        if number % 3 == 2:
            words = rng.choice(texts).split()
            for _ in range(rng.randrange(4)):
                words.insert(rng.randrange(len(words) + 1), f"w{rng.randrange(vocabulary)}")
        texts.append(" ".join(words))
    return texts


@given(st.text(), st.text())
def test_any_two_texts_score_as_rouge_score_does(a, b):
    assert rouge_l(a, b) == reference(a, b)


@given(st.lists(st.text(alphabet="ab ", max_size=40), max_size=12), st.sampled_from(THRESHOLDS))
@settings(max_examples=150)
def test_small_pools_decide_as_rouge_score_does(texts, threshold):
    expected = sequential(texts, threshold)
    assert brief(NoveltyIndex(threshold, "rouge").offer_many(texts, explain="full")) == expected
    assert brief(NoveltyIndex(threshold, "rouge").offer_many(texts)) == decisive(expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize(("vocabulary", "longest"), [(2, 12), (4, 30), (12, 16), (60, 24)])
def test_seeded_corpora_decide_as_rouge_score_does(engine, threshold, vocabulary, longest):
    texts = corpus(random.Random(f"{threshold} {vocabulary}"), 80, vocabulary, longest)
    expected = decisive(sequential(texts, threshold))
    assert brief(NoveltyIndex(threshold, "rouge", engine=engine).offer_many(texts)) == expected
    one = NoveltyIndex(threshold, "rouge", engine=engine)
    assert brief(one.offer(text) for text in texts) == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.7, 0.95, 1.0])
def test_blocks_of_any_size_equal_one_text_at_a_time(engine, threshold):
    """Thousands of texts, against the dense comparison, which has no index at all."""
    rng = random.Random(f"{threshold}")
    texts = corpus(rng, 500, 30, 40) + corpus(rng, 400, 500, 20)
    expected = decisive(brief(NoveltyIndex(threshold, "rouge").offer_many(texts, explain="full")))
    assert brief(NoveltyIndex(threshold, "rouge", engine=engine).offer_many(texts)) == expected
    index = NoveltyIndex(threshold, "rouge", engine=engine)
    found = []
    rest = texts
    while rest:
        size = rng.choice([1, 1, 2, 50, 300])
        portion, rest = rest[:size], rest[size:]
        if size == 2:
            portion_query = [index.query(text) for text in portion]  # leaves no trace
            assert portion_query[0] == index.query(portion[0])
        found += index.offer_many(portion)
    assert brief(found) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_long_texts(engine):
    """Around the word boundaries of the bit-parallel LCS, and far beyond the tables for short texts."""
    rng = random.Random(11)
    texts = []
    for size in (63, 64, 65, 127, 128, 129, 255, 256, 300, 511, 512, 513, 600, 1500):
        words = [f"w{rng.randrange(200)}" for _ in range(size)]
        if size > 512:  # some tokens so frequent that their places are no longer listed
            words[::3] = ["w0"] * len(words[::3])
        for edits in (0, size // 20, size // 6):
            edited = list(words)
            for _ in range(edits):
                edited[rng.randrange(len(edited))] = f"w{rng.randrange(200)}"
            texts.append(" ".join(edited))
    expected = decisive(brief(NoveltyIndex(0.7, "rouge").offer_many(texts, explain="full")))
    assert brief(NoveltyIndex(0.7, "rouge", engine=engine).offer_many(texts)) == expected
    assert any(not kept for kept, _, _ in expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_long_text_of_one_word_or_two(engine):
    index = NoveltyIndex(0.7, "rouge", engine=engine)
    for word in ("a ", "a b "):
        assert index.offer(word * 20_000).kept
        verdict = index.offer(word * 20_000 + "c")
        assert (verdict.kept, verdict.score) == (False, reference_of(len(word) * 10_000))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
def test_long_texts_with_common_ends_and_shifts(engine, threshold):
    """What is not compared token by token, because it is common or too far from the diagonal, changes nothing."""
    rng = random.Random(threshold)
    base = [f"w{rng.randrange(3)}" for _ in range(1400)]
    texts = [" ".join(base)]
    for head, tail in ((0, 0), (700, 100), (690, 690)):
        for change in (1, 400):
            middle = base[head : len(base) - tail]
            texts.append(" ".join(base[:head] + middle[change:] + base[len(base) - tail :]))
            texts.append(" ".join(base[:head] + ["x"] * change + middle + base[len(base) - tail :]))
    for text in texts:
        index = NoveltyIndex(threshold, "rouge", engine=engine).fit([text])
        expected = [rapid(text, other, threshold) for other in texts]
        assert [index.query(other).score for other in texts] == expected


def rapid(a: str, b: str, threshold: float) -> float | None:
    """The score of what is not kept; by rapidfuzz alone, since rouge_score takes seconds for such texts."""
    first, second = a.split(), b.split()
    length = LCSseq.similarity(first, second)
    precision, recall = length / len(first), length / len(second)
    score = 2 * precision * recall / (precision + recall)
    return score if score > threshold else None


@pytest.mark.parametrize("engine", ENGINES)
def test_only_the_beginning_of_an_overlong_text_is_compared(engine):
    index = NoveltyIndex(0.7, longest=100, engine=engine)
    verdicts = index.offer_many(["a b " * 250_000, "a b " * 50 + "c d " * 100_000, "b c d"])
    assert [(verdict.kept, verdict.score) for verdict in verdicts] == [(True, None), (False, 1.0), (True, None)]
    assert len(index._store.block.tokens) == 103  # nothing that is compared is longer


def reference_of(tokens: int) -> float:
    """ROUGE-L F1 of a text and the same with one more word."""
    precision = tokens / (tokens + 1)
    return 2 * precision / (precision + 1)


def test_numbers_beyond_the_last_code_point(monkeypatch):
    monkeypatch.setattr("selfinstruct.filters.rouge.lcs.MAX_CODE", 40)
    texts = corpus(random.Random(3), 300, 100, 20)
    expected = decisive(sequential(texts[:100], 0.5))
    assert brief(NoveltyIndex(0.5, "rouge", engine="numpy").offer_many(texts[:100])) == expected
    dense = NoveltyIndex(0.5, "rouge").offer_many(texts, explain="full")
    assert decisive(brief(dense)) == brief(NoveltyIndex(0.5, "rouge", engine="numpy").offer_many(texts))

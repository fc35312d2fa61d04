"""The size of batches makes no difference, and enough bands find everything that brute force finds."""

import importlib.util
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.filters import NearDuplicateIndex

ENGINES = ["numpy", "numba"] if importlib.util.find_spec("numba") else ["numpy"]


def grams(text):
    text = " ".join(text.casefold().split())
    return {text[at : at + 5] for at in range(max(1, len(text) - 4))}


def brute_force(texts, groups, threshold):
    pool, verdicts = [], []
    for index, text in enumerate(texts):
        best, nearest = 0.0, None
        for other in pool:
            if groups[index] is None or groups[index] != groups[other]:
                a, b = grams(text), grams(texts[other])
                score = len(a & b) / len(a | b)
                if score >= threshold and score > best:
                    best, nearest = score, str(other)
        verdicts.append((nearest is None, best or None, nearest))
        if nearest is None:
            pool.append(index)
    return verdicts


def brief(verdicts):
    return [(verdict.kept, verdict.score, verdict.nearest) for verdict in verdicts]


def corpus(rng, count):
    words = [f"w{number:02}" for number in range(50)]
    texts = []
    for number in range(count):
        own = rng.choices(words, k=rng.randrange(20)) if number % 3 else rng.choice(texts or ["a b c"]).split()
        for _ in range(rng.randrange(3)):
            own.insert(rng.randrange(len(own) + 1), rng.choice(words))
        texts.append(" ".join(own))
    return texts, [rng.choice([None, None, "a", "b"]) for _ in texts]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_many_bands_find_everything_that_brute_force_finds(engine, threshold):
    texts, groups = corpus(random.Random(threshold), 300)
    expected = brute_force(texts, groups, threshold)
    assert any(not kept for kept, _, _ in expected)
    assert brief(NearDuplicateIndex(threshold, 128, 128, engine=engine).offer_many(texts, groups=groups)) == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_batches_of_any_size_equal_one_text_at_a_time(engine, threshold):
    rng = random.Random(threshold)
    texts, groups = corpus(rng, 2500)
    whole = NearDuplicateIndex(threshold)
    expected = whole.offer_many(texts, groups=groups)
    index, found, at = NearDuplicateIndex(threshold, engine=engine), [], 0
    while at < len(texts):
        size = rng.choice([1, 1, 3, 40, 400])
        portion = slice(at, at + size)
        if size == 3:
            assert index.query(texts[at], group=groups[at]) == index.query(texts[at], group=groups[at])
        found += index.offer_many(texts[portion], groups=groups[portion])
        at += size
    assert found == expected
    assert index.ids == whole.ids


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_text_is_decided_and_repetitions_are_found(texts):
    index = NearDuplicateIndex()
    index.offer_many(texts)
    for text in texts:
        verdict = index.query(text)
        assert not verdict.kept or text not in texts

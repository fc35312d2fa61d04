"""Groups of near-duplicates are the connected components that brute force finds."""

import importlib.util
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.errors import UsageError
from selfinstruct.filters import group_near_duplicates
from selfinstruct.filters.minhash import groups as groups_module

ENGINES = ["numpy", "numba"] if importlib.util.find_spec("numba") else ["numpy"]


def grams(text):
    text = " ".join(text.casefold().split())
    return {text[at : at + 5] for at in range(max(1, len(text) - 4))}


def brute_force(texts, threshold):
    labels = list(range(len(texts)))
    for a in range(len(texts)):
        for b in range(a):
            one, other = grams(texts[a]), grams(texts[b])
            if len(one & other) / len(one | other) >= threshold and labels[a] != labels[b]:
                low, high = sorted((labels[a], labels[b]))
                labels = [low if label == high else label for label in labels]
    return labels


def chained(rng, count):
    """Texts of which each changes a few characters of an earlier one, so that chains of near-duplicates form."""
    texts = []
    for _ in range(count):
        text = list(rng.choice(texts)) if texts and rng.random() < 0.8 else rng.choices("abcde ", k=rng.randrange(80))
        for _ in range(rng.randrange(3)):
            text.insert(rng.randrange(len(text) + 1), rng.choice("abcde"))
        texts.append("".join(text))
    return texts


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threshold", [0.8, 0.9, 1.0])
def test_groups_are_the_components_that_brute_force_finds(engine, threshold):
    texts = chained(random.Random(threshold), 200)
    expected = brute_force(texts, threshold)
    assert len(set(expected)) < len(texts)
    assert group_near_duplicates(texts, threshold, engine=engine) == expected


@pytest.mark.parametrize("limit", [0, 10, 1000])
def test_a_limit_of_pairs_at_once_changes_nothing(monkeypatch, limit):
    monkeypatch.setattr(groups_module, "_PAIRS", limit)
    texts = [f"Write a poem about the {number % 7} seasons of the year {number}." for number in range(120)]
    texts += chained(random.Random(3), 80)
    assert group_near_duplicates(texts, 0.8) == brute_force(texts, 0.8)


@settings(max_examples=30)
@given(st.lists(st.text(max_size=12), max_size=12))
def test_any_texts_are_grouped_like_equal_ones(texts):
    labels = group_near_duplicates(texts, 1.0)
    assert [labels.index(label) for label in labels] == labels
    plain = [" ".join(text.casefold().split()) for text in texts]
    for a, one in enumerate(plain):
        for b, other in enumerate(plain[:a]):
            if one == other:
                assert labels[a] == labels[b]


def test_settings_are_checked():
    with pytest.raises(UsageError, match="threshold 0 is not above 0"):
        group_near_duplicates(["a"], 0)
    assert group_near_duplicates([]) == []

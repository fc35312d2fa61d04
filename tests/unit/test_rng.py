from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.common.rng import Rng, derive


def test_the_sequence_never_changes() -> None:
    rng = Rng("propose", 0, 17)
    assert [rng.below(1000) for _ in range(6)] == [668, 561, 206, 903, 857, 823]
    assert derive("request", 0, 17) == 1301270907


def test_parts_are_separated_in_the_seed() -> None:
    assert derive("a", "bc") != derive("ab", "c")
    assert Rng("a", 1, 23).random() != Rng("a", 12, 3).random()


@given(st.integers(), st.integers(0, 40), st.integers(0, 60))
def test_a_sample_has_distinct_items(seed: int, size: int, count: int) -> None:
    items = list(range(size))
    sample = Rng("x", seed).sample(items, count)
    assert len(sample) == min(size, count) == len(set(sample))
    assert set(sample) <= set(items)
    assert sorted(Rng("x", seed).shuffled(items)) == items


def test_samples_are_uniform() -> None:
    pairs = Counter(tuple(Rng("uniform", number).sample("abcd", 2)) for number in range(12_000))
    assert len(pairs) == 12
    assert all(abs(count - 1000) < 150 for count in pairs.values())

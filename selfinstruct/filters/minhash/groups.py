"""Groups of near-duplicates, for a split of a dataset that separates no text from its near-duplicates.

``NearDuplicateIndex`` compares a text with the kept ones only. Here every pair counts: texts are in one group if a
chain of near-duplicates connects them. Candidates share a band of their signatures (32 bands of 4 permutations): a pair
of Jaccard 0.8 shares none with a probability of 5e-8. The exact similarity decides on each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from selfinstruct.errors import UsageError
from selfinstruct.filters.engines import MANY, Engine, available
from selfinstruct.filters.minhash.bands import ROW, ROWS, pack_entries
from selfinstruct.filters.minhash.sketches import Sketcher, Sketches
from selfinstruct.filters.rouge.token_store import Longs

__all__ = ["group_near_duplicates"]

_PERMUTATIONS, _BANDS = 128, 32
_PAIRS = 1 << 22  # pairs that are compared at once, to bound memory
_ROUNDS = 8  # comparisons with one text of each bucket, before all remaining pairs are compared


def group_near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, *, shingles: str = "char5", engine: Engine = "auto"
) -> list[int]:
    """Return the group of each text: the position of the first text that a chain of near-duplicates connects with it.

    Args:
        texts: The texts. Case and the width of white space are ignored.
        threshold: As in ``NearDuplicateIndex``, like the other arguments.

    Raises:
        UsageError: A setting is invalid.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold {threshold} is not above 0 and at most 1")
    numbers: dict[str, int] = {}
    first: list[int] = []  # position of the first text of each number
    number_of = []
    for position, text in enumerate(texts):
        number = numbers.setdefault(" ".join(text.casefold().split()), len(first))
        if number == len(first):
            first.append(position)
        number_of.append(number)
    compiled = engine == "numba" or (engine == "auto" and len(first) >= MANY and available())
    grouping = _Grouping([texts[position] for position in first], threshold, shingles, compiled=compiled)
    labels = grouping.labels()
    return [first[labels[number]] for number in number_of]


class _Grouping:
    """Distinct texts, each with the label of its group: the smallest number of a text in it."""

    def __init__(self, texts: Sequence[str], threshold: float, shingles: str, *, compiled: bool) -> None:
        self._texts, self._threshold, self._compiled = texts, threshold, compiled
        self._sketcher = Sketcher(shingles, _PERMUTATIONS, _BANDS)
        self._sketches: Sketches = self._sketcher.sketch(texts, compiled=compiled)
        self._parents = list(range(len(texts)))

    def labels(self) -> list[int]:
        """Return the label of each text."""
        members, buckets = self._buckets()
        for turn in range(_ROUNDS):
            members, buckets, pairs = self._open(members, buckets)
            if pairs <= _PAIRS:
                break
            self._compare(_with_leader(members, buckets, turn / _ROUNDS))
        for some in self._crossing(members, buckets):
            self._compare(some)
        return [int(label) for label in self._labels()]

    def _buckets(self) -> tuple[Longs, Longs]:
        """Return the texts that share a band with another one, bucket after bucket, and the bucket of each."""
        numbers = np.flatnonzero(self._sketches.sizes)
        entries = pack_entries(self._sketches.keys[numbers], numbers)
        _, buckets, sizes = np.unique(entries >> ROW, return_inverse=True, return_counts=True)
        shared = sizes[buckets] > 1
        return (entries & ROWS).astype(np.int64)[shared], buckets[shared]

    def _labels(self) -> Longs:
        for number in range(len(self._parents)):  # a parent has a smaller number, so it is a label already
            self._parents[number] = self._parents[self._parents[number]]
        return np.array(self._parents, dtype=np.int64)

    def _open(self, members: Longs, buckets: Longs) -> tuple[Longs, Longs, int]:
        """Return the buckets with several labels, and how many pairs of texts in them have different labels."""
        labels = self._labels()[members]
        pairs = np.stack([buckets, labels])
        (of_bucket, _), counts = np.unique(pairs, axis=1, return_counts=True)
        is_open = np.isin(buckets, of_bucket[np.flatnonzero(np.diff(of_bucket) == 0)])
        open_counts, sizes = counts[np.isin(of_bucket, buckets[is_open])], np.bincount(buckets[is_open])
        return members[is_open], buckets[is_open], int(sizes @ sizes - open_counts @ open_counts) // 2

    def _crossing(self, members: Longs, buckets: Longs) -> Iterator[Longs]:
        """Yield the pairs of texts that share a bucket and have different labels."""
        parts: list[Longs] = []
        labels = self._labels()
        for bucket in np.split(members, np.flatnonzero(np.diff(buckets)) + 1):
            for index in range(len(bucket) - 1):
                others = bucket[index + 1 :]
                others = others[labels[others] != labels[bucket[index]]]
                parts.append(bucket[index] << np.int64(32) | others)
            if sum(map(len, parts)) > _PAIRS:
                yield np.concatenate(parts)
                parts, labels = [], self._labels()
        if parts:
            yield np.concatenate(parts)

    def _compare(self, pairs: Longs) -> None:
        """Join the labels of the pairs (text << 32 | other) that are near-duplicates."""
        texts, sketches = self._texts, self._sketches
        similar = self._sketcher.similar(
            self._threshold, pairs, texts, sketches, texts, sketches, compiled=self._compiled
        )
        for one, other, _ in similar:
            self._join(one, other)

    def _join(self, one: int, other: int) -> None:
        low, high = sorted((self._root(one), self._root(other)))
        self._parents[high] = low

    def _root(self, number: int) -> int:
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number


def _with_leader(members: Longs, buckets: Longs, share: float) -> Longs:
    """Return the pairs of each bucket's text at this share of its length with the others."""
    starts = np.flatnonzero(np.diff(buckets, prepend=-1))
    sizes = np.diff(starts, append=len(buckets))
    leaders = np.repeat(members[starts + (sizes * share).astype(np.int64)], sizes)
    others = leaders != members
    pairs: Longs = leaders[others] << np.int64(32) | members[others]
    return pairs

"""N-grams of many texts, looked up in another text: all at once, in time linear in that text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

__all__ = [
    "Longs",
    "NgramIndex",
    "NgramQuery",
    "Words",
]

Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

# The hash of a window is the sum of its tokens' values times powers of an odd base, modulo 2**64. Computed from running
# sums, it takes one subtraction and one multiplication for any length. Every hit is compared token by token, so the
# hash decides nothing.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)


def _powers(base: int, count: int) -> Words:
    powers = np.full(count + 1, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _window_starts(sizes: Longs, n: int) -> Longs:
    """Return the starts of all windows of n tokens that lie within one text, for consecutive texts of these sizes."""
    ends = np.repeat(np.cumsum(sizes), sizes)
    starts = np.arange(len(ends))
    inside: Longs = starts[starts + n <= ends]
    return inside


class _Hashes:
    """The hashes of all windows of a sequence of token numbers."""

    def __init__(self, codes: Longs) -> None:
        values = (codes + 1).astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
        values ^= values >> np.uint64(29)
        sums = np.cumsum(values * _powers(_BASE, len(codes))[: len(codes)], dtype=np.uint64)
        self._sums = np.concatenate([np.zeros(1, dtype=np.uint64), sums])
        self._inverses = _powers(_INVERSE, len(codes))

    def of(self, n: int) -> Words:
        """Return the hash of each window of n tokens."""
        if n >= len(self._sums):
            return np.zeros(0, dtype=np.uint64)
        sums: Words = self._sums[n:] - self._sums[:-n]
        return sums * self._inverses[: len(sums)]


class NgramIndex:
    """Token sequences and, for some lengths n, an index of their windows of n tokens.

    Attributes:
        sizes: Number of tokens of each sequence.
        offsets: Sequence k has the positions ``offsets[k]`` to ``offsets[k + 1]`` of all tokens.
    """

    def __init__(self, rows: Iterable[Sequence[str]]) -> None:
        rows = list(rows)
        self._numbers: dict[str | None, int] = {}
        numbers = self._numbers
        flat = (numbers.setdefault(token, len(numbers)) for token in chain.from_iterable(rows))
        self._codes: Longs = np.fromiter(flat, dtype=np.int64)
        self.sizes: Longs = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        self.offsets: Longs = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.sizes)])
        self._hashes = _Hashes(self._codes)
        self._index: dict[int, tuple[Words, Longs]] = {}

    def index(self, n: int, starts: Longs | None = None) -> None:
        """Index windows of n tokens: the ones with these starts, or by default all within one sequence."""
        starts = _window_starts(self.sizes, n) if starts is None else starts
        hashes = self._hashes.of(n)[starts]
        order = np.argsort(hashes, kind="stable")
        self._index[n] = hashes[order], starts[order]

    @property
    def lengths(self) -> list[int]:
        """Every indexed n with at least one window."""
        return [n for n, (hashes, _) in self._index.items() if len(hashes)]

    def row(self, starts: Longs) -> Longs:
        """Return the number of the sequence that each position belongs to."""
        rows: Longs = np.searchsorted(self.offsets, starts, side="right") - 1
        return rows

    def __contains__(self, token: object) -> bool:
        return token in self._numbers

    def suspects(self, texts: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
        """Return which texts may contain an indexed window: every text that does, and hardly any other."""
        get = self._numbers.get
        sizes = np.array([len(tokens) + 1 for tokens in texts], dtype=np.int64)
        # An unknown token after each text, so that no window reaches into the next.
        codes = [get(token, -1) for tokens in texts for token in chain(tokens, (None,))]
        hashes, ends = _Hashes(np.array(codes, dtype=np.int64)), np.cumsum(sizes)
        suspect = np.zeros(len(texts), dtype=bool)
        for n in self.lengths:
            indexed, wanted = self._index[n][0], hashes.of(n)
            nearest = np.minimum(np.searchsorted(indexed, wanted), len(indexed) - 1)
            suspect[np.searchsorted(ends, np.flatnonzero(indexed[nearest] == wanted), side="right")] = True
        return suspect

    def read(self, tokens: Sequence[str]) -> NgramQuery:
        """Return a query for a text."""
        get = self._numbers.get
        return NgramQuery(self, np.array([get(token, -1) for token in tokens], dtype=np.int64))


class NgramQuery:
    """A text to look up in the index, as token numbers; a token that no sequence contains is -1."""

    def __init__(self, grams: NgramIndex, codes: Longs) -> None:
        self._grams, self._codes = grams, codes
        self._hashes = _Hashes(codes)

    def find(self, n: int) -> tuple[Longs, Longs]:
        """Find the windows of n tokens that the text shares with the sequences.

        Returns:
            The starts of the windows in the sequences, distinct and ascending, and for each the start of the first
            equal window in the text.
        """
        indexed, starts = self._grams._index[n]
        hashes, first = np.unique(self._hashes.of(n), return_index=True)
        low, high = np.searchsorted(indexed, hashes), np.searchsorted(indexed, hashes, side="right")
        counts = high - low
        hit = counts > 0
        if not hit.any():
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        counts, low, mine = counts[hit], low[hit], first[hit]
        ends = np.cumsum(counts)
        theirs = starts[np.repeat(low - (ends - counts), counts) + np.arange(ends[-1])]
        mine = np.repeat(mine, counts)
        same = np.ones(len(theirs), dtype=bool)
        for step in range(n):
            same &= self._grams._codes[theirs + step] == self._codes[mine + step]
        theirs, mine = theirs[same], mine[same]
        order = np.argsort(theirs, kind="stable")
        return theirs[order], mine[order]

    def runs(self, n: int, starts: Longs) -> list[tuple[int, int]]:
        """Return the ranges of the text's tokens that windows with these starts cover, disjoint and in order."""
        wanted = np.unique(self._grams._hashes.of(n)[starts])
        matches = np.flatnonzero(np.isin(self._hashes.of(n), wanted))
        if not len(matches):
            return []
        breaks = np.flatnonzero(np.diff(matches) > n)
        begins = np.append(matches[:1], matches[breaks + 1])
        ends = np.append(matches[breaks], matches[-1:]) + n
        return list(zip(begins.tolist(), ends.tolist(), strict=True))

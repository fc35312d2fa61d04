"""Runs of n tokens of many texts, looked up in another text: all at once, in time linear in that text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

__all__ = ["Grams", "Longs", "Words", "positions"]

Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

# A window's hash is the sum of its tokens' values times powers of an odd base, modulo 2**64: from running sums it takes
# one subtraction and one multiplication, whatever its length. Every hit is compared token by token, so that the hash
# decides nothing.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)


def _powers(base: int, count: int) -> Words:
    powers = np.full(count + 1, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def positions(sizes: Longs, n: int) -> Longs:
    """Where windows of n tokens begin that lie within one of the texts, for texts one after the other."""
    ends = np.repeat(np.cumsum(sizes), sizes)
    at = np.arange(len(ends))
    found: Longs = at[at + n <= ends]
    return found


class _Hashes:
    """Hashes of all windows of a sequence of token numbers."""

    def __init__(self, codes: Longs) -> None:
        values = (codes + 1).astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
        values ^= values >> np.uint64(29)
        sums = np.cumsum(values * _powers(_BASE, len(codes))[: len(codes)], dtype=np.uint64)
        self._sums = np.concatenate([np.zeros(1, dtype=np.uint64), sums])
        self._inverses = _powers(_INVERSE, len(codes))

    def of(self, n: int) -> Words:
        """Hash of each window of n tokens."""
        if n >= len(self._sums):
            return np.zeros(0, dtype=np.uint64)
        sums: Words = self._sums[n:] - self._sums[:-n]
        return sums * self._inverses[: len(sums)]


class Grams:
    """Token sequences and, for some lengths n, an index of their windows of n tokens.

    Attributes:
        offsets: Sequence k has the places ``offsets[k]`` to ``offsets[k + 1]`` of all tokens.
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

    def index(self, n: int, places: Longs | None = None) -> None:
        """Make windows of n tokens known: those at some places, or all that lie within one sequence."""
        places = positions(self.sizes, n) if places is None else places
        hashes = self._hashes.of(n)[places]
        order = np.argsort(hashes, kind="stable")
        self._index[n] = hashes[order], places[order]

    @property
    def lengths(self) -> list[int]:
        """Every n that is indexed and has a window."""
        return [n for n, (hashes, _) in self._index.items() if len(hashes)]

    def row(self, places: Longs) -> Longs:
        """The sequence that each place lies in."""
        found: Longs = np.searchsorted(self.offsets, places, side="right") - 1
        return found

    def __contains__(self, token: object) -> bool:
        return token in self._numbers

    def suspects(self, texts: Sequence[Sequence[str]]) -> npt.NDArray[np.bool_]:
        """Which texts may have an indexed window: all that have one, and next to no other. Cheap for many texts."""
        get = self._numbers.get
        sizes = np.array([len(tokens) + 1 for tokens in texts], dtype=np.int64)
        # An unknown token after each text, so that no window reaches into the next.
        codes = [get(token, -1) for tokens in texts for token in chain(tokens, (None,))]
        hashes, ends = _Hashes(np.array(codes, dtype=np.int64)), np.cumsum(sizes)
        found = np.zeros(len(texts), dtype=bool)
        for n in self.lengths:
            known, wanted = self._index[n][0], hashes.of(n)
            place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            found[np.searchsorted(ends, np.flatnonzero(known[place] == wanted), side="right")] = True
        return found

    def read(self, tokens: Sequence[str]) -> Query:
        """A text, ready to be looked up."""
        get = self._numbers.get
        return Query(self, np.array([get(token, -1) for token in tokens], dtype=np.int64))


class Query:
    """A text's token numbers (-1 for a token that no sequence has) against the index."""

    def __init__(self, grams: Grams, codes: Longs) -> None:
        self._grams, self._codes = grams, codes
        self._hashes = _Hashes(codes)

    def find(self, n: int) -> tuple[Longs, Longs]:
        """Windows of n tokens that both have.

        Returns:
            Places in the sequences, each once and in order, and the place of the first such window in the text.
        """
        known, places = self._grams._index[n]
        hashes, first = np.unique(self._hashes.of(n), return_index=True)
        low, high = np.searchsorted(known, hashes), np.searchsorted(known, hashes, side="right")
        counts = high - low
        hit = counts > 0
        if not hit.any():
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        counts, low, mine = counts[hit], low[hit], first[hit]
        ends = np.cumsum(counts)
        theirs = places[np.repeat(low - (ends - counts), counts) + np.arange(ends[-1])]
        mine = np.repeat(mine, counts)
        same = np.ones(len(theirs), dtype=bool)
        for step in range(n):
            same &= self._grams._codes[theirs + step] == self._codes[mine + step]
        theirs, mine = theirs[same], mine[same]
        order = np.argsort(theirs, kind="stable")
        return theirs[order], mine[order]

    def runs(self, n: int, places: Longs) -> list[tuple[int, int]]:
        """Where this text has one of these windows of n tokens: ranges of its tokens, apart and in order."""
        wanted = np.unique(self._grams._hashes.of(n)[places])
        at = np.flatnonzero(np.isin(self._hashes.of(n), wanted))
        if not len(at):
            return []
        breaks = np.flatnonzero(np.diff(at) > n)
        starts, ends = np.append(at[:1], at[breaks + 1]), np.append(at[breaks], at[-1:]) + n
        return list(zip(starts.tolist(), ends.tolist(), strict=True))

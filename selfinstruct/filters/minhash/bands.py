"""Banded locality-sensitive hashing in sorted arrays: 8 bytes for each band of each row.

An entry is a key of 33 bits above a row of 31. Look-ups are merges of two sorted arrays.
"""

from __future__ import annotations

import numpy as np

from selfinstruct.filters.engines import minhash_kernels
from selfinstruct.filters.hashing import Hashes, mix
from selfinstruct.filters.minhash.signatures import Signatures
from selfinstruct.filters.rouge.store import Longs

__all__ = ["Bands", "Hits", "band_keys", "packed", "pairs_of", "renumbered"]

ROW = np.uint64(31)  # bits of a row; the other 33 are its key
ROWS = np.uint64((1 << 31) - 1)
MANY = 64  # rows that are sorted at once
RECENT = 1024  # rows added in smaller numbers, kept in a dict until they are worth sorting


def band_keys(found: Signatures, bands: int, *, compiled: bool = False) -> Hashes:
    """A key of 33 bits for each band of each signature, different for different bands: shape (texts, bands).

    Permutations that no band of equal width needs are left over (8 of 128 with 20 bands). Keys of different bands may
    agree by chance; whoever looks them up verifies what is found.
    """
    if compiled:
        made: Hashes = minhash_kernels().band_keys(found, bands)
        return made
    width = found.shape[1] // bands
    cut = found[:, : bands * width].reshape(len(found), bands, width).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), cut.shape[:2])
    for k in range(width):
        keys = mix(keys * np.uint64(0x9E3779B97F4A7C15) ^ cut[:, :, k])
    return keys >> ROW


def packed(keys: Hashes, rows: Longs) -> Hashes:
    """Sorted entries of rows with these keys, shape (rows, bands)."""
    entries = (keys << ROW | rows.astype(np.uint64)[:, None]).ravel()
    entries.sort()
    return entries


class Hits:
    """What some entries share a key with in a run: found, but not yet written out.

    Attributes:
        count: Pairs of an entry and an entry of the run.
    """

    def __init__(self, run: Hashes, entries: Hashes, *, compiled: bool = False) -> None:
        if compiled:
            start, count = minhash_kernels().ranges(run, entries)
        else:
            start, count = _ranges(run, entries)
        hit = np.flatnonzero(count)
        self._run = run
        self._start, self._count = start[hit], count[hit]
        self._text = (entries[hit] & ROWS).astype(np.int64)
        self.count = int(self._count.sum())

    def pairs(self) -> Longs:
        """Pairs text << 32 | row, repeated where they share several keys."""
        ends = np.cumsum(self._count)
        at = np.repeat(self._start - ends + self._count, self._count) + np.arange(self.count)
        found: Longs = np.repeat(self._text, self._count) << np.int64(32) | (self._run[at] & ROWS).astype(np.int64)
        return found


def _ranges(run: Hashes, entries: Hashes) -> tuple[Longs, Longs]:
    """Start and number of the entries of a sorted run that have the key of each sorted entry."""
    first = entries >> ROW << ROW
    start = run.searchsorted(first)
    found = np.zeros(len(entries), dtype=bool)
    inside = np.flatnonzero(start < len(run))
    found[inside] = run[start[inside]] <= first[inside] | ROWS
    count = np.zeros(len(entries), dtype=np.int64)
    count[found] = run.searchsorted(first[found] | ROWS, side="right") - start[found]
    return start, count


class Bands:
    """The entries of a pool's rows: sorted runs that are merged as they grow, and a dict of the latest."""

    def __init__(self, run: Hashes | None = None) -> None:
        self._runs: list[Hashes] = [] if run is None else [run]
        self._recent: dict[int, list[int]] = {}
        self._count = 0

    def add(self, entries: Hashes, rows: int) -> None:
        """Add the sorted entries of so many new rows."""
        if rows >= MANY:
            self._push(entries)
            return
        for entry in entries.tolist():
            self._recent.setdefault(entry >> 31, []).append(entry & ((1 << 31) - 1))
        self._count += rows
        if self._count > RECENT:
            self._settle()

    def _settle(self) -> None:
        entries = [key << 31 | row for key, rows in self._recent.items() for row in rows]
        self._recent, self._count = {}, 0
        if entries:
            run = np.array(entries, dtype=np.uint64)
            run.sort()
            self._push(run)

    def _push(self, run: Hashes) -> None:
        """Add a run; merge runs so that each is at least four times the next.

        A merge holds both copies: 8 bytes more for each band of each row, for a moment.
        """
        smaller = [run]
        size = len(run)
        while self._runs and len(self._runs[-1]) < 4 * size:
            smaller.append(self._runs.pop())
            size += len(smaller[-1])
        if len(smaller) > 1:
            run = np.concatenate(smaller[::-1])
            smaller.clear()  # before sorting, which takes memory of its own
            run.sort(kind="stable")  # timsort: merges what is sorted already
        self._runs.append(run)

    def whole(self) -> Hashes:
        """All entries as one sorted array, from which ``Bands`` can be made again."""
        self._settle()
        run = np.concatenate([np.zeros(0, dtype=np.uint64), *self._runs])
        run.sort(kind="stable")
        return run

    def selected(self, rows: Longs) -> Bands:
        """The entries of some rows, ascending, which are numbered from 0 on."""
        return Bands(renumbered(self.whole(), rows, 0))

    def look_up(self, entries: Hashes, *, compiled: bool = False) -> list[Hits]:
        """The pool's rows that share a key with sorted entries."""
        found = [Hits(run, entries, compiled=compiled) for run in self._runs]
        if self._recent:
            found += self._latest(entries)
        return found

    def _latest(self, entries: Hashes) -> list[Hits]:
        keys = (entries >> ROW).tolist()
        rows = [key << 31 | row for key in dict.fromkeys(keys) for row in self._recent.get(key, ())]
        return [Hits(np.array(rows, dtype=np.uint64), entries)] if rows else []


def pairs_of(found: list[Hits]) -> Longs:
    """All pairs (text << 32 | row), with repetition."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *(one.pairs() for one in found if one.count)])


def renumbered(entries: Hashes, texts: Longs, start: int) -> Hashes:
    """The sorted entries of some texts, ascending, which become the rows from ``start`` on."""
    own = (entries & ROWS).astype(np.int64)
    place = texts.searchsorted(own)
    place[place == len(texts)] = 0
    left = texts[place] == own if len(texts) else np.zeros(len(entries), dtype=bool)
    found: Hashes = entries[left] & ~ROWS | (place[left] + start).astype(np.uint64)
    return found

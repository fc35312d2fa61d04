"""Banded locality-sensitive hashing in sorted arrays: 8 bytes per band and row.

An entry holds a key in its upper 33 bits and a row in its lower 31. A look-up merges two sorted arrays.
"""

from __future__ import annotations

import numpy as np

from selfinstruct.filters.engines import minhash_kernels
from selfinstruct.filters.hashing import Hashes, mix
from selfinstruct.filters.minhash.signatures import Signatures
from selfinstruct.filters.rouge.token_store import Longs

__all__ = ["Bands", "Hits", "band_keys", "pack_entries", "pairs_of", "renumber"]

ROW = np.uint64(31)  # bits of the row; the other 33 hold the key
ROWS = np.uint64((1 << 31) - 1)
MANY = 64  # rows that are worth sorting at once
RECENT = 1024  # rows added in smaller numbers, kept in a dict until they are worth sorting


def band_keys(signatures: Signatures, bands: int, *, compiled: bool = False) -> Hashes:
    """Return a key of 33 bits for each band of each signature, shape (texts, bands).

    Bands have equal width, so some permutations may be unused (8 of 128 with 20 bands). Equal keys do not prove equal
    bands: the caller verifies every match.
    """
    if compiled:
        compiled_keys: Hashes = minhash_kernels().band_keys(signatures, bands)
        return compiled_keys
    width = signatures.shape[1] // bands
    cut = signatures[:, : bands * width].reshape(len(signatures), bands, width).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), cut.shape[:2])
    for k in range(width):
        keys = mix(keys * np.uint64(0x9E3779B97F4A7C15) ^ cut[:, :, k])
    return keys >> ROW


def pack_entries(keys: Hashes, rows: Longs) -> Hashes:
    """Return the sorted entries of rows with these keys; ``keys`` has shape (rows, bands)."""
    entries = (keys << ROW | rows.astype(np.uint64)[:, None]).ravel()
    entries.sort()
    return entries


class Hits:
    """The matches of some entries in a run, as ranges that are not yet expanded to pairs.

    Attributes:
        count: Number of pairs of an entry and an entry of the run with the same key.
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
        """Return the pairs as text << 32 | row; a pair that shares several keys is repeated."""
        ends = np.cumsum(self._count)
        positions = np.repeat(self._start - ends + self._count, self._count) + np.arange(self.count)
        rows = (self._run[positions] & ROWS).astype(np.int64)
        pairs: Longs = np.repeat(self._text, self._count) << np.int64(32) | rows
        return pairs


def _ranges(run: Hashes, entries: Hashes) -> tuple[Longs, Longs]:
    """Return, for each sorted entry, start and number of the entries of a sorted run with the same key."""
    first = entries >> ROW << ROW
    start = run.searchsorted(first)
    matches = np.zeros(len(entries), dtype=bool)
    inside = np.flatnonzero(start < len(run))
    matches[inside] = run[start[inside]] <= first[inside] | ROWS
    count = np.zeros(len(entries), dtype=np.int64)
    count[matches] = run.searchsorted(first[matches] | ROWS, side="right") - start[matches]
    return start, count


class Bands:
    """The entries of a pool's rows: sorted runs, which are merged as they grow, and a dict of the latest entries."""

    def __init__(self, run: Hashes | None = None) -> None:
        self._runs: list[Hashes] = [] if run is None else [run]
        self._recent: dict[int, list[int]] = {}
        self._count = 0

    def add(self, entries: Hashes, rows: int) -> None:
        """Add the sorted entries of new rows; ``rows`` is their number."""
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
        """Add a run, and merge runs so that each is at least four times as long as the next.

        A merge temporarily holds two copies, which takes 8 more bytes per band and row.
        """
        smaller = [run]
        size = len(run)
        while self._runs and len(self._runs[-1]) < 4 * size:
            smaller.append(self._runs.pop())
            size += len(smaller[-1])
        if len(smaller) > 1:
            run = np.concatenate(smaller[::-1])
            smaller.clear()  # before sorting, which needs memory as well
            run.sort(kind="stable")  # timsort: merges parts that are sorted already
        self._runs.append(run)

    def merged(self) -> Hashes:
        """Return all entries as one sorted array, from which ``Bands`` can be constructed."""
        self._settle()
        run = np.concatenate([np.zeros(0, dtype=np.uint64), *self._runs])
        run.sort(kind="stable")
        return run

    def selected(self, rows: Longs) -> Bands:
        """Return the entries of some rows, ascending, which are renumbered from 0."""
        return Bands(renumber(self.merged(), rows, 0))

    def look_up(self, entries: Hashes, *, compiled: bool = False) -> list[Hits]:
        """Return the matches of sorted entries with the pool's rows."""
        hits = [Hits(run, entries, compiled=compiled) for run in self._runs]
        if self._recent:
            hits += self._latest(entries)
        return hits

    def _latest(self, entries: Hashes) -> list[Hits]:
        keys = (entries >> ROW).tolist()
        rows = [key << 31 | row for key in dict.fromkeys(keys) for row in self._recent.get(key, ())]
        return [Hits(np.array(rows, dtype=np.uint64), entries)] if rows else []


def pairs_of(matches: list[Hits]) -> Longs:
    """Return all pairs (text << 32 | row), with repetition."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *(hits.pairs() for hits in matches if hits.count)])


def renumber(entries: Hashes, texts: Longs, start: int) -> Hashes:
    """Return the sorted entries of some texts, ascending, which become the rows from ``start`` on."""
    old = (entries & ROWS).astype(np.int64)
    new = texts.searchsorted(old)
    new[new == len(texts)] = 0
    selected = texts[new] == old if len(texts) else np.zeros(len(entries), dtype=bool)
    renumbered: Hashes = entries[selected] & ~ROWS | (new[selected] + start).astype(np.uint64)
    return renumbered

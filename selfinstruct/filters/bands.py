"""Banded locality-sensitive hashing in sorted arrays: 8 bytes for each band of each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfinstruct.filters.shingles import Hashes, mix
from selfinstruct.filters.signatures import Signatures
from selfinstruct.filters.store import Longs, distinct

__all__ = ["Bands", "band_keys", "pairs_within"]

ROW = np.uint64(31)  # bits of a row; the other 33 are its key
ROWS = np.uint64((1 << 31) - 1)
MANY = 64  # rows that are sorted at once
RECENT = 1024  # rows added in smaller numbers, kept in a dict until they are worth sorting


def band_keys(found: Signatures, bands: int) -> Hashes:
    """A key of 33 bits for each band of each signature, different for different bands: shape (texts, bands).

    Permutations that no band of equal width needs are left over (8 of 128 with 20 bands). Keys of different bands may
    agree by chance; whoever looks them up verifies what is found.
    """
    width = found.shape[1] // bands
    cut = found[:, : bands * width].reshape(len(found), bands, width).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), cut.shape[:2])
    for k in range(width):
        keys = mix(keys * np.uint64(0x9E3779B97F4A7C15) ^ cut[:, :, k])
    return keys >> ROW


def _packed(keys: Hashes, rows: Longs) -> Hashes:
    """Keys (rows, bands) and their rows as one sorted array."""
    packed = (keys << ROW | rows.astype(np.uint64)[:, None]).ravel()
    packed.sort()
    return packed


def _hits(run: Hashes, keys: Hashes) -> Longs:
    """Pairs (text << 32 | row) of the texts with these keys, shape (texts, bands), and the rows of a run."""
    flat = keys.ravel()
    order = np.argsort(flat)  # looking up in order is several times faster
    first = flat[order] << ROW
    start = np.searchsorted(run, first)
    count = np.searchsorted(run, first + ROWS, side="right") - start
    hit = np.flatnonzero(count)
    start, count, text = start[hit], count[hit], order[hit] // keys.shape[1]
    ends = np.cumsum(count)
    at = np.repeat(start - ends + count, count) + np.arange(ends[-1] if len(ends) else 0)
    found: Longs = np.repeat(text, count) << np.int64(32) | (run[at] & ROWS).astype(np.int64)
    return found


def pairs_within(keys: Hashes, rows: Longs) -> Longs:
    """Sorted distinct pairs (later << 32 | earlier) of texts that share a key, the earlier one among ``rows``."""
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    pairs = distinct(_hits(_packed(keys[rows], rows), keys))
    return pairs[(pairs & 0xFFFFFFFF) < (pairs >> 32)]


class Bands:
    """The keys of a pool's rows: sorted runs that are merged as they grow, and a dict of the latest."""

    def __init__(self, run: Hashes | None = None) -> None:
        self._runs: list[Hashes] = [] if run is None else [run]
        self._recent: dict[int, list[int]] = {}
        self._count = 0

    def add(self, keys: Hashes, start: int) -> None:
        """Add consecutive rows."""
        if len(keys) >= MANY:
            self._push(_packed(keys, np.arange(start, start + len(keys))))
            return
        for row, own in enumerate(keys.tolist(), start):
            for key in own:
                self._recent.setdefault(key, []).append(row)
        self._count += len(keys)
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
        """Add a run; merge runs so that each is at least four times the next."""
        while self._runs and len(self._runs[-1]) < 4 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort()
        self._runs.append(run)

    def whole(self) -> Hashes:
        """All keys as one sorted array, from which ``Bands`` can be made again."""
        self._settle()
        run = np.concatenate([np.zeros(0, dtype=np.uint64), *self._runs])
        run.sort()
        return run

    def candidates(self, keys: Hashes) -> Longs:
        """Sorted distinct pairs (text << 32 | row) that share a key."""
        found = [_hits(run, keys) for run in self._runs]
        if self._recent:
            found.append(self._latest(keys.tolist()))
        return distinct(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)

    def _latest(self, keys: Sequence[Sequence[int]]) -> Longs:
        hits = [text << 32 | row for text, own in enumerate(keys) for key in own for row in self._recent.get(key, ())]
        return np.array(hits, dtype=np.int64)

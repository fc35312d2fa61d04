"""Machine code for MinHash: shingle sets, signatures, bands and intersections. Importing this module imports numba.

Every function gives the same result as its counterpart in numpy, except that sets are in order of first appearance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from selfinstruct.filters.numba_compile import compiled as _compiled
from selfinstruct.filters.rouge.token_store import Longs, Words

__all__ = [
    "band_keys",
    "close_pairs",
    "collapsed",
    "least_of_permutations",
    "ranges",
    "sets_of_units",
    "shared_of_pairs",
]

UInts = np.ndarray[Any, np.dtype[np.uint32]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

ZERO, ONE = np.uint64(0), np.uint64(1)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ROW = np.uint64(31)
BLANK = np.uint32(ord(" ") + 1)


@_compiled
def _mix(x: np.uint64) -> np.uint64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@_compiled
def _ones(x: np.uint64) -> int:
    x = x - ((x >> ONE) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@_compiled
def _table(longest: int) -> Longs:
    """Return a hash table that is at most half full with this number of values."""
    size = 64
    while size < 2 * longest:
        size *= 2
    return np.zeros(size, dtype=np.int64)


@_compiled
def _mask(count: int) -> np.uint64:
    """Return the mask for the part of a table that this number of values needs: a small part fits into the cache."""
    size = 64
    while size < 2 * count:
        size *= 2
    return np.uint64(size - 1)


@_compiled
def collapsed(codes: UInts, offsets: Longs, folded: UInts) -> tuple[UInts, Longs]:
    """Collapse white space; see ``shingles._collapsed``."""
    values = np.empty(len(codes), dtype=np.uint32)
    ends = np.zeros(len(offsets), dtype=np.int64)
    end = 0
    for text in range(len(offsets) - 1):
        blank = False
        for position in range(offsets[text], offsets[text + 1]):
            code = codes[position]
            value = folded[code] if code < len(folded) else np.uint32(code + np.uint32(1))
            if blank and value == BLANK:
                continue
            blank = value == BLANK
            values[end] = value
            end += 1
        ends[text + 1] = end
    return values[:end], ends


@_compiled
def _hash(units: Any, start: int, last: int, n: int, bits: int) -> np.uint64:
    """Return the hash of the run of n units from ``start``; units from ``last`` on count as 0."""
    if n == 5 and bits == 21 and start + 5 <= last:  # the common case, without loops
        word = np.uint64(units[start]) | np.uint64(units[start + 1]) << np.uint64(21)
        value = _mix(word | np.uint64(units[start + 2]) << np.uint64(42))
        return _mix(value * GOLDEN ^ (np.uint64(units[start + 3]) | np.uint64(units[start + 4]) << np.uint64(21)))
    value, k, room = ZERO, 0, 64 // bits
    while k < n:
        word = ZERO
        for j in range(min(room, n - k)):
            if start + k + j < last:
                word |= np.uint64(units[start + k + j]) << np.uint64(bits * j)
        value = _mix(value * GOLDEN ^ word)
        k += room
    return value


@_compiled
def sets_of_units(units: Any, offsets: Longs, n: int, bits: int, keep: np.uint64) -> tuple[Words, Longs, Words]:
    """Return the distinct hashes of the runs of n units of each text; see ``Units.runs`` and ``shingle_sets``.

    Returns:
        The sets, concatenated; their offsets; their parities.
    """
    texts = len(offsets) - 1
    total, longest = 0, 0
    for text in range(texts):
        count = max(offsets[text + 1] - offsets[text] - n + 1, 1)
        total += count
        longest = max(longest, count)
    hashes = np.empty(total, dtype=np.uint64)
    ends = np.zeros(texts + 1, dtype=np.int64)
    parities = np.zeros((texts, 8), dtype=np.uint64)
    table = _table(longest)  # for each hash its position in ``hashes``, plus one; values up to ``base`` are stale
    end = 0
    for text in range(texts):
        first, last = offsets[text], offsets[text + 1]
        count = max(last - first - n + 1, 1)
        mask = _mask(count)
        base = end
        for start in range(first, first + count):
            value = _hash(units, start, last, n, bits) & keep
            slot = value & mask
            while table[slot] > base and hashes[table[slot] - 1] != value:
                slot = (slot + ONE) & mask
            if table[slot] <= base:
                hashes[end] = value
                end += 1
                table[slot] = end
                parities[text, (value >> np.uint64(6)) & np.uint64(7)] ^= ONE << (value & np.uint64(63))
        ends[text + 1] = end
    return hashes[:end].copy(), ends, parities


@_compiled
def least_of_permutations(mixed: UInts, offsets: Longs, parameters: UInts) -> UInts:
    """Return the least value of each permutation over each set, shape (sets, permutations); see ``signatures``.

    Args:
        mixed: Finalized hashes of all sets, concatenated.
        offsets: Offsets of the sets in them.
        parameters: See ``permutations``.
    """
    a, b = parameters[0], parameters[1]
    minima = np.full((len(offsets) - 1, len(a)), 0xFFFFFFFF, dtype=np.uint32)
    for row in range(len(offsets) - 1):
        least = minima[row]
        for position in range(offsets[row], offsets[row + 1]):
            value = mixed[position]
            for k in range(len(a)):
                least[k] = min(least[k], np.uint32(a[k] * value + b[k]))
    return minima


@_compiled
def band_keys(signatures: UInts, bands: int) -> Words:
    """Return the keys of the bands; see ``bands.band_keys``."""
    width = signatures.shape[1] // bands
    keys = np.empty((len(signatures), bands), dtype=np.uint64)
    for row in range(len(signatures)):
        for band in range(bands):
            key = np.uint64(band + 1)
            for k in range(width):
                key = _mix(key * GOLDEN ^ np.uint64(signatures[row, band * width + k]))
            keys[row, band] = key >> ROW
    return keys


@_compiled
def ranges(run: Words, packed: Words) -> tuple[Longs, Longs]:
    """Return, for each sorted entry, start and number of the entries of a sorted run with the same key."""
    starts, counts = np.zeros(len(packed), dtype=np.int64), np.zeros(len(packed), dtype=np.int64)
    position, size = 0, len(run)
    for entry in range(len(packed)):
        key = packed[entry] >> ROW
        if entry and key == packed[entry - 1] >> ROW:
            starts[entry], counts[entry] = starts[entry - 1], counts[entry - 1]
            continue
        step = 1  # galloping search: double the step until it overshoots, then bisect
        while position + step < size and run[position + step - 1] >> ROW < key:
            position += step
            step *= 2
        low, high = position, min(position + step, size)
        while low < high:
            middle = (low + high) >> 1
            if run[middle] >> ROW < key:
                low = middle + 1
            else:
                high = middle
        position = low
        end = position
        while end < size and run[end] >> ROW == key:
            end += 1
        starts[entry], counts[entry] = position, end - position
    return starts, counts


@_compiled
def close_pairs(
    threshold: float,
    first: Longs,
    second: Longs,
    sizes: Longs,
    parities: Words,
    other_sizes: Longs,
    other_parities: Words,
) -> Flags:
    """Return which pairs can reach the threshold; see ``sketches.close_pairs``."""
    near = np.zeros(len(first), dtype=np.bool_)
    for k in range(len(first)):
        a, b = first[k], second[k]
        total = sizes[a] + other_sizes[b]
        shared = min(sizes[a], other_sizes[b])
        if shared / (total - shared) < threshold:
            continue
        differ = 0
        for w in range(8):
            differ += _ones(parities[a, w] ^ other_parities[b, w])
        shared = min(shared, (total - differ) >> 1)
        near[k] = shared / (total - shared) >= threshold
    return near


@_compiled
def shared_of_pairs(
    left: Words, left_offsets: Longs, first: Longs, right: Words, right_offsets: Longs, second: Longs
) -> Longs:
    """Return the number of common elements of set ``first[k]`` on the left and ``second[k]`` on the right.

    It is fastest if equal values of ``first`` are adjacent.
    """
    common = np.zeros(len(first), dtype=np.int64)
    longest = 0
    for k in range(len(first)):
        longest = max(longest, left_offsets[first[k] + 1] - left_offsets[first[k]])
    table = _table(longest)
    entered, mask = -1, ZERO
    for k in range(len(first)):
        if first[k] != entered:
            if entered >= 0:
                table[: int(mask) + 1] = 0
            entered = first[k]
            mask = _mask(left_offsets[entered + 1] - left_offsets[entered])
            for position in range(left_offsets[entered], left_offsets[entered + 1]):
                slot = left[position] & mask
                while table[slot]:
                    slot = (slot + ONE) & mask
                table[slot] = position + 1
        shared = 0
        for position in range(right_offsets[second[k]], right_offsets[second[k] + 1]):
            value = right[position]
            slot = value & mask
            while table[slot] and left[table[slot] - 1] != value:
                slot = (slot + ONE) & mask
            shared += table[slot] > 0
        common[k] = shared
    return common

"""A text as a set of shingles, each a 64-bit hash.

Shingles are runs of n characters, or of n words. Case and the width of white space make no difference. A text shorter
than n is one shingle, itself; so is the empty text, which therefore duplicates only another empty one.

Sets keep 54 bits of each: different shingles then have different hashes but for a chance of 2**-54 a pair of shingles,
which is what "exact" Jaccard means here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import regex
import xxhash

__all__ = ["Hashes", "Offsets", "char_shingles", "jaccard", "parity", "shared_by", "shingle_sets", "word_shingles"]

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

_UTF32 = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}]+")
HASH_BITS, HASH_MASK = np.uint64(54), np.uint64((1 << 54) - 1)
TEXTS = 1 << 10  # whose numbers fit above a hash
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: Hashes) -> Hashes:
    """The finalizer of splitmix64, a bijection on 64 bits (Steele, Lea, Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _windows(offsets: Offsets, n: int) -> tuple[npt.NDArray[np.int64], Offsets]:
    """Start of every run of n units within one text, and the offsets of the runs of each text.

    A text of fewer than n units, which cannot be empty, has one run, that ends with the text.
    """
    sizes = np.diff(offsets)
    counts = np.maximum(sizes - n + 1, 1)
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    place = np.arange(starts[-1]) + np.repeat(offsets[:-1] - starts[:-1], counts)
    return place, starts


def _runs(units: npt.NDArray[np.uint64], offsets: Offsets, n: int, bits: int) -> tuple[Hashes, Offsets]:
    """Hash of every run of n units of at most ``bits`` bits each."""
    place, starts = _windows(offsets, n)
    # Units that a short text lacks read as 0; no real unit is 0.
    padded = np.concatenate([units, np.zeros(n, dtype=np.uint64)])
    short = np.flatnonzero(np.diff(offsets) < n)
    hashes = np.zeros(len(place), dtype=np.uint64)
    word = np.zeros(len(place), dtype=np.uint64)
    ends = None
    if len(short):
        ends = np.full(len(place), len(padded), dtype=np.int64)
        ends[starts[short]] = offsets[short + 1]
    room = 64 // bits
    for k in range(n):
        values = padded[place + k]
        if ends is not None:
            values[place + k >= ends] = 0
        word |= values << np.uint64(bits * (k % room))
        if k % room == room - 1 or k == n - 1:
            hashes = mix(hashes * _GOLDEN ^ word)
            word = np.zeros_like(word)
    return hashes, starts


def char_shingles(texts: Sequence[str], n: int = 5) -> tuple[Hashes, Offsets]:
    """Runs of n characters of each text.

    Returns:
        hashes: Of all texts one after the other, in order of place, repeated where a text repeats itself.
        offsets: Shape (len(texts) + 1,); text i has ``hashes[offsets[i]:offsets[i + 1]]``.
    """
    folded = [" ".join(text.casefold().split()) or "\0" for text in texts]
    joined = "".join(folded)
    # 1 is added so that no character reads as the 0 that pads; lone surrogates are data like any other.
    units = np.frombuffer(joined.encode(_UTF32, "surrogatepass"), dtype=np.uint32).astype(np.uint64) + np.uint64(1)
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, folded), dtype=np.int64, count=len(folded)), out=offsets[1:])
    return _runs(units, offsets, n, 21)  # a code point has 21 bits: three to a word


def word_shingles(texts: Sequence[str], n: int = 3) -> tuple[Hashes, Offsets]:
    """Runs of n words (letters, marks and numbers of any script) of each text; as ``char_shingles`` else."""
    words = [_WORDS.findall(text.casefold()) or [text.strip()] for text in texts]
    hashed = (xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) | 1 for row in words for word in row)
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, words), dtype=np.int64, count=len(words)), out=offsets[1:])
    units = np.fromiter(hashed, dtype=np.uint64, count=int(offsets[-1]))
    return _runs(units, offsets, n, 64)


def shingle_sets(hashes: Hashes, offsets: Offsets) -> list[Hashes]:
    """The distinct hashes of each text, of 54 bits, sorted."""
    found: list[Hashes] = []
    for start in range(0, len(offsets) - 1, TEXTS):
        part = offsets[start : start + TEXTS + 1]
        text = np.repeat(np.arange(len(part) - 1, dtype=np.uint64), np.diff(part))
        # One sort for many texts: the text's number stands above the hash.
        packed = text << HASH_BITS | hashes[part[0] : part[-1]] & HASH_MASK
        packed.sort()
        packed = packed[np.append(True, packed[1:] != packed[:-1])] if len(packed) else packed
        ends = np.searchsorted(packed >> HASH_BITS, np.arange(len(part) - 1), side="right")
        found += np.split(packed & HASH_MASK, ends[:-1])
    return found


def parity(sets: Sequence[Hashes]) -> Hashes:
    """XOR, over each set, of one of 512 bits chosen by the hash; shape (sets, 8).

    The bits in which two of them differ are at most as many as the elements that only one of the sets has.
    """
    sizes = np.fromiter(map(len, sets), dtype=np.int64, count=len(sets))
    found = np.zeros((len(sets), 8), dtype=np.uint64)
    filled = np.flatnonzero(sizes)
    if len(filled):
        joined = np.concatenate(sets)
        starts = np.cumsum(sizes)[filled] - sizes[filled]
        word, bit = joined >> np.uint64(6) & np.uint64(7), np.uint64(1) << (joined & np.uint64(63))
        for k in range(8):
            found[filled, k] = np.bitwise_xor.reduceat(np.where(word == k, bit, np.uint64(0)), starts)
    return found


def jaccard(a: Hashes, b: Hashes) -> float:
    """Size of the intersection over size of the union of two sorted sets of hashes."""
    shared = shared_by(a, b)
    return shared / (len(a) + len(b) - shared)


def shared_by(a: Hashes, b: Hashes) -> int:
    """Size of the intersection of two sorted sets of hashes."""
    if len(a) > len(b):
        a, b = b, a
    return int(np.count_nonzero(b.take(b.searchsorted(a), mode="clip") == a))

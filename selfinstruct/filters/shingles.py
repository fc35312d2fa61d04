"""A text as a set of shingles, each a 64-bit hash.

Shingles are runs of n characters, or of n words. Case and the width of white space make no difference. A text shorter
than n is one shingle, itself; so is the empty text, which therefore duplicates only another empty one.

Different shingles have different hashes, but for a chance of 2**-64 a pair; that is what "exact" Jaccard means here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import regex
import xxhash

__all__ = ["Hashes", "Offsets", "char_shingles", "jaccard", "shingle_sets", "word_shingles"]

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

_UTF32 = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}]+")
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
    """The distinct hashes of each text, sorted."""
    return [np.unique(hashes[start:end]) for start, end in pairwise(offsets)]


def jaccard(a: Hashes, b: Hashes) -> float:
    """Size of the intersection over size of the union of two sorted sets of hashes."""
    if len(a) > len(b):
        a, b = b, a
    places = np.searchsorted(b, a)
    places[places == len(b)] = 0
    shared = int(np.count_nonzero(b[places] == a))
    return shared / (len(a) + len(b) - shared)

"""A text as a set of shingles, each a 64-bit hash.

Shingles are runs of n characters, or of n words. Case and the width of white space make no difference. A text shorter
than n is one shingle, itself; so is the empty text, which therefore duplicates only another empty one.

Sets keep 54 bits of each: different shingles then have different hashes but for a chance of 2**-54 a pair of shingles,
which is what "exact" Jaccard means here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import regex
import xxhash

from selfinstruct.errors import UsageError
from selfinstruct.filters.engines import minhash_kernels
from selfinstruct.filters.hashing import Hashes, mix

__all__ = [
    "Offsets",
    "Units",
    "char_shingles",
    "char_units",
    "jaccard",
    "parity",
    "shared_of_pairs",
    "shingle_sets",
    "units_function",
    "word_shingles",
    "word_units",
]

Offsets = npt.NDArray[np.int64]

_UTF32 = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}]+")
HASH_BITS, HASH_MASK = np.uint64(54), np.uint64((1 << 54) - 1)
TEXTS = 1 << 10  # whose numbers fit above a hash
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLANK = np.uint32(ord(" ") + 1)
# The unit of each code point up to U+3000, the last that is white space. What is not ASCII is folded already.
_FOLDED = np.array(
    [
        _BLANK if chr(code).isspace() else ord(chr(code).lower()) + 1 if code < 128 else code + 1
        for code in range(0x3001)
    ],
    dtype=np.uint32,
)


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


@dataclass(frozen=True, slots=True)
class Units:
    """Texts as numbers, of which runs of n are shingles.

    Attributes:
        values: Of all texts one after the other; none is 0.
        offsets: Text i, which is never empty, has ``values[offsets[i]:offsets[i + 1]]``.
        n: Units of a shingle.
        bits: Of a unit.
    """

    values: npt.NDArray[np.uint32] | Hashes
    offsets: Offsets
    n: int
    bits: int

    def runs(self) -> tuple[Hashes, Offsets]:
        """Hash of each run, repeated where a text repeats itself, and the offsets of the texts in them."""
        return _runs(self.values.astype(np.uint64), self.offsets, self.n, self.bits)


def _offsets(sizes: Iterable[int], count: int) -> Offsets:
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter(sizes, dtype=np.int64, count=count), out=offsets[1:])
    return offsets


def char_units(texts: Sequence[str], n: int = 5, *, compiled: bool = False) -> Units:
    """Characters, their case folded and each run of white space one space, none at the ends."""
    folded = [(text if text.isascii() else text.casefold()).strip() or "\0" for text in texts]
    codes = np.frombuffer("".join(folded).encode(_UTF32, "surrogatepass"), dtype=np.uint32)
    offsets = _offsets(map(len, folded), len(folded))
    collapse = minhash_kernels().collapsed if compiled else _collapsed
    values, offsets = collapse(codes, offsets, _FOLDED)
    return Units(values, offsets, n, 21)  # a code point has 21 bits: three to a word


def _collapsed(
    codes: npt.NDArray[np.uint32], offsets: Offsets, folded: npt.NDArray[np.uint32]
) -> tuple[npt.NDArray[np.uint32], Offsets]:
    """Code points plus one, the case of ASCII folded, of a run of white space a single space; and the offsets."""
    values = np.where(codes < len(folded), folded[np.minimum(codes, len(folded) - 1)], codes + np.uint32(1))
    # Of a run of white space the last character stays. No text begins or ends with one.
    keep = values != _BLANK
    keep[:-1] |= keep[1:]
    if not keep.all():
        values = values[keep]
        offsets = _offsets(np.add.reduceat(keep, offsets[:-1], dtype=np.int64), len(offsets) - 1)
    return values, offsets


def word_units(texts: Sequence[str], n: int = 3, *, compiled: bool = False) -> Units:  # noqa: ARG001  (as char_units)
    """Hashes of words (letters, marks and numbers of any script), their case folded."""
    words = [_WORDS.findall(text.casefold()) or [text.strip()] for text in texts]
    hashed = (xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) | 1 for row in words for word in row)
    offsets = _offsets(map(len, words), len(words))
    return Units(np.fromiter(hashed, dtype=np.uint64, count=int(offsets[-1])), offsets, n, 64)


def units_function(shingles: str) -> Callable[..., Units]:
    """What makes units of texts, for the name of a kind of shingles: ``char5``, ``word3`` and so on.

    Raises:
        UsageError: There is no such kind.
    """
    match = re.fullmatch("(char|word)([1-9][0-9]?)", shingles)
    if match is None:
        raise UsageError(f"unknown shingles {shingles!r}; use char5, word3, or another number of either")
    return partial(char_units if match[1] == "char" else word_units, n=int(match[2]))


def char_shingles(texts: Sequence[str], n: int = 5) -> tuple[Hashes, Offsets]:
    """Runs of n characters of each text.

    Returns:
        hashes: Of all texts one after the other, in order of place, repeated where a text repeats itself.
        offsets: Shape (len(texts) + 1,); text i has ``hashes[offsets[i]:offsets[i + 1]]``.
    """
    return char_units(texts, n).runs()


def word_shingles(texts: Sequence[str], n: int = 3) -> tuple[Hashes, Offsets]:
    """Runs of n words of each text; as ``char_shingles`` else."""
    return word_units(texts, n).runs()


def shingle_sets(hashes: Hashes, offsets: Offsets) -> tuple[Hashes, Offsets]:
    """The distinct hashes of each text, of 54 bits, sorted; and their offsets."""
    parts, sizes = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(offsets) - 1, TEXTS):
        part = offsets[start : start + TEXTS + 1]
        text = np.repeat(np.arange(len(part) - 1, dtype=np.uint64), np.diff(part))
        # One sort for many texts: the text's number stands above the hash.
        packed = text << HASH_BITS | hashes[part[0] : part[-1]] & HASH_MASK
        packed.sort()
        packed = packed[np.append(True, packed[1:] != packed[:-1])] if len(packed) else packed
        ends = np.searchsorted(packed, np.arange(1, len(part), dtype=np.uint64) << HASH_BITS)
        ends[-1] = len(packed)  # the number of the last text may fill the word, and that of the next overflow
        sizes.append(np.diff(ends, prepend=0))
        parts.append(packed & HASH_MASK)
    return np.concatenate(parts), _offsets(np.concatenate(sizes), len(offsets) - 1)


def parity(hashes: Hashes, offsets: Offsets) -> Hashes:
    """XOR, over each set, of one of 512 bits chosen by the hash; shape (sets, 8).

    The bits in which two of them differ are at most as many as the elements that only one of the sets has.
    """
    found = np.zeros((len(offsets) - 1, 8), dtype=np.uint64)
    for start in range(0, len(found), TEXTS):
        part = offsets[start : start + TEXTS + 1]
        count = len(part) - 1
        text = np.repeat(np.arange(count), np.diff(part))
        bit = (hashes[part[0] : part[-1]] & np.uint64(511)).astype(np.int64)
        odd = np.bincount(text * 512 + bit, minlength=512 * count).astype(np.uint8) & 1
        found[start : start + TEXTS] = np.packbits(odd, bitorder="little").view("<u8").reshape(count, 8)
    return found


def jaccard(a: Hashes, b: Hashes) -> float:
    """Size of the intersection over size of the union of two sorted sets of hashes."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def shared_of_pairs(
    left: Hashes, left_offsets: Offsets, one: Offsets, right: Hashes, right_offsets: Offsets, two: Offsets
) -> Offsets:
    """Number of common elements of sets, of 54 bits: of set ``one[k]`` on the left and ``two[k]`` on the right."""
    found = np.zeros(len(one), dtype=np.int64)
    for start in range(0, len(one), TEXTS):
        part = slice(start, start + TEXTS)
        # Numbered by pair, the sets are sorted as a whole: one search for many pairs.
        mine, theirs = _numbered(left, left_offsets, one[part]), _numbered(right, right_offsets, two[part])
        both = mine[theirs.take(theirs.searchsorted(mine), mode="clip") == mine]
        found[part] = np.bincount((both >> HASH_BITS).astype(np.int64), minlength=len(one[part]))
    return found


def _numbered(hashes: Hashes, offsets: Offsets, sets: Offsets) -> Hashes:
    """Some sets one after the other, their running numbers above the hashes."""
    sizes = offsets[sets + 1] - offsets[sets]
    ends = np.cumsum(sizes)
    place = np.arange(ends[-1]) + np.repeat(offsets[sets] - ends + sizes, sizes)
    found: Hashes = np.repeat(np.arange(len(sets), dtype=np.uint64), sizes) << HASH_BITS | hashes[place]
    return found

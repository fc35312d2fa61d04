"""A text as a set of shingles, each a 64-bit hash.

Shingles are runs of n characters, or of n words, where a symbol counts as a word (``tokenize``). Case and the width of
white space are ignored. A text shorter than n is a single shingle, as is the empty text, which therefore duplicates
only another empty one.

Sets keep 54 bits of each hash. Two different shingles have the same hash with a probability of 2**-54; "exact" Jaccard
means exact up to this.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import xxhash

from selfinstruct.errors import UsageError
from selfinstruct.filters.engines import minhash_kernels
from selfinstruct.filters.hashing import Hashes, mix
from selfinstruct.filters.text import tokenize

__all__ = [
    "Offsets",
    "Units",
    "char_units",
    "parity",
    "shared_of_pairs",
    "shingle_sets",
    "units_function",
    "word_units",
]

Offsets = npt.NDArray[np.int64]

_UTF32 = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
HASH_BITS, HASH_MASK = np.uint64(54), np.uint64((1 << 54) - 1)
TEXTS = 1 << 10  # number of texts whose numbers fit above a hash
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLANK = np.uint32(ord(" ") + 1)
# The unit of each code point up to U+3000, the last white space. Characters outside ASCII are case folded already.
_FOLDED = np.array(
    [
        _BLANK if chr(code).isspace() else ord(chr(code).lower()) + 1 if code < 128 else code + 1
        for code in range(0x3001)
    ],
    dtype=np.uint32,
)


def _windows(offsets: Offsets, n: int) -> tuple[npt.NDArray[np.int64], Offsets]:
    """Return the start of every run of n units within one text, and the offsets of the runs of each text.

    A text with fewer than n units (but at least one) has a single run, which ends with the text.
    """
    sizes = np.diff(offsets)
    counts = np.maximum(sizes - n + 1, 1)
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    positions = np.arange(starts[-1]) + np.repeat(offsets[:-1] - starts[:-1], counts)
    return positions, starts


def _runs(units: npt.NDArray[np.uint64], offsets: Offsets, n: int, bits: int) -> tuple[Hashes, Offsets]:
    """Return the hash of every run of n units of at most ``bits`` bits each, and the offsets of the texts in them."""
    positions, starts = _windows(offsets, n)
    # Missing units of a short text count as 0; no real unit is 0.
    padded = np.concatenate([units, np.zeros(n, dtype=np.uint64)])
    short = np.flatnonzero(np.diff(offsets) < n)
    hashes = np.zeros(len(positions), dtype=np.uint64)
    word = np.zeros(len(positions), dtype=np.uint64)
    ends = None
    if len(short):
        ends = np.full(len(positions), len(padded), dtype=np.int64)
        ends[starts[short]] = offsets[short + 1]
    room = 64 // bits
    for k in range(n):
        values = padded[positions + k]
        if ends is not None:
            values[positions + k >= ends] = 0
        word |= values << np.uint64(bits * (k % room))
        if k % room == room - 1 or k == n - 1:
            hashes = mix(hashes * _GOLDEN ^ word)
            word = np.zeros_like(word)
    return hashes, starts


@dataclass(frozen=True, slots=True)
class Units:
    """Texts as sequences of numbers, called units; a shingle is a run of n units.

    Attributes:
        values: The units of all texts, concatenated; none is 0.
        offsets: Text i, which is never empty, has ``values[offsets[i]:offsets[i + 1]]``.
        n: Number of units in a shingle.
        bits: Number of bits in a unit.
    """

    values: npt.NDArray[np.uint32] | Hashes
    offsets: Offsets
    n: int
    bits: int

    def runs(self) -> tuple[Hashes, Offsets]:
        """Return the hash of each run, with repetitions, and the offsets of the texts in them."""
        return _runs(self.values.astype(np.uint64), self.offsets, self.n, self.bits)


def _offsets(sizes: Iterable[int], count: int) -> Offsets:
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter(sizes, dtype=np.int64, count=count), out=offsets[1:])
    return offsets


def char_units(texts: Sequence[str], n: int = 5, *, compiled: bool = False) -> Units:
    """Return characters as units: case folded, runs of white space collapsed to one space, and stripped."""
    folded = [(text if text.isascii() else text.casefold()).strip() or "\0" for text in texts]
    codes = np.frombuffer("".join(folded).encode(_UTF32, "surrogatepass"), dtype=np.uint32)
    offsets = _offsets(map(len, folded), len(folded))
    collapse = minhash_kernels().collapsed if compiled else _collapsed
    values, offsets = collapse(codes, offsets, _FOLDED)
    return Units(values, offsets, n, 21)  # a code point has 21 bits: three fit into a word


def _collapsed(
    codes: npt.NDArray[np.uint32], offsets: Offsets, folded: npt.NDArray[np.uint32]
) -> tuple[npt.NDArray[np.uint32], Offsets]:
    """Return code points plus one, with ASCII case folded and runs of white space collapsed; and the offsets."""
    values = np.where(codes < len(folded), folded[np.minimum(codes, len(folded) - 1)], codes + np.uint32(1))
    # The last character of a run of white space is kept. No text begins or ends with white space.
    keep = values != _BLANK
    keep[:-1] |= keep[1:]
    if not keep.all():
        values = values[keep]
        offsets = _offsets(np.add.reduceat(keep, offsets[:-1], dtype=np.int64), len(offsets) - 1)
    return values, offsets


def word_units(texts: Sequence[str], n: int = 3, *, compiled: bool = False) -> Units:  # noqa: ARG001  (as char_units)
    """Return hashes of words as units: the tokens of ``tokenize``."""
    words = [tokenize(text) or [text.strip()] for text in texts]
    hashed = (xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) | 1 for row in words for word in row)
    offsets = _offsets(map(len, words), len(words))
    return Units(np.fromiter(hashed, dtype=np.uint64, count=int(offsets[-1])), offsets, n, 64)


def units_function(shingles: str) -> Callable[..., Units]:
    """Return the function that converts texts to units, for a kind of shingles such as ``char5`` or ``word3``.

    Raises:
        UsageError: There is no such kind.
    """
    match = re.fullmatch("(char|word)([1-9][0-9]?)", shingles)
    if match is None:
        raise UsageError(f"unknown shingles {shingles!r}; use char5, word3, or another number of either")
    return partial(char_units if match[1] == "char" else word_units, n=int(match[2]))


def shingle_sets(hashes: Hashes, offsets: Offsets) -> tuple[Hashes, Offsets]:
    """Return the distinct hashes of each text, reduced to 54 bits and sorted; and their offsets."""
    parts, sizes = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(offsets) - 1, TEXTS):
        part = offsets[start : start + TEXTS + 1]
        text = np.repeat(np.arange(len(part) - 1, dtype=np.uint64), np.diff(part))
        # One sort for many texts: the upper bits hold the text's number.
        packed = text << HASH_BITS | hashes[part[0] : part[-1]] & HASH_MASK
        packed.sort()
        packed = packed[np.append(True, packed[1:] != packed[:-1])] if len(packed) else packed
        ends = np.searchsorted(packed, np.arange(1, len(part), dtype=np.uint64) << HASH_BITS)
        ends[-1] = len(packed)  # the number after the last text may overflow the word
        sizes.append(np.diff(ends, prepend=0))
        parts.append(packed & HASH_MASK)
    return np.concatenate(parts), _offsets(np.concatenate(sizes), len(offsets) - 1)


def parity(hashes: Hashes, offsets: Offsets) -> Hashes:
    """Return the XOR, over each set, of one of 512 bits that the hash selects; shape (sets, 8).

    Two parities differ in at most as many bits as there are elements in only one of the sets.
    """
    parities = np.zeros((len(offsets) - 1, 8), dtype=np.uint64)
    for start in range(0, len(parities), TEXTS):
        part = offsets[start : start + TEXTS + 1]
        count = len(part) - 1
        text = np.repeat(np.arange(count), np.diff(part))
        bit = (hashes[part[0] : part[-1]] & np.uint64(511)).astype(np.int64)
        odd = np.bincount(text * 512 + bit, minlength=512 * count).astype(np.uint8) & 1
        parities[start : start + TEXTS] = np.packbits(odd, bitorder="little").view("<u8").reshape(count, 8)
    return parities


def shared_of_pairs(
    left: Hashes, left_offsets: Offsets, first: Offsets, right: Hashes, right_offsets: Offsets, second: Offsets
) -> Offsets:
    """Return the number of common elements of set ``first[k]`` on the left and ``second[k]`` on the right."""
    shared = np.zeros(len(first), dtype=np.int64)
    for start in range(0, len(first), TEXTS):
        part = slice(start, start + TEXTS)
        # Numbered by pair, the sets are sorted as a whole: one search for many pairs.
        mine, theirs = _numbered(left, left_offsets, first[part]), _numbered(right, right_offsets, second[part])
        both = mine[theirs.take(theirs.searchsorted(mine), mode="clip") == mine]
        shared[part] = np.bincount((both >> HASH_BITS).astype(np.int64), minlength=len(first[part]))
    return shared


def _numbered(hashes: Hashes, offsets: Offsets, sets: Offsets) -> Hashes:
    """Return some sets, concatenated, with their running numbers in the bits above the hashes."""
    sizes = offsets[sets + 1] - offsets[sets]
    ends = np.cumsum(sizes)
    positions = np.arange(ends[-1]) + np.repeat(offsets[sets] - ends + sizes, sizes)
    numbered: Hashes = np.repeat(np.arange(len(sets), dtype=np.uint64), sizes) << HASH_BITS | hashes[positions]
    return numbered

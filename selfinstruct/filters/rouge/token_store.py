"""Texts as numbers, the input of the ROUGE-L joins.

Each token of a text is tagged with its occurrence number, so that a text becomes a set; the overlap of two such sets is
an upper bound of the longest common subsequence. Tokens and tags share one numbering, in order of appearance; the tag
of a first occurrence is the number of the token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from selfinstruct.filters.hashing import mix

__all__ = ["Block", "Ints", "Longs", "Matches", "Store", "Vocabulary", "Words"]

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Matches = tuple[Longs, npt.NDArray[np.float64]]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Block:
    """Some texts, concatenated.

    Attributes:
        tokens: Numbers of all tokens, in text order; shape (total,).
        tags: Numbers of the tagged tokens, parallel to ``tokens``.
        offsets: Text i has ``tokens[offsets[i]:offsets[i + 1]]``; shape (texts + 1,).
        bits: A 128-bit parity sketch of each text's tags; shape (texts, 2).
    """

    tokens: Ints
    tags: Ints
    offsets: Longs
    bits: Words

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> Ints:
        """Number of tokens of each text."""
        return np.diff(self.offsets).astype(np.int32)

    def part(self, start: int, end: int) -> Block:
        """Return the texts from ``start`` to ``end``, without copying."""
        first, last = self.offsets[start], self.offsets[end]
        return Block(
            self.tokens[first:last], self.tags[first:last], self.offsets[start : end + 1] - first, self.bits[start:end]
        )

    def select(self, rows: Longs) -> Block:
        """Return the texts with these numbers, in this order."""
        sizes = np.diff(self.offsets)[rows]
        offsets = offsets_of(sizes)
        positions = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], sizes)
        return Block(self.tokens[positions], self.tags[positions], offsets, self.bits[rows])


def offsets_of(sizes: npt.ArrayLike) -> Longs:
    """Return the offsets of consecutive runs with these sizes; shape (runs + 1,)."""
    sizes = np.asarray(sizes, dtype=np.int64)
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


MASK = (1 << 64) - 1


@lru_cache(maxsize=1 << 16)
def tag_bit(tag: int) -> int:
    """Return the number, below 128, of a tag's bit in a sketch: ``mix`` in Python integers."""
    value = (tag + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return (value ^ (value >> 31)) & 127


def sketch(tags: Ints, offsets: Longs) -> Words:
    """Return the XOR, over the tags of each text, of one of 128 bits that a hash of the tag selects; shape (texts, 2).

    Two sketches differ in at most as many bits as there are tags in only one of the texts.
    """
    hashed = mix(tags.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(127)
    bit = np.uint64(1) << (hashed & np.uint64(63))
    upper = hashed >= 64
    bits = np.zeros((len(offsets) - 1, 2), dtype=np.uint64)
    filled = np.flatnonzero(np.diff(offsets) > 0)
    if len(filled):
        starts = offsets[filled]
        bits[filled, 0] = np.bitwise_xor.reduceat(np.where(upper, np.uint64(0), bit), starts)
        bits[filled, 1] = np.bitwise_xor.reduceat(np.where(upper, bit, np.uint64(0)), starts)
    return bits


def distinct(values: Longs) -> Longs:
    """Return the distinct values, sorted. ``np.unique`` hashes them first, which is slower than sorting."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


class Vocabulary:
    """The numbers of tokens and of their repetitions."""

    def __init__(self) -> None:
        # A str is a token; an int is a repetition: token | occurrence << 32.
        self._numbers: defaultdict[str | int, int] = defaultdict()
        self._numbers.default_factory = self._numbers.__len__

    def __len__(self) -> int:
        return len(self._numbers)

    def learn(self, texts: Iterable[Sequence[str]]) -> Block:
        """Encode texts, and number their new tokens and tags."""
        rows = list(texts)
        number = self._numbers.__getitem__
        if len(rows) == 1:
            return self._one([number(token) for token in rows[0]], number)
        offsets = offsets_of(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
        tokens = np.fromiter(map(number, chain.from_iterable(rows)), dtype=np.int32, count=int(offsets[-1]))
        return self.tagged(tokens, offsets)

    def tagged(self, tokens: Ints, offsets: Longs) -> Block:
        """Return the block of texts whose tokens are numbered already."""
        tags = self._tag(tokens, offsets, self._numbers.__getitem__)
        return Block(tokens, tags, offsets, sketch(tags, offsets))

    def read(self, text: Sequence[str]) -> Block:
        """Encode one text without changing the vocabulary; new tokens get numbers beyond it, for this block only."""
        unseen: defaultdict[str | int, int] = defaultdict(lambda: len(self._numbers) + len(unseen))
        numbers = self._numbers

        def number(key: str | int) -> int:
            learned = numbers.get(key)
            return unseen[key] if learned is None else learned

        return self._one([number(token) for token in text], number)

    @staticmethod
    def _one(tokens: list[int], number: Callable[[str | int], int]) -> Block:
        """Return the block of one text, for which plain Python is faster than arrays."""
        seen: dict[int, int] = {}
        tags = []
        low = high = 0
        for token in tokens:
            occurrence = seen.get(token, 0)
            seen[token] = occurrence + 1
            tag = number(token | occurrence << 32) if occurrence else token
            tags.append(tag)
            bit = tag_bit(tag)
            if bit < 64:
                low ^= 1 << bit
            else:
                high ^= 1 << (bit - 64)
        return Block(
            np.array(tokens, dtype=np.int32),
            np.array(tags, dtype=np.int32),
            np.array([0, len(tokens)], dtype=np.int64),
            np.array([[low, high]], dtype=np.uint64),
        )

    @staticmethod
    def _tag(tokens: Ints, offsets: Longs, number: Callable[[str | int], int]) -> Ints:
        tags = tokens.copy()
        if len(tokens) < 2:
            return tags
        text = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        order = np.argsort(text << np.int64(32) | tokens, kind="stable")
        ranked, owner = tokens[order], text[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (ranked[1:] != ranked[:-1]) | (owner[1:] != owner[:-1])
        repeated = np.flatnonzero(~first)
        if len(repeated):
            begins = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
            occurrence = repeated - begins[repeated]
            keys, inverse = np.unique(ranked[repeated] | occurrence << np.int64(32), return_inverse=True)
            tags[order[repeated]] = np.array([number(key) for key in keys.tolist()], dtype=np.int32)[inverse]
        return tags

    def words(self) -> tuple[list[str], Ints]:
        """Return the tokens, and the number of each."""
        pairs = [(key, number) for key, number in self._numbers.items() if isinstance(key, str)]
        return [word for word, _ in pairs], np.array([number for _, number in pairs], dtype=np.int32)


class Store:
    """The texts of a pool, in arrays that grow by doubling; a row is the number of a text."""

    def __init__(self) -> None:
        self.rows = 0
        self.tokens: Ints = np.zeros(1024, dtype=np.int32)
        self.tags: Ints = np.zeros(1024, dtype=np.int32)
        self.offsets: Longs = np.zeros(65, dtype=np.int64)
        self.sizes: Ints = np.zeros(64, dtype=np.int32)
        self.bits: Words = np.zeros((64, 2), dtype=np.uint64)

    def __len__(self) -> int:
        return self.rows

    @property
    def block(self) -> Block:
        """All texts; valid until the next change."""
        end = self.offsets[self.rows]
        return Block(self.tokens[:end], self.tags[:end], self.offsets[: self.rows + 1], self.bits[: self.rows])

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for this many more rows and tokens."""
        if self.rows + rows > len(self.sizes):
            size = max(self.rows + rows, 2 * len(self.sizes))
            self.sizes = grown(self.sizes, size)
            self.offsets = grown(self.offsets, size + 1)
            self.bits = grown(self.bits, size)
        end = int(self.offsets[self.rows]) + tokens
        if end > len(self.tokens):
            size = max(end, 2 * len(self.tokens))
            self.tokens = grown(self.tokens, size)
            self.tags = grown(self.tags, size)

    def extend(self, block: Block) -> None:
        """Append the texts of a block."""
        self.reserve(len(block), len(block.tokens))
        start, rows = int(self.offsets[self.rows]), slice(self.rows, self.rows + len(block))
        self.tokens[start : start + len(block.tokens)] = block.tokens
        self.tags[start : start + len(block.tokens)] = block.tags
        self.offsets[self.rows + 1 : self.rows + len(block) + 1] = block.offsets[1:] + start
        self.sizes[rows] = block.sizes
        self.bits[rows] = block.bits
        self.rows += len(block)


def grown(array: npt.NDArray[Number], size: int) -> npt.NDArray[Number]:
    """Return a longer copy, padded with zeros."""
    longer = np.zeros((size, *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer

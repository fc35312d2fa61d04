"""The ROUGE-L join in numpy and rapidfuzz: which texts of a block exceed the threshold against a pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from selfinstruct.filters.engines import MANY, Engine, available
from selfinstruct.filters.rouge.compiled import CompiledJoin
from selfinstruct.filters.rouge.lcs import common, f1, strings
from selfinstruct.filters.rouge.prefix import Order, Postings, Prefix, PrefixIndex, candidates, least_of_pairs
from selfinstruct.filters.rouge.store import Block, Ints, Longs, Matches, Store, distinct

__all__ = ["ArrayJoin", "Join", "make_join"]

FIRST, LARGEST = 256, 4096  # texts of a block: small while the pool is, since a block is also joined with itself


class Join(Protocol):
    """A way to judge texts against the rows of a store."""

    def judge(self, block: Block, *, insert: bool) -> Matches:
        """For each text the earliest of its most similar rows, and the F1; -1 and 0.0 where none is above.

        With ``insert``, texts without such a row are appended to the store, in order, and later texts of the same
        block are judged against them too.
        """

    def append(self, block: Block) -> None:
        """Append texts unjudged."""


class ArrayJoin:
    """Candidates by ``PrefixIndex``, verified by rapidfuzz' bit-parallel LCS with an integer cutoff."""

    def __init__(self, threshold: float, store: Store, tags: int, coming: Block) -> None:
        self._threshold = threshold
        self._store = store
        order = Order((store.block, coming), tags)
        self._index = PrefixIndex(threshold, store, order)
        self._texts: list[Sequence[int] | str] = strings(store.block.tokens, store.block.offsets)
        if len(store):
            self._index.add(order.prefixes(store.block, threshold))

    def append(self, block: Block) -> None:
        """Append texts unjudged."""
        self._insert(block, strings(block.tokens, block.offsets), self._index.order.prefixes(block, self._threshold))

    def _insert(self, block: Block, texts: Sequence[Sequence[int] | str], prefix: Prefix) -> None:
        start = len(self._store)
        self._store.extend(block)
        self._texts.extend(texts)
        self._index.add(prefix.shifted(start))

    def judge(self, block: Block, *, insert: bool) -> Matches:
        """See ``Join``."""
        rows = np.full(len(block), -1, dtype=np.int64)
        scores = np.zeros(len(block))
        if len(block) == 1:
            rows[0], scores[0] = self._judge_one(block, insert)
            return rows, scores
        start = 0
        while start < len(block):
            size = min(max(FIRST, len(self._store) // 4), LARGEST)
            end = min(start + size, len(block))
            self._judge(block.part(start, end), rows[start:end], scores[start:end], insert)
            start = end
        return rows, scores

    def _judge_one(self, block: Block, insert: bool) -> tuple[int, float]:
        """``judge`` for a single text, where each array costs more than what it holds."""
        m = len(block.tokens)
        text = strings(block.tokens, block.offsets)
        prefix = self._index.order.prefixes(block, self._threshold)
        best, top = -1, 0.0
        for row, least, n in self._index.near(block, prefix):
            length = common(text[0], self._texts[row], least)
            if length >= least and (score := f1(length, m, n)) > top:
                best, top = row, score
        if insert and best < 0:
            self._insert(block, text, prefix)
        return best, top

    def _judge(self, block: Block, rows: Longs, scores: npt.NDArray[np.float64], insert: bool) -> None:
        """Judge one block and write the matches into ``rows`` and ``scores``."""
        threshold, store = self._threshold, self._store
        texts = strings(block.tokens, block.offsets)
        prefix = self._index.order.prefixes(block, threshold)
        best = scores.tolist()
        pool = [-1] * len(block)  # row of the best match in the pool
        pairs = self._index.candidates(block, prefix)
        for text, row, least, m, n in _sized(threshold, block, pairs, store.sizes):
            length = common(texts[text], self._texts[row], least)
            if length >= least and (score := f1(length, m, n)) > best[text]:
                best[text], pool[text] = score, row
        rows[:] = pool
        if insert and len(block) > 1:
            self._judge_within(block, texts, prefix, best, rows)
        scores[:] = best
        new = np.flatnonzero(rows < 0)
        if insert and len(new):
            kept = _only(prefix, new)
            kept = Prefix(np.searchsorted(new, kept.text), kept.tag, kept.place)
            self._insert(block.select(new), [texts[place] for place in new.tolist()], kept)

    def _judge_within(
        self, block: Block, texts: Sequence[Sequence[int] | str], prefix: Prefix, best: list[float], rows: Longs
    ) -> None:
        """Judge the texts of a block against those before them that are kept; better matches replace those in rows."""
        threshold = self._threshold
        new = np.flatnonzero(rows < 0)  # only these can be kept, so only these need be looked up
        found = candidates(threshold, block, prefix, Postings(_only(prefix, new)), block.sizes, block.bits)
        if not found:
            return
        pairs = distinct(np.concatenate(found))
        pairs = pairs[(pairs & 0xFFFFFFFF) < (pairs >> 32)]
        kept = (rows < 0).tolist()
        within = [-1] * len(block)
        # In order of the later text: whether the earlier one is kept has been decided by then.
        for text, place, least, m, n in _sized(threshold, block, pairs, block.sizes):
            if kept[place]:
                length = common(texts[text], texts[place], least)
                if length >= least and (score := f1(length, m, n)) > best[text]:
                    best[text], within[text], kept[text] = score, place, False
        match = np.array(within, dtype=np.int64)
        number = len(self._store) + np.cumsum(kept) - 1
        rows[match >= 0] = number[match[match >= 0]]


def _only(prefix: Prefix, texts: Longs) -> Prefix:
    """The prefixes of some texts, under their own numbers."""
    among = np.isin(prefix.text, texts)
    return Prefix(prefix.text[among], prefix.tag[among], prefix.place[among])


def _sized(threshold: float, block: Block, pairs: Longs, sizes: Ints) -> Iterable[tuple[int, int, int, int, int]]:
    """Text, other, least LCS and both sizes of each pair."""
    text, other = pairs >> 32, pairs & 0xFFFFFFFF
    m, n = block.sizes[text], sizes[other]
    least = least_of_pairs(threshold, m, n)
    return zip(text.tolist(), other.tolist(), least.tolist(), m.tolist(), n.tolist(), strict=True)


def make_join(engine: Engine, threshold: float, store: Store, tags: int, coming: Block) -> Join:
    """A join over a store, its order made from the frequencies in the store and in the texts that come next."""
    many = len(store) + len(coming) >= MANY
    if engine == "numba" or (engine == "auto" and many and available()):
        return CompiledJoin(threshold, store, tags, coming)
    return ArrayJoin(threshold, store, tags, coming)

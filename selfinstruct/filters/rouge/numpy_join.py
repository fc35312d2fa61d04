"""The ROUGE-L join: find the texts of a block that exceed the threshold against a pool. With numpy and rapidfuzz."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from selfinstruct.filters.engines import MANY, Engine, available
from selfinstruct.filters.rouge.lcs import common, f1, strings
from selfinstruct.filters.rouge.numba_join import NumbaJoin
from selfinstruct.filters.rouge.prefix_filter import Order, Postings, Prefix, PrefixIndex, candidates, least_of_pairs
from selfinstruct.filters.rouge.token_store import Block, Ints, Longs, Matches, Store, distinct

__all__ = ["Join", "NumpyJoin", "make_join"]

FIRST, LARGEST = 256, 4096  # texts in a block: few while the pool is small, since a block is also joined with itself


class Join(Protocol):
    """An implementation of the comparison of texts with the rows of a store."""

    def match(self, block: Block, *, insert: bool) -> Matches:
        """Return for each text the earliest of its most similar rows above the threshold, and the F1; else -1 and 0.0.

        Args:
            block: The texts.
            insert: Append texts without such a row to the store, in order; later texts of the block are compared with
                them too.
        """

    def append(self, block: Block) -> None:
        """Append texts without matching them."""


class NumpyJoin:
    """A ``Join`` that finds candidates by ``PrefixIndex`` and verifies them by the bit-parallel LCS of rapidfuzz."""

    def __init__(self, threshold: float, store: Store, tags: int, coming: Block) -> None:
        self._threshold = threshold
        self._store = store
        order = Order((store.block, coming), tags)
        self._index = PrefixIndex(threshold, store, order)
        self._texts: list[Sequence[int] | str] = strings(store.block.tokens, store.block.offsets)
        if len(store):
            self._index.add(order.prefixes(store.block, threshold))

    def append(self, block: Block) -> None:
        """Append texts without matching them."""
        self._insert(block, strings(block.tokens, block.offsets), self._index.order.prefixes(block, self._threshold))

    def _insert(self, block: Block, texts: Sequence[Sequence[int] | str], prefix: Prefix) -> None:
        start = len(self._store)
        self._store.extend(block)
        self._texts.extend(texts)
        self._index.add(prefix.shifted(start))

    def match(self, block: Block, *, insert: bool) -> Matches:
        """Match each text of a block; see ``Join.match``."""
        rows = np.full(len(block), -1, dtype=np.int64)
        scores = np.zeros(len(block))
        if len(block) == 1:
            rows[0], scores[0] = self._match_one(block, insert)
            return rows, scores
        start = 0
        while start < len(block):
            size = min(max(FIRST, len(self._store) // 4), LARGEST)
            end = min(start + size, len(block))
            self._match_block(block.part(start, end), rows[start:end], scores[start:end], insert)
            start = end
        return rows, scores

    def _match_one(self, block: Block, insert: bool) -> tuple[int, float]:
        """Match a block of one text, for which plain Python is faster than arrays."""
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

    def _match_block(self, block: Block, rows: Longs, scores: npt.NDArray[np.float64], insert: bool) -> None:
        """Match one block and write the matches into ``rows`` and ``scores``."""
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
            self._match_within(block, texts, prefix, best, rows)
        scores[:] = best
        new = np.flatnonzero(rows < 0)
        if insert and len(new):
            kept = _only(prefix, new)
            kept = Prefix(np.searchsorted(new, kept.text), kept.tag, kept.rank)
            self._insert(block.select(new), [texts[number] for number in new.tolist()], kept)

    def _match_within(
        self, block: Block, texts: Sequence[Sequence[int] | str], prefix: Prefix, best: list[float], rows: Longs
    ) -> None:
        """Compare the texts of a block with the kept texts before them; a better match replaces the one in ``rows``."""
        threshold = self._threshold
        new = np.flatnonzero(rows < 0)  # only these can be kept, so only these are indexed
        parts = candidates(threshold, block, prefix, Postings(_only(prefix, new)), block.sizes, block.bits)
        if not parts:
            return
        pairs = distinct(np.concatenate(parts))
        pairs = pairs[(pairs & 0xFFFFFFFF) < (pairs >> 32)]
        kept = (rows < 0).tolist()
        within = [-1] * len(block)
        # The pairs are ordered by the later text, so the earlier one has been decided by then.
        for text, other, least, m, n in _sized(threshold, block, pairs, block.sizes):
            if kept[other]:
                length = common(texts[text], texts[other], least)
                if length >= least and (score := f1(length, m, n)) > best[text]:
                    best[text], within[text], kept[text] = score, other, False
        match = np.array(within, dtype=np.int64)
        number = len(self._store) + np.cumsum(kept) - 1
        rows[match >= 0] = number[match[match >= 0]]


def _only(prefix: Prefix, texts: Longs) -> Prefix:
    """Return the prefixes of some texts, with unchanged numbers."""
    selected = np.isin(prefix.text, texts)
    return Prefix(prefix.text[selected], prefix.tag[selected], prefix.rank[selected])


def _sized(threshold: float, block: Block, pairs: Longs, sizes: Ints) -> Iterable[tuple[int, int, int, int, int]]:
    """Return text, other, least LCS and both sizes of each pair."""
    text, other = pairs >> 32, pairs & 0xFFFFFFFF
    m, n = block.sizes[text], sizes[other]
    least = least_of_pairs(threshold, m, n)
    return zip(text.tolist(), other.tolist(), least.tolist(), m.tolist(), n.tolist(), strict=True)


def make_join(engine: Engine, threshold: float, store: Store, tags: int, coming: Block) -> Join:
    """Return a join over a store.

    Args:
        engine: See ``NoveltyIndex``.
        threshold: Highest F1 that is kept.
        store: The pool.
        tags: Number of tags in the vocabulary.
        coming: The next texts; their token frequencies and the ones of the store determine the order of tags.
    """
    many = len(store) + len(coming) >= MANY
    if engine == "numba" or (engine == "auto" and many and available()):
        return NumbaJoin(threshold, store, tags, coming)
    return NumpyJoin(threshold, store, tags, coming)

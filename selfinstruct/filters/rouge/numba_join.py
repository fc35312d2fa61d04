"""The ROUGE-L join with numba: one text after the other in machine code."""

from __future__ import annotations

import numpy as np

from selfinstruct.filters.engines import rouge_kernels
from selfinstruct.filters.rouge.prefix_filter import Order, Prefix, least_table
from selfinstruct.filters.rouge.token_store import Block, Matches, Store, grown

__all__ = ["NumbaJoin"]


class NumbaJoin:
    """A ``Join`` in machine code. The postings of a tag are contiguous, for sequential access to memory."""

    def __init__(self, threshold: float, store: Store, tags: int, coming: Block) -> None:
        self._kernels = rouge_kernels()
        self._threshold = threshold
        self._store = store
        self._order = Order((store.block, coming), tags)
        self._lists = np.zeros((max(tags, 1), 4), dtype=np.int32)  # for each tag; see numba_kernels.make_room
        self._postings = np.zeros((1024, 3), dtype=np.int32)
        self._used = 0
        self._seen = np.zeros(64, dtype=np.int64)
        self._slot = np.zeros(max(tags, 1), dtype=np.int32)
        self._stamp = 1
        if len(store):
            self._index(store.block, 0)

    def match(self, block: Block, *, insert: bool) -> Matches:
        """Match each text of a block; see ``Join.match``."""
        store = self._store
        prefix = self._order.prefixes(block, self._threshold)
        offsets = np.searchsorted(prefix.text, np.arange(len(block) + 1))
        self._reserve_numbers(block)
        if insert:
            self._make_room(prefix)
            store.reserve(len(block), len(block.tokens))
        if len(self._seen) < len(store.sizes):
            self._seen = grown(self._seen, len(store.sizes))
        rows = np.empty(len(block), dtype=np.int64)
        scores = np.empty(len(block), dtype=np.float64)
        store.rows = self._kernels.join_block(
            self._threshold,
            insert,
            store.rows,
            self._stamp,
            least_table(self._threshold),
            block.tokens,
            block.tags,
            block.offsets,
            block.bits,
            prefix.tag,
            offsets,
            store.tokens,
            store.tags,
            store.offsets,
            store.sizes,
            store.bits,
            self._lists,
            self._postings,
            self._seen,
            self._slot,
            rows,
            scores,
        )
        self._stamp += len(block)
        return rows, scores

    def append(self, block: Block) -> None:
        """Append texts without matching them."""
        start = len(self._store)
        self._store.extend(block)
        self._index(block, start)

    def _index(self, block: Block, start: int) -> None:
        """Add postings for texts that are the rows of the store from ``start`` on."""
        prefix = self._order.prefixes(block, self._threshold)
        offsets = np.searchsorted(prefix.text, np.arange(len(block) + 1))
        self._reserve_numbers(block)
        self._make_room(prefix)
        self._kernels.add_rows(start, block.sizes, prefix.tag, offsets, self._lists, self._postings)

    def _make_room(self, prefix: Prefix) -> None:
        """Make room for one more posting per tag of these prefixes."""
        needed = 1
        while needed:
            self._used, needed = self._kernels.make_room(prefix.tag, self._lists, self._postings, self._used)
            if needed:
                self._postings = grown(self._postings, max(needed, 2 * len(self._postings)))

    def _reserve_numbers(self, block: Block) -> None:
        """Make room for every token and tag number of a block."""
        needed = max(int(block.tags.max(initial=0)), int(block.tokens.max(initial=0))) + 1
        if needed > len(self._lists):
            size = max(needed, 2 * len(self._lists))
            self._lists = grown(self._lists, size)
            self._slot = grown(self._slot, size)

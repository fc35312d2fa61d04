"""The prefix filter: find the pairs of texts that can exceed the threshold, by prefixes, ranks, lengths and sketches.

The tags of each text are sorted by one global order, rarest first. If two texts of m and n tags share at least o tags,
they share one among the first m - o + 1 and n - o + 1 (Chaudhuri, Ganti, Kaushik 2006, "A primitive operator for
similarity joins in data cleaning"). Only these prefixes are indexed and looked up; since their tags are rare, few texts
share one. No test here discards a pair that exceeds the threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from selfinstruct.filters.rouge.lcs import least_lcs_array, least_match, least_match_array
from selfinstruct.filters.rouge.token_store import Block, Ints, Longs, Store, Words, distinct

__all__ = ["Order", "Postings", "Prefix", "PrefixIndex", "candidates", "least_table"]

TABLE = 256  # sizes below which the least LCS is looked up
CHUNK = 1 << 20  # collisions processed at once, to bound memory
RECENT = 1024  # postings kept in a dict until they are worth sorting
HALF = np.int64(1) << np.int64(31)
LOW = np.int64(0xFFFFFFFF)


@lru_cache(maxsize=8)
def least_table(threshold: float) -> Ints:
    """Return the least LCS above the threshold for each pair of sizes below ``TABLE``."""
    sizes = np.arange(TABLE)
    return least_lcs_array(threshold, sizes[:, None], sizes[None, :]).astype(np.int32)


def least_of_pairs(threshold: float, m: Ints, n: Ints) -> npt.NDArray[np.integer]:
    """Return the least LCS above the threshold for each pair of sizes."""
    if len(m) and max(int(m.max()), int(n.max())) >= TABLE:
        return least_lcs_array(threshold, m, n)
    return least_table(threshold)[m, n]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The prefixes of some texts, as parallel arrays.

    Attributes:
        text: Number of the text.
        tag: A tag of its prefix.
        rank: Position of the tag in the text's sorted tags, from 0.
    """

    text: Longs
    tag: Longs
    rank: Ints

    def shifted(self, by: int) -> Prefix:
        """Return the same prefixes with text numbers increased by ``by``."""
        return Prefix(self.text + by, self.tag, self.rank)


class Order:
    """An order of tags, rarest first; unseen tags come before all others, the newest first.

    Args:
        blocks: The texts whose tag frequencies determine the order.
        tags: Number of tags so far.
    """

    def __init__(self, blocks: tuple[Block, ...], tags: int) -> None:
        counts = np.zeros(tags, dtype=np.int64)
        for block in blocks:
            counts += np.bincount(block.tags, minlength=tags)
        if not tags:
            counts = np.zeros(1, dtype=np.int64)  # so that a look-up never meets an empty array
        self._tag_of = np.argsort(counts, kind="stable")
        self._order_of = np.empty(len(counts), dtype=np.int64)
        self._order_of[self._tag_of] = np.arange(len(counts))

    def prefixes(self, block: Block, threshold: float) -> Prefix:
        """Return the prefixes to index or look up for a threshold."""
        if len(block) == 1:
            return self._prefix(block, threshold)
        sizes = block.sizes
        seen = block.tags < len(self._order_of)
        order = np.where(seen, self._order_of[np.where(seen, block.tags, 0)], -1 - block.tags.astype(np.int64))
        text = np.repeat(np.arange(len(block)), sizes)
        keys = np.sort(text << np.int64(32) | (order + HALF))
        rank = (np.arange(len(keys)) - np.repeat(block.offsets[:-1], sizes)).astype(np.int32)
        length = sizes - least_match_array(threshold, sizes) + 1
        in_prefix = rank < np.repeat(length, sizes)
        keys = keys[in_prefix]
        order = (keys & LOW) - HALF
        tag = np.where(order < 0, -1 - order, self._tag_of[np.maximum(order, 0)])
        return Prefix(keys >> np.int64(32), tag, rank[in_prefix])

    def _prefix(self, block: Block, threshold: float) -> Prefix:
        """Return the prefix of one text, for which plain Python is faster than arrays."""
        tags, seen = block.tags.tolist(), len(self._order_of)
        if not tags:
            return NOTHING
        order = self._order_of
        ordered = sorted([(int(order[tag]) if tag < seen else -1 - tag, tag) for tag in tags])
        prefix = [tag for _, tag in ordered[: len(tags) - least_match(threshold, len(tags)) + 1]]
        count = len(prefix)
        return Prefix(
            np.zeros(count, dtype=np.int64), np.array(prefix, dtype=np.int64), np.arange(count, dtype=np.int32)
        )


NOTHING = Prefix(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32))


class Postings:
    """For each tag, the texts that have it in their prefix, with its rank."""

    def __init__(self, prefix: Prefix) -> None:
        order = np.argsort(prefix.tag, kind="stable")
        self.prefix = Prefix(prefix.text[order].astype(np.int32), prefix.tag[order], prefix.rank[order])
        tags, first = np.unique(self.prefix.tag, return_index=True)
        self._tags = np.append(tags, np.iinfo(np.int64).max)  # a sentinel: every search ends before it
        self._starts = np.append(first, (len(order), len(order)))

    def __len__(self) -> int:
        return len(self.prefix.tag)

    def ranges(self, tags: Longs) -> tuple[Longs, Longs]:
        """Return start and number of the postings of each tag."""
        position = self._tags.searchsorted(tags)
        start = self._starts[position]
        return start, np.where(self._tags[position] == tags, self._starts[position + 1] - start, 0)

    def lists(self, prefix: Prefix) -> Iterator[tuple[int, npt.NDArray[np.signedinteger], Ints]]:
        """Yield for each tag of one prefix with postings its rank, and the texts of the postings with their ranks."""
        position = self._tags.searchsorted(prefix.tag)
        hit = (self._tags[position] == prefix.tag).nonzero()[0]
        starts, ends = self._starts[position[hit]].tolist(), self._starts[position[hit] + 1].tolist()
        text, rank = self.prefix.text, self.prefix.rank
        for rank_in_prefix, start, end in zip(prefix.rank[hit].tolist(), starts, ends, strict=True):
            yield rank_in_prefix, text[start:end], rank[start:end]


def candidates(
    threshold: float, block: Block, prefix: Prefix, postings: Postings, sizes: Ints, bits: Words
) -> list[Longs]:
    """Return the pairs that share a tag of both prefixes and pass every test, with repetition.

    Args:
        threshold: Highest F1 that is kept.
        block: The texts.
        prefix: Their prefixes.
        postings: The prefixes of the rows.
        sizes, bits: Sizes and sketches of the rows.

    Returns:
        Parts of the pairs, each pair as text of the block << 32 | row.
    """
    if not len(postings):
        return []
    start, count = postings.ranges(prefix.tag)
    parts: list[Longs] = []
    ends = np.cumsum(count)
    begin = 0
    while begin < len(ends):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + CHUNK, side="right")))
        part = slice(begin, end)
        positions = np.repeat(start[part] - (ends[part] - count[part] - done), count[part])
        positions += np.arange(len(positions))
        parts.append(
            _tested(
                threshold,
                block,
                Prefix(np.repeat(prefix.text[part], count[part]), positions, np.repeat(prefix.rank[part], count[part])),
                Prefix(postings.prefix.text[positions], positions, postings.prefix.rank[positions]),
                sizes,
                bits,
            )
        )
        begin = end
    return parts


def _tested(threshold: float, block: Block, left: Prefix, right: Prefix, sizes: Ints, bits: Words) -> Longs:
    """Return the pairs that can exceed the threshold, among the collisions of texts (left) with rows (right)."""
    m, n = block.sizes[left.text], sizes[right.text]
    least = least_of_pairs(threshold, m, n)
    # If this is the first tag that a pair shares, it shares at most the tags from there on. This tests the lengths too.
    keep = np.flatnonzero(np.minimum(m - left.rank, n - right.rank) >= least)
    text, row = left.text[keep], right.text[keep]
    differ = np.bitwise_count(block.bits[text] ^ bits[row]).sum(axis=1, dtype=np.int32)
    close = differ <= m[keep] + n[keep] - 2 * least[keep]
    pairs: Longs = text[close].astype(np.int64) << np.int64(32) | row[close]
    return pairs


class PrefixIndex:
    """The prefixes of a pool's texts: sorted runs, which are merged as they grow, and a dict of the latest postings."""

    def __init__(self, threshold: float, store: Store, order: Order) -> None:
        self.threshold = threshold
        self.store = store
        self.order = order
        self._runs: list[Postings] = []
        self._recent: dict[int, list[tuple[int, int]]] = {}
        self._count = 0

    def add(self, prefix: Prefix) -> None:
        """Index rows of the store."""
        if len(prefix.tag) > RECENT:
            self._settle(prefix)
            return
        for row, tag, rank in zip(prefix.text.tolist(), prefix.tag.tolist(), prefix.rank.tolist(), strict=True):
            self._recent.setdefault(tag, []).append((row, rank))
        self._count += len(prefix.tag)
        if self._count > RECENT:
            self._settle(None)

    def _settle(self, more: Prefix | None) -> None:
        """Sort the latest postings into a run; merge runs so that each is at least four times as long as the next."""
        parts = [] if more is None else [more]
        if self._recent:
            tags = np.fromiter(self._recent, dtype=np.int64, count=len(self._recent))
            pairs = np.array(list(chain.from_iterable(self._recent.values())), dtype=np.int64)
            repeats = list(map(len, self._recent.values()))
            parts.append(Prefix(pairs[:, 0], np.repeat(tags, repeats), pairs[:, 1].astype(np.int32)))
            self._recent, self._count = {}, 0
        run = Postings(joined(parts))
        while self._runs and len(self._runs[-1]) < 4 * len(run):
            run = Postings(joined([self._runs.pop().prefix, run.prefix]))
        self._runs.append(run)

    def near(self, block: Block, prefix: Prefix) -> list[tuple[int, int, int]]:
        """Return the candidates of a block of one text, in fewer steps: row, least LCS and size of each, in order."""
        m = len(block.tokens)
        rows: list[npt.NDArray[np.signedinteger]] = []
        ranks: list[Ints] = []
        room, counts = [], []
        for run in self._runs:
            for rank, texts, ranks_of_texts in run.lists(prefix):
                rows.append(texts)
                ranks.append(ranks_of_texts)
                room.append(m - rank)
                counts.append(len(texts))
        if self._recent:
            for tag, rank in zip(prefix.tag.tolist(), prefix.rank.tolist(), strict=True):
                if postings := self._recent.get(tag):
                    latest = np.array(postings, dtype=np.int32)
                    rows.append(latest[:, 0])
                    ranks.append(latest[:, 1])
                    room.append(m - rank)
                    counts.append(len(postings))
        if not rows:
            return []
        row = np.concatenate(rows)
        n = self.store.sizes[row]
        if m < TABLE and int(n.max()) < TABLE:
            least = least_table(self.threshold)[m].take(n)
        else:
            least = least_lcs_array(self.threshold, m, n)
        most = np.minimum(np.repeat(np.array(room), counts), n - np.concatenate(ranks))
        keep = (most >= least).nonzero()[0]
        if not len(keep):
            return []
        row, n, least = row[keep], n[keep], least[keep]
        differ = np.bitwise_count(self.store.bits[row] ^ block.bits).sum(axis=1, dtype=np.int32)
        close = (differ <= m + n - 2 * least).nonzero()[0]
        return sorted(set(zip(row[close].tolist(), least[close].tolist(), n[close].tolist(), strict=True)))

    def candidates(self, block: Block, prefix: Prefix) -> Longs:
        """Return the pairs (text of the block << 32 | row) that can exceed the threshold, distinct and sorted."""
        sizes, bits = self.store.sizes, self.store.bits
        parts: list[Longs] = []
        for run in self._runs:
            parts += candidates(self.threshold, block, prefix, run, sizes, bits)
        if self._recent:
            hits = [
                (text, row, rank, rank_in_row)
                for text, tag, rank in zip(prefix.text.tolist(), prefix.tag.tolist(), prefix.rank.tolist(), strict=True)
                for row, rank_in_row in self._recent.get(tag, ())
            ]
            if hits:
                text, row, rank, rank_in_row = np.array(hits, dtype=np.int64).T
                left, right = Prefix(text, row, rank), Prefix(row, row, rank_in_row)
                parts.append(_tested(self.threshold, block, left, right, sizes, bits))
        return distinct(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)


def joined(parts: list[Prefix]) -> Prefix:
    """Return several prefixes as one."""
    return Prefix(
        np.concatenate([part.text for part in parts]),
        np.concatenate([part.tag for part in parts]),
        np.concatenate([part.rank for part in parts]),
    )

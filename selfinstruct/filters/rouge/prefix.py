"""Which pairs can exceed the threshold at all: prefix filter, places, lengths and sketches, on arrays.

Sort the tags of each text by one order for all. Two texts that share at least o tags, of m and n, share one among the
first m - o + 1 and n - o + 1 (Chaudhuri, Ganti, Kaushik 2006): only these prefixes are indexed and looked up, rare
tags first, so that few texts meet in any of them. Every test here keeps each pair that the decision needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from selfinstruct.filters.rouge.lcs import least_lcs_array, least_match, least_match_array
from selfinstruct.filters.rouge.store import Block, Ints, Longs, Store, Words, distinct

__all__ = ["Order", "Postings", "Prefix", "PrefixIndex", "candidates", "least_table"]

TABLE = 256  # sizes up to which the least LCS is looked up
CHUNK = 1 << 20  # collisions worked on at once, to bound memory
RECENT = 1024  # postings kept in a dict until they are worth sorting
HALF = np.int64(1) << np.int64(31)
LOW = np.int64(0xFFFFFFFF)


@lru_cache(maxsize=8)
def least_table(threshold: float) -> Ints:
    """The least LCS for each pair of sizes below ``TABLE``."""
    sizes = np.arange(TABLE)
    return least_lcs_array(threshold, sizes[:, None], sizes[None, :]).astype(np.int32)


def least_of_pairs(threshold: float, m: Ints, n: Ints) -> npt.NDArray[np.integer]:
    """The least LCS of each pair of sizes."""
    if len(m) and max(int(m.max()), int(n.max())) >= TABLE:
        return least_lcs_array(threshold, m, n)
    return least_table(threshold)[m, n]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The prefixes of some texts: parallel arrays of text, tag, and place of the tag in the text's order."""

    text: Longs
    tag: Longs
    place: Ints

    def shifted(self, by: int) -> Prefix:
        """The same prefixes of texts numbered from ``by`` on."""
        return Prefix(self.text + by, self.tag, self.place)


class Order:
    """An order of tags, rarest first; tags it has never seen come before all others, the newest first.

    Args:
        blocks: Texts whose frequencies decide.
        tags: Number of tags so far.
    """

    def __init__(self, blocks: tuple[Block, ...], tags: int) -> None:
        counts = np.zeros(tags, dtype=np.int64)
        for block in blocks:
            counts += np.bincount(block.tags, minlength=tags)
        if not tags:
            counts = np.zeros(1, dtype=np.int64)  # so that every look-up has something to look at
        self._tag_of = np.argsort(counts, kind="stable")
        self._rank = np.empty(len(counts), dtype=np.int64)
        self._rank[self._tag_of] = np.arange(len(counts))

    def prefixes(self, block: Block, threshold: float) -> Prefix:
        """The prefixes to index or look up for a threshold."""
        if len(block) == 1:
            return self._prefix(block, threshold)
        sizes = block.sizes
        known = block.tags < len(self._rank)
        rank = np.where(known, self._rank[np.where(known, block.tags, 0)], -1 - block.tags.astype(np.int64))
        text = np.repeat(np.arange(len(block)), sizes)
        keys = np.sort(text << np.int64(32) | (rank + HALF))
        place = (np.arange(len(keys)) - np.repeat(block.offsets[:-1], sizes)).astype(np.int32)
        length = sizes - least_match_array(threshold, sizes) + 1
        chosen = place < np.repeat(length, sizes)
        keys = keys[chosen]
        rank = (keys & LOW) - HALF
        tag = np.where(rank < 0, -1 - rank, self._tag_of[np.maximum(rank, 0)])
        return Prefix(keys >> np.int64(32), tag, place[chosen])

    def _prefix(self, block: Block, threshold: float) -> Prefix:
        """The prefix of one text; for so little, plain Python is faster than arrays."""
        tags, known = block.tags.tolist(), len(self._rank)
        if not tags:
            return NOTHING
        rank = self._rank
        ranked = sorted([(int(rank[tag]) if tag < known else -1 - tag, tag) for tag in tags])
        chosen = [tag for _, tag in ranked[: len(tags) - least_match(threshold, len(tags)) + 1]]
        count = len(chosen)
        return Prefix(
            np.zeros(count, dtype=np.int64), np.array(chosen, dtype=np.int64), np.arange(count, dtype=np.int32)
        )


NOTHING = Prefix(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32))


class Postings:
    """For each tag, the texts that have it in their prefix, and where."""

    def __init__(self, prefix: Prefix) -> None:
        order = np.argsort(prefix.tag, kind="stable")
        self.prefix = Prefix(prefix.text[order].astype(np.int32), prefix.tag[order], prefix.place[order])
        tags, first = np.unique(self.prefix.tag, return_index=True)
        self._tags = np.append(tags, np.iinfo(np.int64).max)  # no tag is that; every search ends before it
        self._starts = np.append(first, (len(order), len(order)))

    def __len__(self) -> int:
        return len(self.prefix.tag)

    def ranges(self, tags: Longs) -> tuple[Longs, Longs]:
        """Start and number of the postings of each tag."""
        at = self._tags.searchsorted(tags)
        start = self._starts[at]
        return start, np.where(self._tags[at] == tags, self._starts[at + 1] - start, 0)

    def lists(self, prefix: Prefix) -> Iterator[tuple[int, npt.NDArray[np.signedinteger], Ints]]:
        """For each tag of one prefix that is here its place, and the texts and places that have it."""
        at = self._tags.searchsorted(prefix.tag)
        hit = (self._tags[at] == prefix.tag).nonzero()[0]
        at = at[hit]
        text, place = self.prefix.text, self.prefix.place
        bounds = zip(prefix.place[hit].tolist(), self._starts[at].tolist(), self._starts[at + 1].tolist(), strict=True)
        for own, start, end in bounds:
            yield own, text[start:end], place[start:end]


def candidates(
    threshold: float, block: Block, prefix: Prefix, postings: Postings, sizes: Ints, bits: Words
) -> list[Longs]:
    """Pairs that share a tag of both prefixes and pass every test, as text of the block << 32 | row; with repetition.

    Args:
        prefix: Of the block.
        sizes: Of the rows that ``postings`` hold; ``bits`` likewise.
    """
    if not len(postings):
        return []
    start, count = postings.ranges(prefix.tag)
    found: list[Longs] = []
    ends = np.cumsum(count)
    begin = 0
    while begin < len(ends):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + CHUNK, side="right")))
        part = slice(begin, end)
        at = np.repeat(start[part] - (ends[part] - count[part] - done), count[part])
        at += np.arange(len(at))
        found.append(
            _tested(
                threshold,
                block,
                Prefix(np.repeat(prefix.text[part], count[part]), at, np.repeat(prefix.place[part], count[part])),
                Prefix(postings.prefix.text[at], at, postings.prefix.place[at]),
                sizes,
                bits,
            )
        )
        begin = end
    return found


def _tested(threshold: float, block: Block, left: Prefix, right: Prefix, sizes: Ints, bits: Words) -> Longs:
    """Of the collisions of texts of the block (left) with rows (right), those whose pair can exceed the threshold."""
    m, n = block.sizes[left.text], sizes[right.text]
    least = least_of_pairs(threshold, m, n)
    # In the first tag that a pair shares, no more than the tags from there on are shared; also tests the lengths.
    keep = np.flatnonzero(np.minimum(m - left.place, n - right.place) >= least)
    text, row = left.text[keep], right.text[keep]
    differ = np.bitwise_count(block.bits[text] ^ bits[row]).sum(axis=1, dtype=np.int32)
    close = differ <= m[keep] + n[keep] - 2 * least[keep]
    pairs: Longs = text[close].astype(np.int64) << np.int64(32) | row[close]
    return pairs


class PrefixIndex:
    """The prefixes of a pool's texts: sorted runs that are merged as they grow, and a dict of the latest."""

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
        for row, tag, place in zip(prefix.text.tolist(), prefix.tag.tolist(), prefix.place.tolist(), strict=True):
            self._recent.setdefault(tag, []).append((row, place))
        self._count += len(prefix.tag)
        if self._count > RECENT:
            self._settle(None)

    def _settle(self, more: Prefix | None) -> None:
        """Sort the latest postings into a run; merge runs so that each is at least four times the next."""
        parts = [] if more is None else [more]
        if self._recent:
            tags = np.fromiter(self._recent, dtype=np.int64, count=len(self._recent))
            pairs = np.array(list(chain.from_iterable(self._recent.values())), dtype=np.int64)
            repeats = [len(found) for found in self._recent.values()]
            parts.append(Prefix(pairs[:, 0], np.repeat(tags, repeats), pairs[:, 1].astype(np.int32)))
            self._recent, self._count = {}, 0
        run = Postings(joined(parts))
        while self._runs and len(self._runs[-1]) < 4 * len(run):
            run = Postings(joined([self._runs.pop().prefix, run.prefix]))
        self._runs.append(run)

    def near(self, block: Block, prefix: Prefix) -> list[tuple[int, int, int]]:
        """As ``candidates`` for a block of one text, in fewer steps: row, least LCS and size of each, in order."""
        m = len(block.tokens)
        rows: list[npt.NDArray[np.signedinteger]] = []
        places: list[Ints] = []
        room, counts = [], []
        for run in self._runs:
            for place, texts, others in run.lists(prefix):
                rows.append(texts)
                places.append(others)
                room.append(m - place)
                counts.append(len(texts))
        if self._recent:
            for tag, place in zip(prefix.tag.tolist(), prefix.place.tolist(), strict=True):
                if found := self._recent.get(tag):
                    latest = np.array(found, dtype=np.int32)
                    rows.append(latest[:, 0])
                    places.append(latest[:, 1])
                    room.append(m - place)
                    counts.append(len(found))
        if not rows:
            return []
        row = np.concatenate(rows)
        n = self.store.sizes[row]
        if m < TABLE and int(n.max()) < TABLE:
            least = least_table(self.threshold)[m].take(n)
        else:
            least = least_lcs_array(self.threshold, m, n)
        most = np.minimum(np.repeat(np.array(room), counts), n - np.concatenate(places))
        keep = (most >= least).nonzero()[0]
        if not len(keep):
            return []
        row, n, least = row[keep], n[keep], least[keep]
        differ = np.bitwise_count(self.store.bits[row] ^ block.bits).sum(axis=1, dtype=np.int32)
        close = (differ <= m + n - 2 * least).nonzero()[0]
        return sorted(set(zip(row[close].tolist(), least[close].tolist(), n[close].tolist(), strict=True)))

    def candidates(self, block: Block, prefix: Prefix) -> Longs:
        """Sorted distinct pairs (text of the block << 32 | row) that can exceed the threshold."""
        sizes, bits = self.store.sizes, self.store.bits
        found: list[Longs] = []
        for run in self._runs:
            found += candidates(self.threshold, block, prefix, run, sizes, bits)
        if self._recent:
            hits = [
                (text, row, place, other)
                for text, tag, place in zip(
                    prefix.text.tolist(), prefix.tag.tolist(), prefix.place.tolist(), strict=True
                )
                for row, other in self._recent.get(tag, ())
            ]
            if hits:
                text, row, place, other = np.array(hits, dtype=np.int64).T
                found.append(
                    _tested(self.threshold, block, Prefix(text, row, place), Prefix(row, row, other), sizes, bits)
                )
        return distinct(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)


def joined(parts: list[Prefix]) -> Prefix:
    """Several prefixes as one."""
    return Prefix(
        np.concatenate([part.text for part in parts]),
        np.concatenate([part.tag for part in parts]),
        np.concatenate([part.place for part in parts]),
    )

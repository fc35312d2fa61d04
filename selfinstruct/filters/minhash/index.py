"""Near-duplicates: MinHash and banded LSH find candidates, exact Jaccard similarity of the shingle sets decides.

The index is greedy: a text is compared only with the kept texts, so that no chain of small changes removes a whole
cluster.

128 permutations in 20 bands of 6 find a pair of Jaccard 0.8 with a probability of 99.8%, and one of 0.7 with 92%
(Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Self

import numpy as np

from selfinstruct.errors import UsageError
from selfinstruct.filters import index_file
from selfinstruct.filters.engines import MANY, Engine, available
from selfinstruct.filters.hashing import Hashes
from selfinstruct.filters.minhash.bands import Bands, Hits, pack_entries, pairs_of, renumber
from selfinstruct.filters.minhash.signatures import Signatures
from selfinstruct.filters.minhash.sketches import Columns, Sketcher, Sketches
from selfinstruct.filters.rouge.token_store import Longs
from selfinstruct.filters.text import differ_in_symbols_alone
from selfinstruct.filters.text_index import Rows, TextIndex
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["NearDuplicateIndex"]

BATCH = 8192  # texts taken from an iterable at once
FIRST = 256  # texts decided on at once while the pool is small, since they are also compared with each other
HITS = 1 << 22  # pairs of a block with the pool or with itself that are expanded at once, to bound memory

Groups = Sequence[str | None]


class NearDuplicateIndex(TextIndex):
    """A pool of texts, which rejects a text that nearly repeats one of them.

    Ids work as in every ``TextIndex``. A text may also belong to a group: texts of the same group are not compared.

    Texts that differ in symbols alone (``C++`` and ``C#``) are never near-duplicates, however many shingles they share.

    The index stores the texts, for the exact comparison, and for each text 8 bytes per band and 68 more; it stores
    neither shingles nor signatures.

    Args:
        threshold: Jaccard similarity of the sets of shingles from which a text is a near-duplicate, above 0, up to 1.
        num_perm: Number of permutations in a signature.
        bands: Number of bands of a signature; more bands find more pairs and verify more.
        shingles: ``char5`` for runs of 5 characters, ``word3`` for runs of 3 words (``tokenize``); any number from 1 to
            99. Case and the width of white space are ignored.
        symbols: Whether texts that differ in symbols alone are kept. If not, the Jaccard similarity alone decides.
        engine: As in ``NoveltyIndex``.

    Raises:
        UsageError: A setting is invalid.
    """

    name = "minhash"
    reason = RejectReason.NEAR_DUPLICATE
    rejects_at_threshold = True

    def __init__(
        self,
        threshold: float = 0.8,
        num_perm: int = 128,
        bands: int = 20,
        *,
        shingles: str = "char5",
        symbols: bool = True,
        engine: Engine = "auto",
    ) -> None:
        if not 0 < threshold <= 1:
            raise UsageError(f"threshold {threshold} is not above 0 and at most 1")
        if not 1 <= bands <= num_perm:
            raise UsageError(f"{bands} bands of {num_perm} permutations: each band needs at least one permutation")
        super().__init__(threshold)
        self.num_perm = num_perm
        self.bands = bands
        self.engine = engine
        self.shingles = shingles
        self.symbols = symbols
        self._sketcher = Sketcher(shingles, num_perm, bands)
        self._texts: list[str] = []
        self._groups: dict[int, str] = {}  # only of rows with a group
        self._keys = Bands()
        self._columns = Columns()

    def empty(self, threshold: float) -> NearDuplicateIndex:
        """Return an empty index with another threshold and otherwise the same settings."""
        return NearDuplicateIndex(
            threshold,
            self.num_perm,
            self.bands,
            shingles=self.shingles,
            symbols=self.symbols,
            engine=self.engine,
        )

    def signatures(self, texts: Iterable[str]) -> Signatures:
        """Return the signature of each text, shape (texts, num_perm), as ``to_datasketch`` takes it."""
        compiled = self._compiled()
        remaining, parts = iter(texts), []
        while batch := list(islice(remaining, BATCH)):
            parts.append(self._sketcher.signatures(batch, compiled=compiled))
        return np.concatenate([np.zeros((0, self.num_perm), dtype=np.uint32), *parts])

    def query(self, text: str, *, group: str | None = None) -> Verdict:
        """Decide on a text and leave the pool unchanged.

        Args:
            text: The text.
            group: Its group; texts of the same group are not compared.

        Returns:
            The verdict. A kept text has neither score nor nearest, since pairs that LSH did not find are unknown.
        """
        sketches = self._sketch([text])
        entries = pack_entries(sketches.keys, np.zeros(1, dtype=np.int64))
        hits = self._keys.look_up(entries, compiled=self._compiled())
        rows, scores = self._in_pool([text], sketches, [group], hits)
        return self._rejection(scores[0], self._ids.names[rows[0]]) if rows[0] >= 0 else self._kept

    def offer(self, text: str, id: str | None = None, *, group: str | None = None) -> Verdict:  # noqa: A002
        """Decide on a text, and add it to the pool if it is kept.

        Raises:
            UsageError: The id is in the pool already.
        """
        return self.offer_many([text], None if id is None else [id], groups=[group])[0]

    def offer_many(
        self, texts: Iterable[str], ids: Iterable[str] | None = None, *, groups: Iterable[str | None] | None = None
    ) -> list[Verdict]:
        """Offer texts one after the other; equal to repeated ``offer``, but much faster.

        Raises:
            UsageError: An id occurs twice, or is in the pool already. Earlier batches have been decided by then.
        """
        verdicts: list[Verdict] = []
        remaining = _iterate_groups(groups)
        for batch, names in self._batches(texts, ids, lambda: min(max(FIRST, len(self) // 4), BATCH)):
            verdicts += self._offer(batch, self._sketch(batch), names, _take_groups(remaining, len(batch)))
        return verdicts

    def add(self, text: str, id: str | None = None, *, group: str | None = None) -> None:  # noqa: A002
        """Add a text to the pool without a decision.

        Raises:
            UsageError: The id is in the pool already.
        """
        self.fit([text], None if id is None else [id], groups=[group])

    def fit(
        self, texts: Iterable[str], ids: Iterable[str] | None = None, *, groups: Iterable[str | None] | None = None
    ) -> Self:
        """Add texts to the pool without decisions. Return the index itself.

        Raises:
            UsageError: An id occurs twice, or is in the pool already.
        """
        remaining = _iterate_groups(groups)
        for batch, names in self._batches(texts, ids, lambda: BATCH):
            start, sketches = len(self), self._sketch(batch)
            entries = pack_entries(sketches.keys, np.arange(start, start + len(batch)))
            self._insert(batch, sketches, entries, names, _take_groups(remaining, len(batch)))
        return self

    def merge(self, other: NearDuplicateIndex) -> list[Verdict]:
        """Offer the texts of another index, with their ids and groups, in their order; the other index is unchanged.

        Raises:
            UsageError: The settings of the indexes differ, or an id is in both.
        """
        mine, theirs = self._parameters(), other._parameters()
        if mine != theirs:
            raise UsageError(f"the settings of the indexes differ, {mine} and {theirs}: build one of them again")
        groups = [other._groups.get(row) for row in range(len(other))]
        return self.offer_many(other._texts, other._ids.names, groups=groups)

    @classmethod
    def load(cls, path: str | Path, *, engine: Engine = "auto") -> Self:
        """Return the index that ``save`` wrote.

        Raises:
            UsageError: The file cannot be read, is damaged, or holds another kind or version of index.
        """
        return cls._load(
            path,
            lambda parameters: cls(
                parameters["threshold"],
                parameters["num_perm"],
                parameters["bands"],
                shingles=parameters["shingles"],
                symbols=parameters.get("symbols", True),
                engine=engine,
            )._check_words(parameters, path),
        )

    def _check_words(self, parameters: Mapping[str, object], path: str | Path) -> Self:
        """Return the index itself if the words of a saved one are read as they are now.

        Raises:
            UsageError: They are not.
        """
        if parameters.get("words") != self._parameters().get("words"):
            raise UsageError(
                f"{path} has shingles of words without symbols, from an earlier version: build the index again from "
                "its texts"
            )
        return self

    def _parameters(self) -> dict[str, float | int | str]:
        return {
            "threshold": self.threshold,
            "num_perm": self.num_perm,
            "bands": self.bands,
            "shingles": self.shingles,
            "symbols": self.symbols,
            **({} if self.shingles.startswith("char") else {"words": "symbols"}),
        }

    def _arrays(self) -> dict[str, index_file.Array]:
        grouped = sorted(self._groups)
        return {
            "keys": self._keys.merged(),
            "sizes": self._columns.sizes,
            "parities": self._columns.parities,
            "grouped": np.array(grouped, dtype=np.int64),
            **index_file.pack("texts", self._texts),
            **index_file.pack("groups", [self._groups[row] for row in grouped]),
        }

    def _restore(self, arrays: Mapping[str, index_file.Array]) -> None:
        self._texts = index_file.unpack("texts", arrays)
        groups = index_file.unpack("groups", arrays)
        self._groups = dict(zip(arrays["grouped"].tolist(), groups, strict=True))
        keys, sizes, parities = arrays["keys"], arrays["sizes"], arrays["parities"]
        if not len(self._texts) == len(self) == len(sizes) == len(parities) == len(keys) / self.bands:
            raise ValueError("its arrays have different lengths")
        self._keys = Bands(keys)
        self._columns.extend(sizes, parities)

    def _select(self, rows: Rows) -> None:
        former = rows.tolist()
        self._texts = [self._texts[row] for row in former]
        self._groups = {row: self._groups[old] for row, old in enumerate(former) if old in self._groups}
        self._keys, self._columns = self._keys.selected(rows), self._columns.selected(rows)

    def _compiled(self) -> bool:
        return self.engine == "numba" or (self.engine == "auto" and self.taken >= MANY and available())

    def _sketch(self, texts: Sequence[str]) -> Sketches:
        return self._sketcher.sketch(texts, compiled=self._compiled())

    def _insert(
        self, texts: Sequence[str], sketches: Sketches, entries: Hashes, names: Sequence[str], groups: Groups
    ) -> None:
        """Append texts to the pool, with the band entries of their new rows."""
        start = len(self._texts)
        self._texts += texts
        self._keys.add(entries, len(texts))
        self._columns.extend(sketches.sizes, sketches.parities)
        self._ids.add(names)
        self._groups.update((row, group) for row, group in enumerate(groups, start) if group is not None)

    def _offer(self, texts: Sequence[str], sketches: Sketches, names: Sequence[str], groups: Groups) -> list[Verdict]:
        """Decide on a block of texts, and add the kept ones."""
        entries = pack_entries(sketches.keys, np.arange(len(texts)))
        compiled = self._compiled()
        in_pool, within = self._keys.look_up(entries, compiled=compiled), Hits(entries, entries, compiled=compiled)
        if len(texts) > 1 and sum(hits.count for hits in in_pool) + within.count > HITS:
            # Many similar texts: most of them will match the first of them, once that is in the pool.
            half, verdicts = len(texts) // 2, []
            for part in (slice(None, half), slice(half, None)):
                verdicts += self._offer(texts[part], sketches.part(part), names[part], groups[part])
            return verdicts
        rows, scores = self._in_pool(texts, sketches, groups, in_pool)
        if len(texts) > 1:
            self._within(texts, sketches, groups, within, rows, scores)
        new = [number for number, row in enumerate(rows) if row < 0]
        numbers = np.array(new, dtype=np.int64)
        self._insert(
            [texts[number] for number in new],
            sketches.part(numbers),
            renumber(entries, numbers, len(self._texts)),
            [names[number] for number in new],
            [groups[number] for number in new],
        )
        return [
            self._rejection(score, self._ids.names[row]) if row >= 0 else self._kept
            for row, score in zip(rows, scores, strict=True)
        ]

    def _in_pool(
        self, texts: Sequence[str], sketches: Sketches, groups: Groups, hits: list[Hits]
    ) -> tuple[list[int], list[float]]:
        """Return for each text the row of its nearest near-duplicate in the pool and the score, or -1 and 0.0."""
        rows, scores = [-1] * len(texts), [0.0] * len(texts)
        for number, row, score in self._similar(pairs_of(hits), texts, sketches, self._texts, self._columns):
            comparable = groups[number] is None or self._groups.get(row) != groups[number]
            if score > scores[number] and comparable and not self._distinct(texts[number], self._texts[row]):
                rows[number], scores[number] = row, score
        return rows, scores

    def _within(
        self,
        texts: Sequence[str],
        sketches: Sketches,
        groups: Groups,
        hits: Hits,
        rows: list[int],
        scores: list[float],
    ) -> None:
        """Compare texts also with the kept texts before them in the block, and write the future rows of matches."""
        pairs = pairs_of([hits])
        later, earlier = pairs >> 32, pairs & 0xFFFFFFFF
        new = np.array(rows) < 0  # a text with a match in the pool is not kept, so nothing is compared with it
        pairs = pairs[(earlier < later) & new[earlier]]
        matches: dict[int, int] = {}
        for number, other, score in self._similar(pairs, texts, sketches, texts, sketches):
            comparable = groups[number] is None or groups[other] != groups[number]
            comparable = comparable and other not in matches
            if score > scores[number] and comparable and not self._distinct(texts[number], texts[other]):
                matches[number], scores[number] = other, score
        kept = np.cumsum([row < 0 and number not in matches for number, row in enumerate(rows)])
        for number, other in matches.items():
            rows[number] = len(self._texts) + int(kept[other]) - 1

    def _distinct(self, first: str, second: str) -> bool:
        """Return whether two similar texts are different ones because of their symbols."""
        return self.symbols and differ_in_symbols_alone(first, second)

    def _similar(
        self,
        pairs: Longs,
        texts: Sequence[str],
        sketches: Sketches,
        others: Sequence[str],
        columns: Sketches | Columns,
    ) -> Iterable[tuple[int, int, float]]:
        return self._sketcher.similar(
            self.threshold, pairs, texts, sketches, others, columns, compiled=self._compiled()
        )


def _iterate_groups(groups: Iterable[str | None] | None) -> Iterator[str | None]:
    return repeat(None) if groups is None else iter(groups)


def _take_groups(groups: Iterator[str | None], count: int) -> list[str | None]:
    """Return the next groups.

    Raises:
        UsageError: There are fewer than ``count``.
    """
    batch = list(islice(groups, count))
    if len(batch) != count:
        raise UsageError("there are fewer groups than texts")
    return batch

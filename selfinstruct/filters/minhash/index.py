"""Near-duplicates: MinHash and banded LSH find candidates, exact Jaccard similarity of the shingle sets decides.

Greedy: a text is compared with those that were kept, so that no chain of small changes removes a whole cluster.

128 permutations in 20 bands of 6 find a pair of Jaccard 0.8 with a probability of 99.8%, and one of 0.7 with 92%.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import NoReturn

import numpy as np

from selfinstruct.errors import UsageError
from selfinstruct.filters import snapshot
from selfinstruct.filters.engines import MANY, Engine, available
from selfinstruct.filters.hashing import Hashes
from selfinstruct.filters.ids import NO_PICKLE, Ids, paired
from selfinstruct.filters.minhash.bands import Bands, Hits, packed, pairs_of, renumbered
from selfinstruct.filters.minhash.signatures import Signatures
from selfinstruct.filters.minhash.sketches import Columns, Sketcher, Sketches
from selfinstruct.filters.rouge.store import Longs
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["NearDuplicateIndex"]

BATCH = 8192  # texts taken from an iterable at once
FIRST = 256  # texts judged at once while the pool is small, since they are also compared with each other
HITS = 1 << 22  # pairs of a block and the pool, or of a block, that are written out at once, to bound memory


class NearDuplicateIndex:
    """A pool of texts, and the judgement whether another one nearly repeats one of them.

    Every text has an id, a string: the one given, or else the running number of the texts offered and added so far,
    rejected ones included. Verdicts name the earliest of the most similar texts.

    It holds the texts (for the exact comparison), and of each 8 bytes for each band and 68 more; no shingles and no
    signatures.

    Args:
        threshold: Jaccard similarity of the sets of shingles from which on a text is a near-duplicate.
        num_perm: Permutations of a signature.
        bands: Bands into which it is cut; more bands find more pairs and verify more.
        shingles: ``char5``: runs of 5 characters. ``word3``: runs of 3 words. Any number from 1 to 99. Case, and the
            width of white space, make no difference.
        engine: As of ``NoveltyIndex``.
    """

    filter = "minhash"
    reason = RejectReason.NEAR_DUPLICATE

    def __init__(
        self,
        threshold: float = 0.8,
        num_perm: int = 128,
        bands: int = 20,
        *,
        shingles: str = "char5",
        engine: Engine = "auto",
    ) -> None:
        if not 0 < threshold <= 1:
            raise UsageError(f"threshold {threshold} is not above 0 and at most 1")
        if not 1 <= bands <= num_perm:
            raise UsageError(f"{bands} bands of {num_perm} permutations: a band needs at least one of its own")
        self.threshold = threshold
        self.num_perm = num_perm
        self.bands = bands
        self.engine = engine
        self.shingles = shingles
        self._sketcher = Sketcher(shingles, num_perm, bands)
        self._ids = Ids()
        self._texts: list[str] = []
        self._groups: dict[int, str] = {}  # of the rows that have one
        self._keys = Bands()
        self._columns = Columns()

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:  # noqa: A002  (ids are called id everywhere)
        return id in self._ids

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the pool's texts, oldest first."""
        return tuple(self._ids.names)

    @property
    def taken(self) -> int:
        """Texts offered and added so far: the running number of the next."""
        return self._ids.taken

    def empty(self, threshold: float) -> NearDuplicateIndex:
        """An empty index with another threshold, and all else as here."""
        return NearDuplicateIndex(threshold, self.num_perm, self.bands, shingles=self.shingles, engine=self.engine)

    def signatures(self, texts: Iterable[str]) -> Signatures:
        """The signature of each text, shape (texts, num_perm); ``to_datasketch`` takes them from here."""
        compiled = self._compiled()
        rows, parts = iter(texts), []
        while batch := list(islice(rows, BATCH)):
            parts.append(self._sketcher.signatures(batch, compiled=compiled))
        return np.concatenate([np.zeros((0, self.num_perm), dtype=np.uint32), *parts])

    def query(self, text: str, *, group: str | None = None) -> Verdict:
        """Judge a text against the pool and leave the pool as it is.

        Args:
            group: Texts of the same group are not compared with each other.

        Returns:
            Score and nearest of a text that is not kept, neither for one that is: what LSH did not find is unknown.
        """
        sketches = self._sketch([text])
        entries = packed(sketches.keys, np.zeros(1, dtype=np.int64))
        pool = self._keys.look_up(entries, compiled=self._compiled())
        rows, scores = self._in_pool([text], sketches, [group], pool)
        return self._verdict(scores[0], self._ids.names[rows[0]]) if rows[0] >= 0 else KEPT

    def offer(self, text: str, id: str | None = None, *, group: str | None = None) -> Verdict:  # noqa: A002
        """Judge a text and add it if it is kept.

        Raises:
            UsageError: The id is in the pool already.
        """
        return self.offer_many([text], None if id is None else [id], groups=[group])[0]

    def offer_many(
        self, texts: Iterable[str], ids: Iterable[str] | None = None, *, groups: Iterable[str | None] | None = None
    ) -> list[Verdict]:
        """Offer texts one after the other; the same verdicts as ``offer`` gives, much faster.

        Raises:
            UsageError: An id is given twice or is in the pool already. The batches before it have been judged.
        """
        verdicts: list[Verdict] = []
        pairs = iter(paired(texts, ids))
        belonging = repeat(None) if groups is None else iter(groups)
        while batch := list(islice(pairs, min(max(FIRST, len(self) // 4), BATCH))):
            of = _as_many(belonging, len(batch))
            names = self._ids.take(given for _, given in batch)
            own = [text for text, _ in batch]
            verdicts += self._offer(own, self._sketch(own), names, of)
        return verdicts

    def add(self, text: str, id: str | None = None, *, group: str | None = None) -> None:  # noqa: A002
        """Add a text whatever it resembles.

        Raises:
            UsageError: The id is in the pool already.
        """
        self._append([text], self._ids.take([id]), [group])

    def fit(
        self, texts: Iterable[str], ids: Iterable[str] | None = None, *, groups: Iterable[str | None] | None = None
    ) -> NearDuplicateIndex:
        """Add texts unjudged. Returns the index itself.

        Raises:
            UsageError: An id is given twice or is in the pool already.
        """
        pairs = iter(paired(texts, ids))
        belonging = repeat(None) if groups is None else iter(groups)
        while batch := list(islice(pairs, BATCH)):
            names = self._ids.take(given for _, given in batch)
            self._append([text for text, _ in batch], names, _as_many(belonging, len(batch)))
        return self

    def remove(self, ids: Iterable[str]) -> None:
        """Forget texts. Takes time in proportion to the pool: give all ids at once.

        Raises:
            UsageError: An id is not in the pool; nothing is removed.
        """
        rows = self._ids.remove(ids)
        left = np.array(rows, dtype=np.int64)
        self._texts = [self._texts[row] for row in rows]
        self._groups = {place: self._groups[row] for place, row in enumerate(rows) if row in self._groups}
        self._keys, self._columns = self._keys.selected(left), self._columns.selected(left)

    def merge(self, other: NearDuplicateIndex) -> list[Verdict]:
        """Offer the texts of another index, under their ids and groups, in their order; the other is left as it is.

        Raises:
            UsageError: The other has different parameters, or an id is in both.
        """
        mine, theirs = self._description(), other._description()
        if mine != theirs:
            raise UsageError(f"indexes differ in their parameters, {mine} and {theirs}: build one of them again")
        groups = [other._groups.get(row) for row in range(len(other))]
        return self.offer_many(other._texts, other._ids.names, groups=groups)

    def save(self, path: str | Path) -> None:
        """Write the index to a file (npz), in one step; see ``load``."""
        grouped = sorted(self._groups)
        snapshot.write(
            Path(path),
            type(self).__name__,
            {**self._description(), "taken": self._ids.taken},
            {
                "keys": self._keys.whole(),
                "sizes": self._columns.sizes,
                "parities": self._columns.parities,
                "grouped": np.array(grouped, dtype=np.int64),
                **snapshot.pack("texts", self._texts),
                **snapshot.pack("ids", self._ids.names),
                **snapshot.pack("groups", [self._groups[row] for row in grouped]),
            },
        )

    @classmethod
    def load(cls, path: str | Path, *, engine: Engine = "auto") -> NearDuplicateIndex:
        """An index that ``save`` wrote.

        Raises:
            UsageError: The file can't be read, is damaged, or holds another kind or version of index.
        """
        parameters, arrays = snapshot.read(Path(path), cls.__name__)
        try:
            index = cls(
                parameters["threshold"],
                parameters["num_perm"],
                parameters["bands"],
                shingles=parameters["shingles"],
                engine=engine,
            )
            index._texts = snapshot.unpack("texts", arrays)
            index._ids.add(index._ids.take(snapshot.unpack("ids", arrays)))
            index._ids.taken = parameters["taken"]
            groups = snapshot.unpack("groups", arrays)
            index._groups = dict(zip(arrays["grouped"].tolist(), groups, strict=True))
            keys, sizes, parities = arrays["keys"], arrays["sizes"], arrays["parities"]
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged ({error}); build the index again from its texts") from None
        if not len(index._texts) == len(index) == len(sizes) == len(parities) == len(keys) / index.bands:
            raise UsageError(f"{path} is damaged (its arrays are of different lengths); build the index again")
        index._keys = Bands(keys)
        index._columns.extend(sizes, parities)
        return index

    def __reduce__(self) -> NoReturn:
        raise TypeError(NO_PICKLE.format(name=type(self).__name__))

    # --- inside ---

    def _compiled(self) -> bool:
        return self.engine == "numba" or (self.engine == "auto" and self.taken >= MANY and available())

    def _description(self) -> dict[str, float | int | str]:
        return {
            "threshold": self.threshold,
            "num_perm": self.num_perm,
            "bands": self.bands,
            "shingles": self.shingles,
        }

    def _sketch(self, texts: Sequence[str]) -> Sketches:
        return self._sketcher.sketch(texts, compiled=self._compiled())

    def _insert(
        self,
        texts: Sequence[str],
        sketches: Sketches,
        entries: Hashes,
        names: Sequence[str],
        groups: Sequence[str | None],
    ) -> None:
        start = len(self._texts)
        self._texts += texts
        self._keys.add(entries, len(texts))
        self._columns.extend(sketches.sizes, sketches.parities)
        self._ids.add(names)
        self._groups.update((row, group) for row, group in enumerate(groups, start) if group is not None)

    def _append(self, texts: Sequence[str], names: Sequence[str], groups: Sequence[str | None]) -> None:
        start = len(self._texts)
        sketches = self._sketch(texts)
        entries = packed(sketches.keys, np.arange(start, start + len(texts)))
        self._insert(texts, sketches, entries, names, groups)

    def _offer(
        self, texts: Sequence[str], sketches: Sketches, names: Sequence[str], groups: Sequence[str | None]
    ) -> list[Verdict]:
        entries = packed(sketches.keys, np.arange(len(texts)))
        compiled = self._compiled()
        pool, within = self._keys.look_up(entries, compiled=compiled), Hits(entries, entries, compiled=compiled)
        if len(texts) > 1 and sum(one.count for one in pool) + within.count > HITS:
            # Many texts alike: most of them will match the first of them, once that is in the pool.
            half, verdicts = len(texts) // 2, []
            for part in (slice(None, half), slice(half, None)):
                verdicts += self._offer(texts[part], sketches.part(part), names[part], groups[part])
            return verdicts
        rows, scores = self._in_pool(texts, sketches, groups, pool)
        if len(texts) > 1:
            self._within(texts, sketches, groups, within, rows, scores)
        new = [place for place, row in enumerate(rows) if row < 0]
        places = np.array(new, dtype=np.int64)
        self._insert(
            [texts[place] for place in new],
            sketches.part(places),
            renumbered(entries, places, len(self._texts)),
            [names[place] for place in new],
            [groups[place] for place in new],
        )
        return [
            self._verdict(score, self._ids.names[row]) if row >= 0 else KEPT
            for row, score in zip(rows, scores, strict=True)
        ]

    def _in_pool(
        self, texts: Sequence[str], sketches: Sketches, groups: Sequence[str | None], found: list[Hits]
    ) -> tuple[list[int], list[float]]:
        """For each text the row of its nearest near-duplicate in the pool and the score, or -1 and 0.0."""
        rows, scores = [-1] * len(texts), [0.0] * len(texts)
        pairs = pairs_of(found)
        for text, row, score in self._similar(pairs, texts, sketches, self._texts, self._columns):
            if score > scores[text] and (groups[text] is None or self._groups.get(row) != groups[text]):
                rows[text], scores[text] = row, score
        return rows, scores

    def _within(
        self,
        texts: Sequence[str],
        sketches: Sketches,
        groups: Sequence[str | None],
        found: Hits,
        rows: list[int],
        scores: list[float],
    ) -> None:
        """Judge texts also against those before them that are kept, by the rows that these will get."""
        pairs = pairs_of([found])
        later, earlier = pairs >> 32, pairs & 0xFFFFFFFF
        new = np.array(rows) < 0  # only what has no match in the pool can be kept, so only that need be looked at
        pairs = pairs[(earlier < later) & new[earlier]]
        within: dict[int, int] = {}
        for text, place, score in self._similar(pairs, texts, sketches, texts, sketches):
            apart = groups[text] is None or groups[place] != groups[text]
            if score > scores[text] and apart and place not in within:
                within[text], scores[text] = place, score
        kept = np.cumsum([row < 0 and place not in within for place, row in enumerate(rows)])
        for text, place in within.items():
            rows[text] = len(self._texts) + int(kept[place]) - 1

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

    def _verdict(self, score: float, nearest: str) -> Verdict:
        return Verdict(self.filter, False, self.reason, score, nearest)


def _as_many(groups: Iterator[str | None], count: int) -> list[str | None]:
    """The next so many groups."""
    found = list(islice(groups, count))
    if len(found) != count:
        raise UsageError("there are fewer groups than texts")
    return found


KEPT = Verdict(NearDuplicateIndex.filter, True)

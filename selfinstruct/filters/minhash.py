"""Near-duplicates: MinHash and banded LSH find candidates, exact Jaccard similarity of the shingle sets decides.

Greedy: a text is compared with those that were kept, so that no chain of small changes removes a whole cluster.

128 permutations in 20 bands of 6 find a pair of Jaccard 0.8 with a probability of 99.8%, and one of 0.7 with 92%.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np

from selfinstruct.errors import UsageError
from selfinstruct.filters import snapshot
from selfinstruct.filters.bands import Bands, band_keys, pairs_within
from selfinstruct.filters.compiled import MANY, Engine, available, kernels
from selfinstruct.filters.ids import NO_PICKLE, Ids, paired
from selfinstruct.filters.shingles import Hashes, char_shingles, parity, shared_by, shingle_sets
from selfinstruct.filters.signatures import Signatures, permutations, signatures
from selfinstruct.filters.store import Longs, offsets_of
from selfinstruct.records import Verdict

__all__ = ["NearDuplicateIndex"]

BATCH = 8192  # texts taken from an iterable at once
FIRST = 256  # texts judged at once while the pool is small, since they are also compared with each other
SLICE = 1 << 16  # pairs compared at once
CHUNK = 1024  # texts hashed at once: their shingles fit into the processor's cache


class NearDuplicateIndex:
    """A pool of texts, and the judgement whether another one nearly repeats one of them.

    Every text has an id, a string: the one given, or else the running number of the texts offered and added so far,
    rejected ones included. Verdicts name the earliest of the most similar texts.

    It holds the texts (for the exact comparison) and 8 bytes for each band; no shingles and no signatures.

    Args:
        threshold: Jaccard similarity of the sets of character 5-grams from which on a text is a near-duplicate.
        num_perm: Permutations of a signature.
        bands: Bands into which it is cut; more bands find more pairs and verify more.
        engine: As of ``NoveltyIndex``.
    """

    filter = "minhash"
    reason = "near_duplicate"

    def __init__(
        self, threshold: float = 0.8, num_perm: int = 128, bands: int = 20, *, engine: Engine = "auto"
    ) -> None:
        if not 0 < threshold <= 1:
            raise UsageError(f"threshold {threshold} is not above 0 and at most 1")
        if not 1 <= bands <= num_perm:
            raise UsageError(f"{bands} bands of {num_perm} permutations: a band needs at least one of its own")
        self.threshold = threshold
        self.num_perm = num_perm
        self.bands = bands
        self.engine = engine
        self._parameters = permutations(num_perm)
        self._ids = Ids()
        self._texts: list[str] = []
        self._groups: dict[int, str] = {}  # of the rows that have one
        self._keys = Bands()

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
        return NearDuplicateIndex(threshold, self.num_perm, self.bands, engine=self.engine)

    def signatures(self, texts: Iterable[str]) -> Signatures:
        """The signature of each text, shape (texts, num_perm); ``to_datasketch`` takes them from here."""
        rows, compiled = iter(texts), self._compiled()
        parts = [np.zeros((0, self.num_perm), dtype=np.uint32)]
        while chunk := list(islice(rows, CHUNK)):
            parts.append(signatures(*char_shingles(chunk), self._parameters, compiled=compiled))
        return np.concatenate(parts)

    def query(self, text: str, *, group: str | None = None) -> Verdict:
        """Judge a text against the pool and leave the pool as it is.

        Args:
            group: Texts of the same group are not compared with each other.

        Returns:
            Score and nearest of a text that is not kept, neither for one that is: what LSH did not find is unknown.
        """
        rows, scores = self._match([text], self._sketch([text]), [group], insert=False)
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
        belonging = None if groups is None else iter(groups)
        while batch := list(islice(pairs, min(max(FIRST, len(self) // 4), BATCH))):
            of = [None] * len(batch) if belonging is None else list(islice(belonging, len(batch)))
            if len(of) != len(batch):
                raise UsageError("there are fewer groups than texts")
            names = self._ids.take(given for _, given in batch)
            verdicts += self._offer([text for text, _ in batch], names, of)
        return verdicts

    def add(self, text: str, id: str | None = None, *, group: str | None = None) -> None:  # noqa: A002
        """Add a text whatever it resembles.

        Raises:
            UsageError: The id is in the pool already.
        """
        self._insert([text], self._sketch([text]), self._ids.take([id]), [group])

    def fit(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> NearDuplicateIndex:
        """Add texts unjudged. Returns the index itself.

        Raises:
            UsageError: An id is given twice or is in the pool already.
        """
        pairs = iter(paired(texts, ids))
        while batch := list(islice(pairs, BATCH)):
            names = self._ids.take(given for _, given in batch)
            own = [text for text, _ in batch]
            self._insert(own, self._sketch(own), names, [None] * len(own))
        return self

    def remove(self, ids: Iterable[str]) -> None:
        """Forget texts. Takes time in proportion to the pool: give all ids at once.

        Raises:
            UsageError: An id is not in the pool; nothing is removed.
        """
        rows = self._ids.remove(ids)
        names, self._ids.names = self._ids.names, []
        texts, groups = [self._texts[row] for row in rows], [self._groups.get(row) for row in rows]
        self._texts, self._groups, self._keys = [], {}, Bands()
        for start in range(0, len(rows), BATCH):
            part = slice(start, start + BATCH)
            self._insert(texts[part], self._sketch(texts[part]), names[part], groups[part])

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
            index = cls(parameters["threshold"], parameters["num_perm"], parameters["bands"], engine=engine)
            index._texts = snapshot.unpack("texts", arrays)
            index._ids.add(index._ids.take(snapshot.unpack("ids", arrays)))
            index._ids.taken = parameters["taken"]
            groups = snapshot.unpack("groups", arrays)
            index._groups = dict(zip(arrays["grouped"].tolist(), groups, strict=True))
            keys = arrays["keys"]
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged ({error}); build the index again from its texts") from None
        if len({len(index._texts) * index.bands, len(index) * index.bands, len(keys)}) > 1:
            raise UsageError(f"{path} is damaged (its arrays are of different lengths); build the index again")
        index._keys = Bands(keys)
        return index

    def __reduce__(self) -> NoReturn:
        raise TypeError(NO_PICKLE.format(name=type(self).__name__))

    # --- inside ---

    def _compiled(self) -> bool:
        return self.engine == "numba" or (self.engine == "auto" and self.taken >= MANY and available())

    def _description(self) -> dict[str, float | int]:
        return {"threshold": self.threshold, "num_perm": self.num_perm, "bands": self.bands}

    def _sketch(self, texts: Sequence[str]) -> Hashes:
        """One key for each band of each text, shape (texts, bands)."""
        return band_keys(self.signatures(texts), self.bands)

    def _insert(self, texts: Sequence[str], keys: Hashes, names: Sequence[str], groups: Sequence[str | None]) -> None:
        start = len(self._texts)
        self._texts += texts
        self._keys.add(keys, start)
        self._ids.add(names)
        self._groups.update((row, group) for row, group in enumerate(groups, start) if group is not None)

    def _offer(self, texts: Sequence[str], names: Sequence[str], groups: Sequence[str | None]) -> list[Verdict]:
        keys = self._sketch(texts)
        rows, scores = self._match(texts, keys, groups, insert=True)
        new = [place for place, row in enumerate(rows) if row < 0]
        self._insert(
            [texts[place] for place in new],
            keys[new],
            [names[place] for place in new],
            [groups[place] for place in new],
        )
        return [
            self._verdict(score, self._ids.names[row]) if row >= 0 else KEPT
            for row, score in zip(rows, scores, strict=True)
        ]

    def _match(
        self, texts: Sequence[str], keys: Hashes, groups: Sequence[str | None], *, insert: bool
    ) -> tuple[list[int], list[float]]:
        """For each text the row of its nearest near-duplicate and the score, or -1 and 0.0.

        With ``insert``, texts count that come earlier and are kept; they have the rows that they will get.
        """
        rows, scores = [-1] * len(texts), [0.0] * len(texts)
        sets = _Sets(texts)
        pairs = self._keys.candidates(keys)
        others = _Sets(self._texts)
        for text, row, score in self._close(pairs, sets, others):
            if score > scores[text] and (groups[text] is None or self._groups.get(row) != groups[text]):
                rows[text], scores[text] = row, score
        if not insert or len(texts) == 1:
            return rows, scores
        # Only what has no match in the pool can be kept, so only that need be looked up.
        pairs = pairs_within(keys, np.flatnonzero(np.array(rows) < 0))
        within: dict[int, int] = {}
        for text, place, score in self._close(pairs, sets, sets):
            apart = groups[text] is None or groups[place] != groups[text]
            if score > scores[text] and apart and place not in within:
                within[text], scores[text] = place, score
        kept = np.cumsum([row < 0 and place not in within for place, row in enumerate(rows)])
        for text, place in within.items():
            rows[text] = len(self._texts) + int(kept[place]) - 1
        return rows, scores

    def _close(self, pairs: Longs, left: _Sets, right: _Sets) -> Iterable[tuple[int, int, float]]:
        """Of some pairs those that reach the threshold, with their similarity."""
        texts, others = pairs >> 32, pairs & 0xFFFFFFFF
        left.load(texts)
        right.load(others)
        one, two = left.places(texts), right.places(others)
        total = left.sizes[one] + right.sizes[two]
        close = np.zeros(len(pairs), dtype=bool)
        for start in range(0, len(pairs), SLICE):
            part = slice(start, start + SLICE)
            differ = np.bitwise_count(left.parities[one[part]] ^ right.parities[two[part]]).sum(axis=1, dtype=np.int64)
            # J = (total - d) / (total + d) for sets that differ in d elements, and these are at least as many as the
            # bits; the same expression as in the exact comparison, so that no pair is lost by rounding.
            shared = (total[part] - differ) >> 1
            close[part] = shared / (total[part] - shared) >= self.threshold
        one, two, total = one[close], two[close], total[close]
        shared = self._shared(left, one, right, two)
        scores = shared / (total - shared)
        near = scores >= self.threshold
        return zip(texts[close][near].tolist(), others[close][near].tolist(), scores[near].tolist(), strict=True)

    def _shared(self, left: _Sets, one: Longs, right: _Sets, two: Longs) -> Longs:
        """Size of the intersection of each pair of sets, given by their places."""
        if self._compiled():
            found: Longs = kernels().shared_of_pairs(left.hashes, left.offsets, one, right.hashes, right.offsets, two)
            return found
        return np.array([shared_by(left[a], right[b]) for a, b in zip(one, two, strict=True)], dtype=np.int64)

    def _verdict(self, score: float, nearest: str) -> Verdict:
        return Verdict(self.filter, False, self.reason, score, nearest)


class _Sets:
    """Shingle sets of those of some texts that are asked for, in order of loading.

    Attributes:
        hashes: The sets, sorted, one after the other.
        offsets: Set k has ``hashes[offsets[k]:offsets[k + 1]]``.
        parities: Sketch of each set, shape (sets, 8).
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._loaded: Longs = np.zeros(0, dtype=np.int64)
        self.hashes: Hashes = np.zeros(0, dtype=np.uint64)
        self.offsets: Longs = np.zeros(1, dtype=np.int64)
        self.parities: Hashes = np.zeros((0, 8), dtype=np.uint64)

    @property
    def sizes(self) -> Longs:
        """Elements of each set."""
        return np.diff(self.offsets)

    def load(self, texts: Longs) -> None:
        """Make the sets of these texts, many at once."""
        wanted = np.setdiff1d(texts, self._loaded)
        parts, parities = [self.hashes], [self.parities]
        sizes = [self.sizes]
        for start in range(0, len(wanted), CHUNK):
            own = [self._texts[text] for text in wanted[start : start + CHUNK].tolist()]
            made = shingle_sets(*char_shingles(own))
            parts += made
            parities.append(parity(made))
            sizes.append(np.array([len(one) for one in made]))
        self.hashes, self.parities = np.concatenate(parts), np.concatenate(parities)
        self.offsets = offsets_of(np.concatenate(sizes))
        self._loaded = np.append(self._loaded, wanted)

    def places(self, texts: Longs) -> Longs:
        """Where these texts stand in the order of loading."""
        order = np.argsort(self._loaded)
        found: Longs = order[np.searchsorted(self._loaded, texts, sorter=order)]
        return found

    def __getitem__(self, place: int) -> Hashes:
        return self.hashes[self.offsets[place] : self.offsets[place + 1]]


KEPT = Verdict(NearDuplicateIndex.filter, True)

"""Near-duplicates: MinHash and banded LSH find candidates, exact Jaccard similarity of the shingle sets decides.

Greedy: a text is compared with those that were kept, so that no chain of small changes removes a whole cluster.

128 permutations in 20 bands of 6 find a pair of Jaccard 0.8 with a probability of 99.8%, and one of 0.7 with 92%.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn

import numpy as np

from selfinstruct.errors import UsageError
from selfinstruct.filters.ids import NO_PICKLE, paired
from selfinstruct.filters.shingles import Hashes, char_shingles, jaccard, mix
from selfinstruct.filters.signatures import Signatures, permutations, signatures
from selfinstruct.records import Verdict

__all__ = ["NearDuplicateIndex"]


class NearDuplicateIndex:
    """A pool of texts, and the judgement whether another one nearly repeats one of them.

    Every text has an id, a string: the one given, or else the running number of the texts offered and added so far,
    rejected ones included. Verdicts name the earliest of the most similar texts.

    Args:
        threshold: Jaccard similarity of the sets of character 5-grams from which on a text is a near-duplicate.
        num_perm: Permutations of a signature.
        bands: Bands into which it is cut; more bands find more pairs and verify more.
    """

    filter = "minhash"
    reason = "near_duplicate"

    def __init__(self, threshold: float = 0.8, num_perm: int = 128, bands: int = 20) -> None:
        if not 0 < threshold <= 1:
            raise UsageError(f"threshold {threshold} is not above 0 and at most 1")
        if not 1 <= bands <= num_perm:
            raise UsageError(f"{bands} bands of {num_perm} permutations: a band needs at least one of its own")
        self.threshold = threshold
        self.num_perm = num_perm
        self.bands = bands
        self._parameters = permutations(num_perm)
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._groups: list[str | None] = []
        self._sets: list[Hashes] = []
        self._buckets: dict[int, list[int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:  # noqa: A002
        return id in self._rows

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the pool's texts, oldest first."""
        return tuple(self._ids)

    def query(self, text: str, *, group: str | None = None) -> Verdict:
        """Judge a text against the pool and leave the pool as it is.

        Args:
            group: Texts of the same group are not compared with each other.

        Returns:
            Score and nearest of a text that is not kept, neither for one that is: what LSH did not find is unknown.
        """
        return self._judge(*self._sketch(text), group)

    def offer(self, text: str, id: str | None = None, *, group: str | None = None) -> Verdict:  # noqa: A002
        """Judge a text and add it if it is kept.

        Raises:
            UsageError: The id is in the pool already.
        """
        id = self._take_id(id)  # noqa: A001
        hashes, keys = self._sketch(text)
        verdict = self._judge(hashes, keys, group)
        if verdict.kept:
            self._add(hashes, keys, id, group)
        return verdict

    def offer_many(
        self, texts: Iterable[str], ids: Iterable[str] | None = None, *, groups: Iterable[str | None] | None = None
    ) -> list[Verdict]:
        """Offer texts one after the other; the same verdicts as ``offer`` gives."""
        pairs = list(paired(texts, ids))
        of = [None] * len(pairs) if groups is None else list(groups)
        return [self.offer(text, id, group=group) for (text, id), group in zip(pairs, of, strict=True)]  # noqa: A001

    def add(self, text: str, id: str | None = None, *, group: str | None = None) -> None:  # noqa: A002
        """Add a text whatever it resembles.

        Raises:
            UsageError: The id is in the pool already.
        """
        self._add(*self._sketch(text), self._take_id(id), group)

    def fit(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> NearDuplicateIndex:
        """Add texts unjudged. Returns the index itself."""
        for text, id in paired(texts, ids):  # noqa: A001
            self.add(text, id)
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(NO_PICKLE.format(name=type(self).__name__))

    # --- inside ---

    def _take_id(self, given: str | None) -> str:
        name = str(self._count) if given is None else given
        if name in self._rows:
            raise UsageError(f"id {name!r} is in the index already; give each text an id of its own")
        self._count += 1
        return name

    def _sketch(self, text: str) -> tuple[Hashes, list[int]]:
        """Sorted distinct shingle hashes, and one key for each band."""
        hashes, _ = char_shingles([text])
        hashes = np.unique(hashes)
        signature = signatures(hashes, np.array([0, len(hashes)]), self._parameters)
        return hashes, band_keys(signature, self.bands)[0].tolist()

    def _add(self, hashes: Hashes, keys: Sequence[int], id: str, group: str | None) -> None:  # noqa: A002
        row = len(self._ids)
        self._ids.append(id)
        self._rows[id] = row
        self._groups.append(group)
        self._sets.append(hashes)
        for key in keys:
            self._buckets.setdefault(key, []).append(row)

    def _judge(self, hashes: Hashes, keys: Sequence[int], group: str | None) -> Verdict:
        found = {row for key in keys for row in self._buckets.get(key, ())}
        best, nearest = 0.0, -1
        for row in sorted(found):
            if group is not None and self._groups[row] == group:
                continue
            score = jaccard(hashes, self._sets[row])
            if score > best:
                best, nearest = score, row
        if best < self.threshold:
            return Verdict(self.filter, True)
        return Verdict(self.filter, False, self.reason, best, self._ids[nearest])


def band_keys(found: Signatures, bands: int) -> Hashes:
    """One 64-bit key for each band of each signature, different for different bands: shape (texts, bands).

    Permutations that no band of equal width needs are left over (8 of 128 with 20 bands).
    """
    width = found.shape[1] // bands
    cut = found[:, : bands * width].reshape(len(found), bands, width).astype(np.uint64)
    keys = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64), cut.shape[:2])
    for k in range(width):
        keys = mix(keys * np.uint64(0x9E3779B97F4A7C15) ^ cut[:, :, k])
    return keys

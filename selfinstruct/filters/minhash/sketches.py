"""Texts as sets of shingles, and what is kept of each: a signature cut into bands, a size, and a parity.

The sets themselves are made again for the few texts that are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from selfinstruct.filters.engines import minhash_kernels
from selfinstruct.filters.hashing import Hashes
from selfinstruct.filters.minhash.bands import band_keys
from selfinstruct.filters.minhash.shingles import HASH_MASK, parity, shared_of_pairs, shingle_sets, units_function
from selfinstruct.filters.minhash.signatures import Signatures, permutations, signatures
from selfinstruct.filters.rouge.store import Ints, Longs, distinct, grown

__all__ = ["Columns", "Sketcher", "Sketches"]

CHUNK = 1024  # texts hashed at once: their shingles fit into the processor's cache
CHARACTERS = 1 << 22  # or so many characters, to bound memory; a longer text is a chunk of its own
SLICE = 1 << 16  # pairs whose sketches are compared at once


@dataclass(frozen=True, slots=True)
class Sketches:
    """Of some texts.

    Attributes:
        keys: One for each band, shape (texts, bands).
        sizes: Distinct shingles.
        parities: See ``parity``; shape (texts, 8).
    """

    keys: Hashes
    sizes: Ints
    parities: Hashes

    def __len__(self) -> int:
        return len(self.sizes)

    def part(self, texts: Longs | slice) -> Sketches:
        """Of some of the texts."""
        return Sketches(self.keys[texts], self.sizes[texts], self.parities[texts])


class Columns:
    """Sizes and parities of a pool's rows, in arrays that grow by doubling."""

    def __init__(self) -> None:
        self.rows = 0
        self._sizes: Ints = np.zeros(64, dtype=np.int32)
        self._parities: Hashes = np.zeros((64, 8), dtype=np.uint64)

    @property
    def sizes(self) -> Ints:
        """Distinct shingles of each row."""
        return self._sizes[: self.rows]

    @property
    def parities(self) -> Hashes:
        """Of each row, shape (rows, 8)."""
        return self._parities[: self.rows]

    def extend(self, sizes: Ints, parities: Hashes) -> None:
        """Append rows."""
        end = self.rows + len(sizes)
        if end > len(self._sizes):
            room = max(end, 2 * len(self._sizes))
            self._sizes, self._parities = grown(self._sizes, room), grown(self._parities, room)
        self._sizes[self.rows : end] = sizes
        self._parities[self.rows : end] = parities
        self.rows = end

    def selected(self, rows: Longs) -> Columns:
        """Some rows."""
        found = Columns()
        found.extend(self.sizes[rows], self.parities[rows])
        return found


class Sketcher:
    """Makes and compares sketches. Both engines give the same."""

    def __init__(self, shingles: str, num_perm: int, bands: int) -> None:
        self._units = units_function(shingles)
        self._bands = bands
        self._parameters = permutations(num_perm)

    def _sets(self, texts: Sequence[str], compiled: bool) -> tuple[Hashes, Longs, Hashes]:
        """Distinct hashes of each text, their offsets, and their parities."""
        units = self._units(texts, compiled=compiled)
        if compiled:
            found: tuple[Hashes, Longs, Hashes] = minhash_kernels().sets_of_units(
                units.values, units.offsets, units.n, units.bits, HASH_MASK
            )
            return found
        hashes, offsets = shingle_sets(*units.runs())
        return hashes, offsets, parity(hashes, offsets)

    def signatures(self, texts: Sequence[str], *, compiled: bool) -> Signatures:
        """Signature of each text, shape (texts, num_perm)."""
        parts = [np.zeros((0, self._parameters.shape[1]), dtype=np.uint32)]
        for chunk in chunks(texts):
            hashes, offsets, _ = self._sets(texts[chunk], compiled)
            parts.append(signatures(hashes, offsets, self._parameters, compiled=compiled))
        return np.concatenate(parts)

    def sketch(self, texts: Sequence[str], *, compiled: bool) -> Sketches:
        """The sketches of texts."""
        parts = []
        for chunk in chunks(texts):
            hashes, offsets, parities = self._sets(texts[chunk], compiled)
            found = signatures(hashes, offsets, self._parameters, compiled=compiled)
            keys = band_keys(found, self._bands, compiled=compiled)
            parts.append(Sketches(keys, np.diff(offsets).astype(np.int32), parities))
        if len(parts) == 1:
            return parts[0]
        return Sketches(
            np.concatenate([np.zeros((0, self._bands), dtype=np.uint64), *(part.keys for part in parts)]),
            np.concatenate([np.zeros(0, dtype=np.int32), *(part.sizes for part in parts)]),
            np.concatenate([np.zeros((0, 8), dtype=np.uint64), *(part.parities for part in parts)]),
        )

    def similar(
        self,
        threshold: float,
        pairs: Longs,
        texts: Sequence[str],
        sketches: Sketches | Columns,
        others: Sequence[str],
        columns: Sketches | Columns,
        *,
        compiled: bool,
    ) -> Iterator[tuple[int, int, float]]:
        """Of pairs (text << 32 | other) those whose Jaccard similarity reaches the threshold, sorted, with that."""
        pairs = pairs if compiled else distinct(pairs)  # whichever is slower, the comparison or the sort, comes last
        near = close_pairs(threshold, pairs >> 32, pairs & 0xFFFFFFFF, sketches, columns, compiled=compiled)
        pairs = distinct(pairs[near])
        one, two = pairs >> 32, pairs & 0xFFFFFFFF
        for part in _parts(one, two, texts, others):
            left, right = one[part], two[part]
            shared = self._shared(texts, left, others, right, compiled)
            scores = shared / (sketches.sizes[left].astype(np.int64) + columns.sizes[right] - shared)
            found = np.flatnonzero(scores >= threshold)
            yield from zip(left[found].tolist(), right[found].tolist(), scores[found].tolist(), strict=True)

    def _shared(self, texts: Sequence[str], left: Longs, others: Sequence[str], right: Longs, compiled: bool) -> Longs:
        """Size of the intersection of each pair of sets."""
        one, two = distinct(left), distinct(right)
        sets, offsets, _ = self._sets([texts[place] for place in one.tolist()], compiled)
        more, ends, _ = self._sets([others[place] for place in two.tolist()], compiled)
        function = minhash_kernels().shared_of_pairs if compiled else shared_of_pairs
        found: Longs = function(sets, offsets, one.searchsorted(left), more, ends, two.searchsorted(right))
        return found


def chunks(texts: Sequence[str]) -> Iterator[slice]:
    """Parts of some texts that are worked on at once: as many, and as long, as memory should hold."""
    start = characters = 0
    for place, text in enumerate(texts):
        if place > start and (place - start >= CHUNK or characters + len(text) > CHARACTERS):
            yield slice(start, place)
            start, characters = place, 0
        characters += len(text)
    if start < len(texts):
        yield slice(start, len(texts))


def _parts(one: Longs, two: Longs, texts: Sequence[str], others: Sequence[str]) -> Iterator[slice]:
    """Parts of some pairs whose texts are made into sets at once."""
    if not len(one):
        return
    length = [len(texts[a]) + len(others[b]) for a, b in zip(one.tolist(), two.tolist(), strict=True)]
    number = np.cumsum(length) // (2 * CHARACTERS)
    bounds = np.flatnonzero(np.diff(number)) + 1
    yield from (slice(a, b) for a, b in zip([0, *bounds.tolist()], [*bounds.tolist(), len(one)], strict=True))


def close_pairs(
    threshold: float,
    one: Longs,
    two: Longs,
    sketches: Sketches | Columns,
    columns: Sketches | Columns,
    *,
    compiled: bool,
) -> npt.NDArray[np.bool_]:
    """Whether sizes and parities allow that a pair reaches the threshold.

    J = (total - d) / (total + d) for sets that differ in d elements, and these are at least as many as the bits in
    which the parities differ; nor can more be shared than the smaller set has. The bound is computed by the expression
    that gives the similarity itself, so that no pair is lost by rounding.
    """
    arrays = sketches.sizes, sketches.parities, columns.sizes, columns.parities
    if compiled:
        found: npt.NDArray[np.bool_] = minhash_kernels().close_pairs(threshold, one, two, *arrays)
        return found
    a, b = sketches.sizes[one].astype(np.int64), columns.sizes[two].astype(np.int64)
    total, shared = a + b, np.minimum(a, b)
    near: npt.NDArray[np.bool_] = shared / (total - shared) >= threshold
    left = np.flatnonzero(near)
    for start in range(0, len(left), SLICE):
        part = left[start : start + SLICE]
        differ = np.bitwise_count(sketches.parities[one[part]] ^ columns.parities[two[part]]).sum(
            axis=1, dtype=np.int64
        )
        most = np.minimum(shared[part], (total[part] - differ) >> 1)
        near[part] = most / (total[part] - most) >= threshold
    return near

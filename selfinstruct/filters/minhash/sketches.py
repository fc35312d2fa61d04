"""Sketches of texts: for each set of shingles its band keys, its size and its parity.

The sets themselves are recomputed for the few texts that are compared exactly.
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
from selfinstruct.filters.rouge.token_store import Ints, Longs, distinct, grown

__all__ = ["Columns", "Sketcher", "Sketches"]

CHUNK = 1024  # texts hashed at once: their shingles fit into the processor's cache
CHARACTERS = 1 << 22  # characters hashed at once, to bound memory; a longer text is a chunk by itself
SLICE = 1 << 16  # pairs whose sketches are compared at once


@dataclass(frozen=True, slots=True)
class Sketches:
    """The sketches of some texts.

    Attributes:
        keys: A key per band, shape (texts, bands).
        sizes: Number of distinct shingles, shape (texts,).
        parities: See ``parity``; shape (texts, 8).
    """

    keys: Hashes
    sizes: Ints
    parities: Hashes

    def __len__(self) -> int:
        return len(self.sizes)

    def part(self, texts: Longs | slice) -> Sketches:
        """Return the sketches of a part of the texts."""
        return Sketches(self.keys[texts], self.sizes[texts], self.parities[texts])


class Columns:
    """Sizes and parities of a pool's rows, in arrays that grow by doubling."""

    def __init__(self) -> None:
        self.rows = 0
        self._sizes: Ints = np.zeros(64, dtype=np.int32)
        self._parities: Hashes = np.zeros((64, 8), dtype=np.uint64)

    @property
    def sizes(self) -> Ints:
        """Number of distinct shingles of each row."""
        return self._sizes[: self.rows]

    @property
    def parities(self) -> Hashes:
        """Parity of each row, shape (rows, 8)."""
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
        """Return a copy with only some rows."""
        columns = Columns()
        columns.extend(self.sizes[rows], self.parities[rows])
        return columns


class Sketcher:
    """Computes and compares sketches. Both engines give equal results."""

    def __init__(self, shingles: str, num_perm: int, bands: int) -> None:
        self._units = units_function(shingles)
        self._bands = bands
        self._parameters = permutations(num_perm)

    def _sets(self, texts: Sequence[str], compiled: bool) -> tuple[Hashes, Longs, Hashes]:
        """Return the distinct hashes of each text, their offsets, and their parities."""
        units = self._units(texts, compiled=compiled)
        if compiled:
            compiled_sets: tuple[Hashes, Longs, Hashes] = minhash_kernels().sets_of_units(
                units.values, units.offsets, units.n, units.bits, HASH_MASK
            )
            return compiled_sets
        hashes, offsets = shingle_sets(*units.runs())
        return hashes, offsets, parity(hashes, offsets)

    def signatures(self, texts: Sequence[str], *, compiled: bool) -> Signatures:
        """Return the signature of each text, shape (texts, num_perm)."""
        parts = [np.zeros((0, self._parameters.shape[1]), dtype=np.uint32)]
        for chunk in chunks(texts):
            hashes, offsets, _ = self._sets(texts[chunk], compiled)
            parts.append(signatures(hashes, offsets, self._parameters, compiled=compiled))
        return np.concatenate(parts)

    def sketch(self, texts: Sequence[str], *, compiled: bool) -> Sketches:
        """Return the sketches of texts."""
        parts = []
        for chunk in chunks(texts):
            hashes, offsets, parities = self._sets(texts[chunk], compiled)
            signature = signatures(hashes, offsets, self._parameters, compiled=compiled)
            keys = band_keys(signature, self._bands, compiled=compiled)
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
        """Yield the pairs (text << 32 | other) that reach the threshold, sorted, with their Jaccard similarity."""
        pairs = pairs if compiled else distinct(pairs)  # with numba the comparison is faster than the sort
        near = close_pairs(threshold, pairs >> 32, pairs & 0xFFFFFFFF, sketches, columns, compiled=compiled)
        pairs = distinct(pairs[near])
        first, second = pairs >> 32, pairs & 0xFFFFFFFF
        for part in _parts(first, second, texts, others):
            left, right = first[part], second[part]
            shared = self._shared(texts, left, others, right, compiled)
            scores = shared / (sketches.sizes[left].astype(np.int64) + columns.sizes[right] - shared)
            similar = np.flatnonzero(scores >= threshold)
            yield from zip(left[similar].tolist(), right[similar].tolist(), scores[similar].tolist(), strict=True)

    def _shared(self, texts: Sequence[str], left: Longs, others: Sequence[str], right: Longs, compiled: bool) -> Longs:
        """Return the size of the intersection of each pair of sets."""
        first, second = distinct(left), distinct(right)
        left_sets, left_offsets, _ = self._sets([texts[number] for number in first.tolist()], compiled)
        right_sets, right_offsets, _ = self._sets([others[number] for number in second.tolist()], compiled)
        function = minhash_kernels().shared_of_pairs if compiled else shared_of_pairs
        shared: Longs = function(
            left_sets, left_offsets, first.searchsorted(left), right_sets, right_offsets, second.searchsorted(right)
        )
        return shared


def chunks(texts: Sequence[str]) -> Iterator[slice]:
    """Yield parts of some texts that are processed at once, bounded in number and in characters."""
    start = characters = 0
    for number, text in enumerate(texts):
        if number > start and (number - start >= CHUNK or characters + len(text) > CHARACTERS):
            yield slice(start, number)
            start, characters = number, 0
        characters += len(text)
    if start < len(texts):
        yield slice(start, len(texts))


def _parts(first: Longs, second: Longs, texts: Sequence[str], others: Sequence[str]) -> Iterator[slice]:
    """Yield parts of some pairs whose texts are converted to sets at once."""
    if not len(first):
        return
    length = [len(texts[a]) + len(others[b]) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    number = np.cumsum(length) // (2 * CHARACTERS)
    bounds = np.flatnonzero(np.diff(number)) + 1
    yield from (slice(a, b) for a, b in zip([0, *bounds.tolist()], [*bounds.tolist(), len(first)], strict=True))


def close_pairs(
    threshold: float,
    first: Longs,
    second: Longs,
    sketches: Sketches | Columns,
    columns: Sketches | Columns,
    *,
    compiled: bool,
) -> npt.NDArray[np.bool_]:
    """Return which pairs can reach the threshold, by their sizes and parities.

    J = (total - d) / (total + d) for sets that differ in d elements. d is at least the number of bits in which the
    parities differ, and the intersection is at most the smaller set. The bound is computed by the same expression as
    the similarity, so that no pair is lost to rounding.
    """
    arrays = sketches.sizes, sketches.parities, columns.sizes, columns.parities
    if compiled:
        compiled_near: npt.NDArray[np.bool_] = minhash_kernels().close_pairs(threshold, first, second, *arrays)
        return compiled_near
    a, b = sketches.sizes[first].astype(np.int64), columns.sizes[second].astype(np.int64)
    total, shared = a + b, np.minimum(a, b)
    near: npt.NDArray[np.bool_] = shared / (total - shared) >= threshold
    remaining = np.flatnonzero(near)
    for start in range(0, len(remaining), SLICE):
        part = remaining[start : start + SLICE]
        bits = sketches.parities[first[part]] ^ columns.parities[second[part]]
        differ = np.bitwise_count(bits).sum(axis=1, dtype=np.int64)
        most = np.minimum(shared[part], (total[part] - differ) >> 1)
        near[part] = most / (total[part] - most) >= threshold
    return near

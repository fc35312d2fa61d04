"""MinHash signatures, equal to the ones of datasketch 2 (scheme ``affine32``) on the same hashes.

The input hash is mixed once by the finalizer of MurmurHash3; permutation k is then a_k * h + b_k modulo 2**32 with an
odd a_k. The parameters come from ``RandomState(seed)``, whose sequence numpy has frozen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from selfinstruct.filters.engines import minhash_kernels
from selfinstruct.filters.hashing import Hashes
from selfinstruct.filters.minhash.shingles import Offsets

__all__ = ["SEED", "SIGNATURE_SCHEME", "from_datasketch", "permutations", "signatures", "to_datasketch"]

SIGNATURE_SCHEME = "affine32"
SEED = 1  # the default of datasketch

Signatures = npt.NDArray[np.uint32]
FEW = 1024  # hashes up to which all permutations are computed at once
EMPTY = np.uint32(0xFFFFFFFF)


def permutations(num_perm: int, seed: int = SEED) -> npt.NDArray[np.uint32]:
    """Return the parameters a (odd) and b of each permutation, shape (2, num_perm)."""
    random = np.random.RandomState(seed)
    a = random.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = random.randint(0, 1 << 32, num_perm, dtype=np.uint32)
    return np.array([a, b], dtype=np.uint32)


def _finalize(hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the 32-bit finalizer of MurmurHash3 (Appleby, public domain)."""
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return hashes ^ (hashes >> np.uint32(16))


def signatures(
    hashes: Hashes, offsets: Offsets, parameters: npt.NDArray[np.uint32], *, compiled: bool = False
) -> Signatures:
    """Return the signature of each set, computed from the low 32 bits of its hashes.

    Args:
        hashes: The hashes of all sets, concatenated.
        offsets: Shape (sets + 1,); set i has ``hashes[offsets[i]:offsets[i + 1]]``.
        parameters: Shape (2, num_perm), from ``permutations``.
        compiled: Use numba, with the same result.

    Returns:
        Signatures, shape (sets, num_perm); all values are 2**32 - 1 for an empty set.
    """
    mixed = _finalize(hashes.astype(np.uint32))
    if compiled:
        least: Signatures = minhash_kernels().least_of_permutations(mixed, offsets, parameters)
        return least
    if len(offsets) == 2 and 0 < len(mixed) <= FEW:  # one short text in one step
        signature: Signatures = (mixed[:, None] * parameters[0] + parameters[1]).min(axis=0)[None]
        return signature
    minima = np.full((len(offsets) - 1, parameters.shape[1]), EMPTY, dtype=np.uint32)
    filled = np.flatnonzero(np.diff(offsets) > 0)
    if len(filled):
        starts = offsets[filled]
        buffer = np.empty_like(mixed)
        for k, (a, b) in enumerate(parameters.T):
            np.multiply(mixed, a, out=buffer)
            np.add(buffer, b, out=buffer)
            minima[filled, k] = np.minimum.reduceat(buffer, starts)
    return minima


def to_datasketch(signature: Signatures, seed: int = SEED) -> Any:
    """Return a ``datasketch.MinHash`` with this signature, for use with the LSH and storage classes of datasketch."""
    from datasketch import MinHash  # imports scipy, which is slow

    return MinHash(hashvalues=signature, permutations=permutations(len(signature), seed), seed=seed, scheme="affine32")


def from_datasketch(minhash: Any) -> Signatures:
    """Return the signature of a ``datasketch.MinHash`` with the scheme affine32.

    Raises:
        ValueError: It has another scheme.
    """
    if minhash.scheme != SIGNATURE_SCHEME:
        raise ValueError(f"a MinHash with scheme {minhash.scheme!r}; only {SIGNATURE_SCHEME!r} can be compared")
    return np.asarray(minhash.hashvalues, dtype=np.uint32).copy()

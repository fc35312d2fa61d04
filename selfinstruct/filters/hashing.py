"""The hash function that both engines use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Hashes", "mix"]

Hashes = npt.NDArray[np.uint64]


def mix(values: Hashes) -> Hashes:
    """Return the finalizer of splitmix64, a bijection on 64 bits (Steele, Lea, Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

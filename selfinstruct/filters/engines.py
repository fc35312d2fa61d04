"""The two engines of both indexes, and when to use which."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType
from typing import Literal

from selfinstruct.errors import MissingExtraError

__all__ = ["MANY", "Engine", "available", "kernels", "minhash_kernels"]

Engine = Literal["auto", "numpy", "numba"]
MANY = 5000  # texts for which numba is worth the second that its import takes


@cache
def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def _demand() -> None:
    if not available():
        raise MissingExtraError("numba", "fast")


def kernels() -> ModuleType:
    """The module of the join's compiled functions; the first import takes a second or more.

    Raises:
        MissingExtraError: numba is not installed.
    """
    _demand()
    from selfinstruct.filters.rouge import kernels as module  # imports numba

    return module


def minhash_kernels() -> ModuleType:
    """As ``kernels``, for MinHash."""
    _demand()
    from selfinstruct.filters.minhash import kernels as module  # imports numba

    return module

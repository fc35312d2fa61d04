"""The two engines, numpy and numba, of the ROUGE-L and MinHash indexes, and when to use which."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType
from typing import Literal

from selfinstruct.errors import MissingExtraError

__all__ = ["MANY", "Engine", "available", "minhash_kernels", "rouge_kernels"]

Engine = Literal["auto", "numpy", "numba"]
MANY = 5000  # number of texts from which numba repays the second that its import takes


@cache
def available() -> bool:
    """Return whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def _require_numba() -> None:
    if not available():
        raise MissingExtraError("numba", "fast")


def rouge_kernels() -> ModuleType:
    """Return the module of the ROUGE-L join's compiled functions; the first import takes a second or more.

    Raises:
        MissingExtraError: numba is not installed.
    """
    _require_numba()
    from selfinstruct.filters.rouge import numba_kernels as module  # imports numba

    return module


def minhash_kernels() -> ModuleType:
    """Return the module of the compiled functions of MinHash; raises the same error as ``rouge_kernels``."""
    _require_numba()
    from selfinstruct.filters.minhash import numba_kernels as module  # imports numba

    return module

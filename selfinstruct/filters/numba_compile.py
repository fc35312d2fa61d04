"""Compilation with numba, cached in the user's cache directory. Importing this module imports numba."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Return the function as machine code, compiled at its first call."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    config, jit = cast("Any", numba.config), cast("Any", numba.njit)
    before = config.CACHE_DIR
    config.CACHE_DIR = before or str(Path(home) / "selfinstruct" / "numba")
    try:
        machine_code: Function = jit(cache=True, nogil=True)(function)
    except (OSError, RuntimeError):  # no writable cache directory: each process compiles anew
        machine_code = jit(nogil=True)(function)
    finally:
        config.CACHE_DIR = before
    return machine_code

"""How the threads of OpenMP (PyTorch, llama.cpp, numba) wait for each other."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

__all__ = ["wait_passively"]

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def wait_passively(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let idle threads sleep instead of spin, in this process and its children.

    Threads that spin take a core from the process that they wait for, next to one that computes: on a shared machine
    the same steps then take several times as long. A setting of the user's own is kept. The runtimes read these
    variables once, when they are loaded: after ``import torch`` only new processes are affected.

    Passive waiting means a spin count of 0 in GNU's runtime (``GOMP_SPINCOUNT``), which PyTorch's wheels for Linux use,
    and a block time of 0 in LLVM's and Intel's (``KMP_BLOCKTIME``).
    """
    if not any(name in environ for name in _WAITING):
        environ["OMP_WAIT_POLICY"] = "passive"

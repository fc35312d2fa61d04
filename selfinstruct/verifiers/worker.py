"""The process that evaluates expressions: a line of JSON in, a line out.

It is run by its path, isolated (``python -I``), without the package: it loads the evaluator's own three files and
nothing else of it. What the evaluator lets through ends within its limits; those below are a second wall, far beyond
them. It ends when its input does: when its parent ends, however that ends.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import types
import unicodedata  # noqa: F401  (the parser loads it for \N{...}; later no file can be opened)
from contextlib import suppress
from pathlib import Path

CPU_S = 60  # of one expression: at most two are taken
MEMORY = 2 << 30  # bytes of address space

_HERE = Path(__file__).resolve().parent


def main() -> None:
    """Answer until the input ends."""
    for name, folder in (("selfinstruct", _HERE.parent), ("selfinstruct.verifiers", _HERE)):
        package = types.ModuleType(name)  # without what its __init__ loads
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    from selfinstruct.verifiers.comparing import judged

    for line in sys.stdin.buffer:
        _limit_all()
        try:
            reply = judged(**json.loads(line))
        except MemoryError:  # the second wall: as if it had been killed
            os._exit(1)
        except Exception as error:  # a fault of ours: the answer is not accepted, and the next one is read
            reply = {"kept": False, "found": f"nothing: {type(error).__name__}"}
        sys.stdout.buffer.write(json.dumps(reply).encode("ascii") + b"\n")
        sys.stdout.buffer.flush()


def _limit_all() -> None:
    """No files, no processes, so much memory, and so much CPU time from now on."""
    cpu = int(time.process_time()) + 1 + CPU_S
    for what, most in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with suppress(OSError, ValueError):  # not every system knows every limit
            resource.setrlimit(what, (soft, hard if what == resource.RLIMIT_CPU else soft))


if __name__ == "__main__":
    main()

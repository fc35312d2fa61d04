"""Runs untrusted Python in Monty, a sandboxed interpreter of a subset of Python (https://github.com/pydantic/monty).

Every program runs in a fresh session: no files, no network, no processes, no environment. The clock does not advance,
the random generator has a fixed seed, and memory and depth are limited, so that a result depends on nothing but the
code; only the time limit depends on the machine. The interpreter runs in worker processes that the library manages: a
worker that a program crashes is replaced, and this process is unharmed.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from selfinstruct.errors import MissingExtraError, SelfInstructError
from selfinstruct.verifiers.base import shorten

if TYPE_CHECKING:
    from pydantic_monty import Monty, OSPolicy, ResourceLimits

__all__ = ["MAX_SECONDS", "Result", "run"]

MAX_SECONDS = 60.0  # the largest time limit
_MEMORY = 64 << 20  # bytes of the interpreter's heap
_DEPTH = 500  # nested calls
_CRASHED = "the sandbox crashed"  # or the system killed its worker for want of memory: worth a second attempt
_MAX_MESSAGE = 300  # characters


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a program.

    Attributes:
        value: The value of its last expression; None if it failed or ends with a statement.
        error: Why it failed; "" if it ran to its end.
        source: Index of the source that failed.
        line: Line of that source at which it failed; 0 if unknown.
        unsupported: Whether it failed because its syntax is wrong or not supported here.
    """

    value: Any = None
    error: str = ""
    source: int = 0
    line: int = 0
    unsupported: bool = False


def run(sources: Sequence[str], *, seconds: float, inputs: Mapping[str, object] | None = None) -> Result:
    """Run sources one after the other in one fresh session, and return the result of the last one.

    The last source must end with a small value or a statement: a large one would be copied into this process.

    Args:
        seconds: Time limit of each source.
        inputs: Variables that the sources may read.

    Raises:
        MissingExtraError: pydantic-monty is not installed.
        SelfInstructError: No worker process can be started.
    """
    result = _run_once(sources, seconds, inputs or {})
    return _run_once(sources, seconds, inputs or {}) if result.error == _CRASHED else result


def _run_once(sources: Sequence[str], seconds: float, inputs: Mapping[str, object]) -> Result:
    monty = _library()
    index = 0
    try:
        with _workers().checkout(limits=_limits(seconds), os_policy=_POLICY) as session:
            for source in sources[:-1]:
                session.feed_run(source, inputs=dict(inputs), print_callback=_discard)
                index += 1
            return Result(session.feed_run(sources[-1], inputs=dict(inputs), print_callback=_discard))
    except monty.MontyCrashedError as error:
        return Result(error=_too_slow(seconds) if error.timed_out else _CRASHED, source=index)
    except (monty.MontyRuntimeError, monty.MontySyntaxError) as error:
        lines = [frame.line for frame in error.traceback() if frame.filename == f"<python-input-{index}>"]
        return _failure(error.display("type-msg"), seconds, index, lines[0] if lines else 0)


def _library() -> Any:
    try:
        import pydantic_monty
    except ImportError:
        raise MissingExtraError("pydantic-monty, which runs code of answers,", "verify") from None
    return pydantic_monty


def _workers() -> Monty:
    """Return the pool of worker processes of this process, started when it is first needed."""
    owner, pool = _pool()
    if owner != os.getpid():
        raise SelfInstructError(
            "code of answers can't run in a process that was forked after its parent ran some: "
            "start processes with the method 'spawn'"
        )
    return pool


@lru_cache(maxsize=1)
def _pool() -> tuple[int, Monty]:
    """Return the pool and the id of the process that started it. Workers exit when that process does."""
    try:
        pool: Monty = _library().Monty(request_timeout=MAX_SECONDS + 10)
        return os.getpid(), pool.__enter__()
    except (OSError, RuntimeError) as error:
        raise SelfInstructError(f"can't start the sandbox for code of answers ({error}); free some memory") from None


def _limits(seconds: float) -> ResourceLimits:
    return {"max_feed_duration_secs": seconds, "max_memory": _MEMORY, "max_recursion_depth": _DEPTH}


_POLICY: OSPolicy = {
    "datetime": datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC),
    "sleep": "zero",
    "process_time": "zero",
    "random_start": {"seed": 0},
}


def _discard(_stream: str, _text: str) -> None:
    """Ignore what a program prints."""


def _failure(message: str, seconds: float, index: int, line: int) -> Result:
    """Return the result of a program that failed with this message (``ZeroDivisionError: division by zero``)."""
    kind, _, text = message.partition(": ")
    text = " ".join(text.split())
    unsupported = kind == "SyntaxError"
    if kind == "TimeoutError" and "time limit exceeded" in text:
        error = _too_slow(seconds)
    elif kind == "MemoryError":
        error = f"it takes more than {_MEMORY >> 20} MiB of memory"
    elif kind == "NotImplementedError" and "monty" in text:
        error, unsupported = f"unsupported Python: {text.rpartition('yet support ')[2]}", True
    else:
        error = f"{kind}: {text}" if text else kind
    return Result(error=shorten(error, _MAX_MESSAGE), source=index, line=line, unsupported=unsupported)


def _too_slow(seconds: float) -> str:
    return f"it takes more than {seconds:g} s"

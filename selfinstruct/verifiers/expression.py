"""The kind ``python``: an expression in the answer has the right value, as a process of its own finds it.

There is one such process for this one, begun when it is first needed. Nothing is shared but two pipes, and it has no
environment. When it dies it is begun again, and asked once more: the answer that it died of twice is not accepted.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfinstruct.errors import SelfInstructError
from selfinstruct.verifiers.answers import tolerance
from selfinstruct.verifiers.base import Finding, Kind, Spec, any_json, code_blocks, short

__all__ = ["PYTHON", "close_worker", "worker_id"]

_WORKER = Path(__file__).with_name("worker.py")
_LONGEST = 10_001  # characters of an expression that are sent: one more than are allowed


class _Died(Exception):  # noqa: N818  (no error of ours)
    """How the process ended."""


class _Worker:
    def __init__(self) -> None:
        try:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", "-B", "-W", "ignore", str(_WORKER)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                cwd="/", env={}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise SelfInstructError(
                f"can't start the process that evaluates answers ({error.strerror}); free some memory, then go on"
            ) from None

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):  # it is gone: the reading tells
            self.process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise _Died(_how(self.process.wait()))
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.kill()
        self.process.wait()


def _how(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with exit code {code}"


class _Held:
    """The process, where there is one."""

    worker: _Worker | None = None
    lock = threading.Lock()


def _asked(message: Mapping[str, Any]) -> dict[str, Any]:
    how = ""
    with _Held.lock:
        for _ in range(2):
            if _Held.worker is None:
                _Held.worker = _Worker()
            try:
                return _Held.worker.ask(message)
            except _Died as died:
                how = str(died)
                _close()
            except BaseException:  # between a question and its answer: the next one would get this one's
                _close()
                raise
    return {"kept": False, "found": f"nothing: the process that evaluates it ended {how}"}


def _close() -> None:
    if _Held.worker is not None:
        _Held.worker.close()
        _Held.worker = None


def close_worker() -> None:
    """End the process; the next expression begins another."""
    with _Held.lock:
        _close()


def worker_id() -> int | None:
    """Id of the process, if there is one."""
    return None if _Held.worker is None else _Held.worker.process.pid


def _forget() -> None:
    """In a process forked from this one: the other's pipes are not to be used, nor kept open."""
    _Held.lock = threading.Lock()
    if _Held.worker is not None:
        process = _Held.worker.process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.returncode = 0  # not ours to wait for
        _Held.worker = None


atexit.register(close_worker)
os.register_at_fork(after_in_child=_forget)


def _sources(answer: str) -> list[str]:
    """Where the expression may stand: in the last code block, or else it is the whole answer, or its last line."""
    blocks = code_blocks(answer)
    text = (blocks[-1] if blocks else answer).strip()
    lines = text.splitlines() or [""]
    found = [text] if len(lines) == 1 else [text, lines[-1]] if len(text) < _LONGEST else [lines[-1]]
    return [one.strip().strip("`")[:_LONGEST] for one in found]


def _python(spec: Spec, answer: str) -> Finding:
    reply = _asked({"sources": _sources(answer), "value": spec["value"], "tolerance": spec.get("tolerance")})
    found = str(reply["found"])
    return Finding(bool(reply["kept"]), short(spec["value"]), found)


PYTHON = Kind(_python, {"value": any_json, "tolerance": tolerance}, required=("value",))

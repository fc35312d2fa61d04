"""Benchmark cells as processes that work in turns, so that trainers with their own loops can be interleaved.

The parent writes ``go``; the child trains on all documents once and answers with a line of JSON. The first turn loads
the model and warms up. Processes don't share memory, and a failure affects only its own cell.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["Ended", "FailedError", "Turns", "Worker"]


class Ended(Exception):  # noqa: N818 nothing went wrong
    """No more turns are requested."""


class FailedError(Exception):
    """A worker failed, or took too long."""


class Turns:
    """The child's side. Output of libraries goes to standard error.

    Attributes:
        facts: Facts on the cell, which are part of its final answer.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._began = 0.0

    def wait(self) -> None:
        """Wait for the next turn.

        Raises:
            Ended: There is no next turn.
        """
        if sys.stdin.readline().strip() != "go":
            raise Ended
        self._began = time.perf_counter()

    def done(self, **facts: Any) -> None:
        """End a turn and report its duration."""
        self.answer({"seconds": time.perf_counter() - self._began, **facts})

    def answer(self, facts: dict[str, Any]) -> None:
        """Send a line of JSON to the parent."""
        self._answers.write(json.dumps(facts) + "\n")
        self._answers.flush()


class Worker:
    """The parent's side of a cell; the child starts importing as soon as it is constructed."""

    def __init__(self, cell: dict[str, Any]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the process
        command = [sys.executable, str(Path(__file__).parents[1] / "train.py"), "--worker", json.dumps(cell)]
        root = str(Path(__file__).parents[2])
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **quiet, "PYTHONPATH": path},
        )

    def turn(self, seconds: float) -> dict[str, Any]:
        """Run a turn of at most ``seconds`` seconds.

        Raises:
            FailedError: The worker failed or timed out.
        """
        return self._ask(b"go\n", seconds)

    def end(self, seconds: float = 30) -> dict[str, Any]:
        """End the process and return its final answer."""
        try:
            return self._ask(b"end\n", seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def _ask(self, word: bytes, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        try:
            self._process.stdin.write(word)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._process.stdout.fileno(), 65536) if ready else None
            if not chunk:
                self.kill()
                raise FailedError(self._reason() if ready else f"took more than {seconds:.0f} s")
            line += chunk
        return dict(json.loads(line))

    def _reason(self) -> str:
        self._log.seek(0)
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line[0].isalpha() and ("Error" in line or "Exception" in line)]
        reason = (errors or lines or [f"exit status {self._process.returncode}"])[-1]
        return reason if len(reason) < 200 else reason[:200] + "..."

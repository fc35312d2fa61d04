"""Start, address and end the process that runs vLLM, and find the cause of its failures.

vLLM runs in a separate process because it starts further processes, writes to the terminal and installs signal
handlers. The process has a separate session, so that it does not receive the terminal's Ctrl-C and the run can finish
its requests in flight; its output goes to a file, from which an error message can quote the cause; and the whole
session can be killed at once. When this process dies, even if it is killed, the pipe between the two closes, and the
other one ends itself and everything that it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["EngineProcess", "cause_in"]

# The directory of this package comes last on the path, and the working directory not at all, so that no file next to
# the user's data can shadow a package.
_CODE = "import sys; sys.path.append(sys.argv[1]); from selfinstruct.backends.vllm.worker import main; main()"
_ROOT = Path(__file__).resolve().parents[3]
_MAX_ANSWER = 1 << 26  # bytes
_CLOSE_S = 30.0  # time for the engine to end by itself
_GONE_S = 2.0  # time for the interpreter's helper processes to follow
_TAIL = 1 << 18  # bytes at the end of the log that are searched for a cause
_MAX_CAUSE = 400  # characters

_PREFIX = re.compile(r"^(?:\([^()]*pid=\d+\)\s*)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s*)?")
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)\b: .+")
_SECONDARY = re.compile(
    r"Engine core initialization failed|EngineDeadError|WorkerProc initialization failed"
    r"|See (?:the )?(?:stack trace|root cause)"
)


class EngineProcess:
    """A running worker process, created by ``open``."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._keep_log = False
        self._loaded = False

    @classmethod
    async def open(cls, first: Mapping[str, Any]) -> EngineProcess:
        """Start a worker and send it the first message."""
        handle, log = tempfile.mkstemp(prefix="selfinstruct-vllm-", suffix=".log")
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-c", _CODE, str(_ROOT),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=handle,
                start_new_session=True, limit=_MAX_ANSWER, env=_environment(),
            )  # fmt: skip
        except BaseException:
            os.unlink(log)
            raise
        finally:
            os.close(handle)
        worker = cls(process, Path(log))
        worker.send(first)
        return worker

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; it is dropped if the process has ended."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.is_closing():
            pipe.write(json.dumps(message).encode("ascii") + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message; None once the process has ended."""
        assert self._process.stdout is not None
        try:
            line = await self._process.stdout.readline()
        except ValueError:  # longer than the limit, which no completion is
            return None
        self._loaded = True  # the first message comes once the model is loaded, or failed to load
        return json.loads(line) if line.endswith(b"\n") else None

    async def ended(self) -> None:
        """Wait for the end of a process whose output has ended, and kill the processes that it left behind."""
        await self.close(keep_log=True)

    def cause(self) -> str:
        """Return the error in the log that explains the end; "" if the log has no error."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - _TAIL))
                return cause_in(file.read().decode("utf-8", "replace"))
        except OSError:
            return ""

    def with_log(self, text: str) -> str:
        """Return the message with the path of the log, which is kept from now on."""
        self._keep_log = True
        return f"{text.rstrip('.')}. Its log: {self._log}"

    async def close(self, *, keep_log: bool = False) -> None:
        """End the process and everything it started: by closing the pipe, then by SIGKILL."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            if not self._loaded:  # it would continue to load, and has nothing to lose
                self._signal(signal.SIGKILL)
            async with asyncio.timeout(_CLOSE_S):
                await process.wait()
            async with asyncio.timeout(_GONE_S):
                while self._signal(0):  # noqa: ASYNC110  (the end of a grandchild cannot be awaited)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        finally:
            self._signal(signal.SIGKILL)  # also if this call is cancelled, and then at once
            if not (keep_log or self._keep_log):
                self._log.unlink(missing_ok=True)
        await process.wait()

    def _signal(self, number: int) -> bool:
        """Send a signal to the session; return False if none of its processes is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
            return True
        return False


def _environment() -> dict[str, str]:
    """Return this process's environment, with usage reports disabled and no forking of threaded processes."""
    return {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", **os.environ, "VLLM_NO_USAGE_STATS": "1"}


def cause_in(log: str) -> str:
    """Return the last error in vLLM's output that is not a consequence of another one; "" if the log has no error."""
    lines = (_PREFIX.sub("", line).strip() for line in log.splitlines())
    errors = [line for line in lines if _ERROR.match(line) and not _SECONDARY.search(line)]
    return errors[-1][:_MAX_CAUSE] if errors else ""

"""The process that holds vLLM, as this one sees it: how it is started, spoken to, understood and ended.

It is a process of its own because vLLM starts further ones, writes to the terminal, and takes signals for itself. In a
session of its own it does not get the terminal's Ctrl-C, so that a run can finish what is under way; its output is a
file, of which a message can quote the cause; and the whole session can be killed at once. When this process dies,
however it dies, the pipe between them closes, and the other one ends itself and all that it started.
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

# The tree that this package lies in goes last: no file beside the user's data may stand in for a package.
_CODE = "import sys; sys.path.append(sys.argv[1]); from selfinstruct.backends.vllm.worker import main; main()"
_ROOT = Path(__file__).resolve().parents[3]
_LONGEST = 1 << 26  # bytes of one answer
_CLOSE_S = 30.0  # for the engine to end by itself
_GONE_S = 2.0  # for helpers of the interpreter to follow
_TAIL = 1 << 18  # bytes of the log in which a cause is looked for
_SHOWN = 400  # characters of it

_PREFIX = re.compile(r"^(?:\([^()]*pid=\d+\)\s*)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s*)?")
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)\b: .+")
_SECONDARY = re.compile(
    r"Engine core initialization failed|EngineDeadError|WorkerProc initialization failed"
    r"|See (?:the )?(?:stack trace|root cause)"
)


class EngineProcess:
    """A running worker. Made by ``open``."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._keep = False
        self._loaded = False

    @classmethod
    async def open(cls, first: Mapping[str, Any]) -> EngineProcess:
        """Start a worker and send it its first message."""
        handle, log = tempfile.mkstemp(prefix="selfinstruct-vllm-", suffix=".log")
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-c", _CODE, str(_ROOT),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=handle,
                start_new_session=True, limit=_LONGEST, env=_environment(),
            )  # fmt: skip
        except BaseException:
            os.unlink(log)
            raise
        finally:
            os.close(handle)
        found = cls(process, Path(log))
        found.send(first)
        return found

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand a message over; one to a process that is gone is dropped."""
        pipe = self._process.stdin
        if pipe is not None and not pipe.is_closing():
            pipe.write(json.dumps(message).encode("ascii") + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end of the process."""
        assert self._process.stdout is not None
        try:
            line = await self._process.stdout.readline()
        except ValueError:  # longer than the limit: no completion is
            return None
        self._loaded = True  # it speaks when it has loaded the model, or failed to
        return json.loads(line) if line.endswith(b"\n") else None

    async def ended(self) -> None:
        """Wait for the end of a process that has nothing more to say, and end what it left behind."""
        await self.close(keep_log=True)

    def cause(self) -> str:
        """The error in the log that explains the end; "" where there is none."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - _TAIL))
                return cause_in(file.read().decode("utf-8", "replace"))
        except OSError:
            return ""

    def blame(self, text: str) -> str:
        """The text, and where the log is; it is kept from then on."""
        self._keep = True
        return f"{text.rstrip('.')}. Its log: {self._log}"

    async def close(self, *, keep_log: bool = False) -> None:
        """End the process and all that it started: by closing the pipe, and by SIGKILL where that does not do."""
        process = self._process
        if process.stdin is not None:
            process.stdin.close()
        try:
            if not self._loaded:  # it would go on loading, and has nothing to lose
                self._signal(signal.SIGKILL)
            async with asyncio.timeout(_CLOSE_S):
                await process.wait()
            async with asyncio.timeout(_GONE_S):
                while self._signal(0):  # noqa: ASYNC110  (nobody tells of the end of a grandchild)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        finally:
            self._signal(signal.SIGKILL)  # also when this is cancelled: then at once
            if not (keep_log or self._keep):
                self._log.unlink(missing_ok=True)
        await process.wait()

    def _signal(self, number: int) -> bool:
        """Signal the session; False if nothing is left of it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
            return True
        return False


def _environment() -> dict[str, str]:
    """This process's, with what keeps vLLM from reporting its use, and from forking a process that has threads."""
    return {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", **os.environ, "VLLM_NO_USAGE_STATS": "1"}


def cause_in(log: str) -> str:
    """The last error in vLLM's output that is no consequence of another one; "" where there is none."""
    lines = (_PREFIX.sub("", line).strip() for line in log.splitlines())
    found = [line for line in lines if _ERROR.match(line) and not _SECONDARY.search(line)]
    return found[-1][:_SHOWN] if found else ""

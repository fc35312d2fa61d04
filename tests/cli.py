"""Run the command line as a user does: in a separate process.

``run_cli`` forks that process from one that has already imported the command line, which takes a tenth of the time of a
new interpreter. ``command`` is the full command, for tests that need a new interpreter, signals or pipes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 90.0

# Modules that commands import lazily; a forked command finds them loaded.
PRELOADED = {
    "selfinstruct": ("httpx2", "numpy", "openai", "pydantic", "rapidfuzz", "selfinstruct.cli", "selfinstruct.filters"),
    "finetune": ("finetune.cli", "peft", "torch", "transformers"),
}


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "selfinstruct", *map(str, args)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run_cli(*args: object, code: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Run ``selfinstruct ARGS``, require an exit code and no traceback, and return both outputs."""
    return run_program("selfinstruct", args, code=code, env=env)


def run_program(
    program: str,
    args: Sequence[object],
    *,
    code: int = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = TIMEOUT_S,
) -> str:
    """Run ``selfinstruct`` or ``finetune``, require an exit code and no traceback, and return both outputs."""
    words, changes = [*map(str, args)], env or {}
    if any(name.startswith("PYTHON") for name in changes):  # only a new interpreter reads these
        done = subprocess.run(
            [sys.executable, "-m", program, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=environment(**changes),
            cwd=cwd,
        )
        ended, output = done.returncode, done.stdout + done.stderr
    else:
        ended, output = _server(program).run(words, environment(**changes), cwd or Path.cwd(), timeout)
    assert "Traceback" not in output, output
    assert ended == code, f"exit {ended}, expected {code}:\n{output}"
    return output


def dataset(run: Path, name: str = "alpaca") -> bytes:
    return (run / "dataset" / f"{name}.jsonl").read_bytes()


class CommandServer:
    """A process that forks one process per command. It ends when this process does.

    Args:
        program: ``selfinstruct`` or ``finetune``.
    """

    def __init__(self, program: str) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        script = f"from tests.cli import serve; serve({program!r}, {theirs.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", script],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment(HF_HUB_OFFLINE="1"),  # read when the hub's client is imported
        )
        theirs.close()

    def run(self, args: Sequence[str], env: Mapping[str, str], cwd: Path, timeout: float) -> tuple[int, str]:
        """Run one command to its end.

        Returns:
            Its exit code, and what it wrote to standard output followed by what it wrote to standard error.

        Raises:
            TimeoutError: It took too long; it was killed.
        """
        job = json.dumps({"args": [*args], "env": {**env}, "cwd": str(cwd)}) + "\n"
        ours, theirs = socket.socketpair()
        with ours, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            with theirs, self._lock:
                files = [theirs.fileno(), stdout.fileno(), stderr.fileno()]
                sent = socket.send_fds(self._control, [job.encode()], files)
                self._control.sendall(job.encode()[sent:])
                answers = ours.makefile()
                pid = int(answers.readline())
            ours.settimeout(timeout)
            try:
                code = int(answers.readline())
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                raise
            finally:
                answers.close()
            output = b""
            for file in (stdout, stderr):
                file.seek(0)
                output += file.read()
        return code, output.decode()


@cache
def _server(program: str) -> CommandServer:
    return CommandServer(program)


def serve(program: str, control: int) -> None:
    """Fork a process for each command that arrives at a socket, until the socket is closed."""
    for name in PRELOADED[program]:
        module = importlib.import_module(name)
        if name.endswith(".cli"):
            for part in pkgutil.iter_modules(module.__path__, f"{name}."):
                importlib.import_module(part.name)
    main = importlib.import_module(f"{program}.cli").main
    gc.collect()
    gc.freeze()  # forked processes leave this memory shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries the parents of finished commands
    with socket.socket(fileno=control) as jobs:
        while True:
            data, files, _, _ = socket.recv_fds(jobs, 65536, 3)
            if not data:
                return
            while not data.endswith(b"\n"):
                data += jobs.recv(65536)
            if not os.fork():  # a parent for each command, so that several can run at once
                _watch(program, main, json.loads(data), files)
            for file in files:
                os.close(file)


def _watch(program: str, main: object, job: dict, files: list[int]) -> None:
    """Fork the command; report its process id, then its exit code."""
    answers, stdout, stderr = files
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not (pid := os.fork()):
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.closerange(3, max(files) + 1)
        _run(program, main, job)
    os.write(answers, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # whoever waited has given up
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _run(program: str, main, job: dict) -> None:
    """Be the command, and end as an interpreter would."""
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    sys.argv = [program, *job["args"]]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

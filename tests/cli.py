"""Helpers that run the command line in a separate process, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "selfinstruct", *map(str, args)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run_cli(*args: object, code: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Run ``selfinstruct ARGS``, require an exit code and no traceback, and return both outputs."""
    done = subprocess.run(
        command(*args), capture_output=True, text=True, check=False, timeout=90, env=environment(**(env or {}))
    )
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    assert done.returncode == code, f"exit {done.returncode}, expected {code}:\n{output}"
    return output


def dataset(run: Path, name: str = "alpaca") -> bytes:
    return (run / "dataset" / f"{name}.jsonl").read_bytes()

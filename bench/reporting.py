"""What the heads of all results have in common: the folder, the date and the machine."""

from __future__ import annotations

import datetime
import platform
from functools import cache
from pathlib import Path

__all__ = ["RESULTS", "hardware", "processors", "today"]

RESULTS = Path(__file__).parent / "results"


@cache
def today() -> str:
    """Return the date in UTC as YYYY-MM-DD, at the first call: a title and a file name agree also after midnight."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def processors() -> tuple[int, str]:
    """Return the number of hardware threads and the name of the processor; where it is unknown, 1 and the platform."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return (len(models), models[0]) if models else (1, platform.machine())


def hardware() -> str:
    """Return the processor as "N threads of MODEL"."""
    count, model = processors()
    return f"{count} threads of {model}"

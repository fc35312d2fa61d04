"""How many threads a model should get on a machine that may be busy.

llama.cpp's threads meet at a barrier several hundred times a token: one thread that has to share its core holds all of
them up. So: as many threads as there are cores that nobody else is using.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from pathlib import Path

__all__ = ["busy_cores", "choose_threads", "cores"]

_SAMPLE_S = 0.25


def cores() -> int:
    """Physical cores that this process may use, by affinity and quota; hyper-threads of one core count once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    seen = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(seen), _quota()))


def _siblings(cpu: int) -> str:
    """A name that hyper-threads of one core share; each CPU's own where the system doesn't say."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Whole CPUs that the control group grants (cgroup v2), at least 1; without a limit, as many as there are."""
    everything = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return everything if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return everything


async def busy_cores() -> float:
    """Cores that others keep busy, looked at for a quarter of a second.

    Not the load average, where there is better: after an installation it stays high for minutes. Time stolen by the
    hypervisor counts as busy.
    """
    before = _jiffies()
    if before is None:
        return os.getloadavg()[0] if sys.platform != "win32" else 0.0
    await asyncio.sleep(_SAMPLE_S)
    after = _jiffies() or before
    total, idle = after[0] - before[0], after[1] - before[1]
    return (1 - idle / total) * (os.cpu_count() or 1) if total > 0 else 0.0


def _jiffies() -> tuple[int, int] | None:
    """Time of all CPUs since boot: the whole, and what of it was idle or waiting for a disk."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        times = [int(word) for word in line.split()[1:9]]  # user nice system idle iowait irq softirq steal
    except (OSError, ValueError):
        return None
    return sum(times), times[3] + times[4]


def choose_threads(physical: int, busy: float) -> int:
    """Threads for a machine with that many cores of which others use ``busy``."""
    return max(1, min(physical, math.floor(physical - busy + 0.5)))

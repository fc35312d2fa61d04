"""Choose the number of threads for a model on a machine that may be busy.

llama.cpp's threads meet at a barrier several hundred times per token, so a single thread that shares its core delays
all others. The model therefore gets as many threads as there are idle cores.
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
    """Return the physical cores that affinity and quota allow; hyper-threads of one core count once."""
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(siblings), _quota()))


def _siblings(cpu: int) -> str:
    """Return an identifier shared by the hyper-threads of one core; the CPU's own where the system has none."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Return the whole CPUs granted by the control group (cgroup v2), at least 1; all CPUs if there is no limit."""
    available = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return available if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return available


async def busy_cores() -> float:
    """Measure for a quarter of a second how many cores other processes keep busy.

    The load average would stay high for minutes after an installation; it is the fallback where CPU times are not
    available. Time stolen by the hypervisor counts as busy.
    """
    before = _jiffies()
    if before is None:
        return os.getloadavg()[0] if sys.platform != "win32" else 0.0
    await asyncio.sleep(_SAMPLE_S)
    after = _jiffies() or before
    total, idle = after[0] - before[0], after[1] - before[1]
    return (1 - idle / total) * (os.cpu_count() or 1) if total > 0 else 0.0


def _jiffies() -> tuple[int, int] | None:
    """Return the time of all CPUs since boot, and the part of it spent idle or waiting for a disk."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        times = [int(word) for word in line.split()[1:9]]  # user nice system idle iowait irq softirq steal
    except (OSError, ValueError):
        return None
    return sum(times), times[3] + times[4]


def choose_threads(physical: int, busy: float) -> int:
    """Return the number of threads for a machine with ``physical`` cores, ``busy`` of which are in use."""
    return max(1, min(physical, math.floor(physical - busy + 0.5)))

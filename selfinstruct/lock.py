"""One writer for a run directory: a lock file, held for life by flock.

The operating system lets go of it when the process ends, however it ends: a stale lock file blocks nobody.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from selfinstruct.errors import LedgerError, RunLockedError
from selfinstruct.files import reason

__all__ = ["RunLock"]


class RunLock:
    """Takes the lock at once or fails.

    Raises:
        RunLockedError: Another process holds it; the message names its pid.
        LedgerError: The directory can't be written, or its file system has no locks.
    """

    def __init__(self, folder: Path, name: str = "run.lock") -> None:
        path = folder / name
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LedgerError(f"can't write {path}: {reason(error)}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            who = f"process {holder}" if holder else "another process"
            raise RunLockedError(f"{folder} is in use by {who}; wait for it, or stop it") from None
        except OSError as error:
            os.close(self._descriptor)
            raise LedgerError(f"can't lock {path}: {reason(error)}; some network file systems can't") from None
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode("ascii"))
        except OSError as error:
            os.close(self._descriptor)
            raise LedgerError(f"can't write {path}: {reason(error)}") from None

    def release(self) -> None:
        """Let go. The file stays: removing it would race with the next holder."""
        os.close(self._descriptor)

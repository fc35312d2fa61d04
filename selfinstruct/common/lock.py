"""One writer for a run directory: a lock file, held for life by flock.

The operating system lets go of it when the process ends, however it ends: a stale lock file blocks nobody. Between two
machines it may not hold: whoever takes one on a network file system is warned.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from selfinstruct.common.files import reason
from selfinstruct.errors import LedgerError, RunLockedError

__all__ = ["RunLock", "network_file_system"]

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "fuse", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
        "orangefs", "smb3", "smbfs", "virtiofs",
    }
)  # fmt: skip
_warned: set[Path] = set()


def network_file_system(mounts: str, path: str) -> str:
    """The type of the file system that ``path`` lies on, where that is another machine's, else "".

    FUSE counts as such (sshfs, object stores), except ``fuseblk`` (a disk) and fuse-overlayfs (a container's root).

    Args:
        mounts: Text of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)).
        path: Absolute, without symbolic links.
    """
    longest, kind = -1, ""
    for line in mounts.split("\n"):
        fields, _, rest = line.partition(" - ")
        names = fields.split()
        if len(names) < 5 or not rest:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), names[4]).rstrip("/")
        # Of two mounts on one point the later one is seen.
        if len(point) >= longest and (path == point or path.startswith(point + "/")):
            longest, kind = len(point), rest.split()[0]
    other = kind in _NETWORK or (kind.startswith("fuse.") and kind != "fuse.fuse-overlayfs")
    return kind if other else ""


class RunLock:
    """Takes the lock at once or fails; warns on standard error, once a directory, of a network file system.

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
        _warn(folder)

    def release(self) -> None:
        """Let go. The file stays: removing it would race with the next holder."""
        os.close(self._descriptor)


def _warn(folder: Path) -> None:
    try:
        where = folder.resolve()
        kind = network_file_system(_MOUNTS.read_text("utf-8", "surrogateescape"), str(where))
    except OSError:  # not Linux
        return
    if kind and where not in _warned:
        _warned.add(where)
        from selfinstruct.common.console import echo

        echo(
            f"Warning: {folder} is on a network file system ({kind}), where locks and SQLite's log may not hold: "
            "use it from one machine at a time, or put it on a local disk",
            err=True,
        )

"""The lock of a run directory: a file held with flock by the one process that may write.

The operating system releases the lock when the process ends for any reason, so a stale lock file blocks nobody. On a
network file system the lock may not exclude other machines; a warning says so.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from selfinstruct.common.files import describe_os_error
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
    """Return the type of the network file system that holds ``path``, or "" for a local one.

    FUSE counts as a network file system (sshfs, object stores), except ``fuseblk`` (a disk) and fuse-overlayfs (the
    root of a container).

    Args:
        mounts: Text of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)).
        path: Absolute path without symbolic links.
    """
    longest, kind = -1, ""
    for line in mounts.split("\n"):
        fields, _, rest = line.partition(" - ")
        names = fields.split()
        if len(names) < 5 or not rest:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), names[4]).rstrip("/")
        # Of two mounts on one mount point, the later one is visible.
        if len(point) >= longest and (path == point or path.startswith(point + "/")):
            longest, kind = len(point), rest.split()[0]
    is_network = kind in _NETWORK or (kind.startswith("fuse.") and kind != "fuse.fuse-overlayfs")
    return kind if is_network else ""


class RunLock:
    """The lock of one run directory, acquired on construction without waiting.

    A directory on a network file system causes one warning on standard error.

    Raises:
        RunLockedError: Another process holds the lock; the message names its process id.
        LedgerError: The directory can't be written, or its file system has no locks.
    """

    def __init__(self, folder: Path, name: str = "run.lock") -> None:
        path = folder / name
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LedgerError(f"can't write {path}: {describe_os_error(error)}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            who = f"process {holder}" if holder else "another process"
            raise RunLockedError(f"{folder} is in use by {who}; wait for it, or stop it") from None
        except OSError as error:
            os.close(self._descriptor)
            raise LedgerError(
                f"can't lock {path}: {describe_os_error(error)}; some network file systems don't support locks"
            ) from None
        try:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode("ascii"))
        except OSError as error:
            os.close(self._descriptor)
            raise LedgerError(f"can't write {path}: {describe_os_error(error)}") from None
        _warn(folder)

    def release(self) -> None:
        """Release the lock. The file remains, since removing it would race with the next holder."""
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

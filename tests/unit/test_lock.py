from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from selfinstruct.errors import LedgerError, RunLockedError
from selfinstruct.lock import RunLock


def test_a_lock_that_is_held_names_its_holder(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with pytest.raises(RunLockedError, match=f"in use by process {os.getpid()}; "):
        RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_not_said_to_be_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LedgerError, match=f"can't lock .*run.lock: {os.strerror(number)}; some network") as caught:
        RunLock(tmp_path)
    assert not isinstance(caught.value, RunLockedError)
    assert len(os.listdir("/proc/self/fd")) == before, "the file is closed again"

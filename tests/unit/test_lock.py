from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfinstruct.common import lock as module
from selfinstruct.common.lock import RunLock, network_file_system
from selfinstruct.errors import LedgerError, RunLockedError
from tests.cli import environment

MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:40 / /home rw,relatime shared:5 master:1 - nfs4 host:/home rw,vers=4.2
31 30 0:41 / /home/me/local rw - xfs /dev/sdb rw
32 27 0:42 / /mnt/with\\040space rw - cifs //host/share rw
33 27 0:43 / /mnt/sshfs rw - fuse.sshfs me@host: rw
34 27 0:44 / /mnt/stick rw - fuseblk /dev/sdc rw
35 27 0:45 / /mnt/host rw - 9p host rw,trans=virtio
36 27 0:46 / /mnt/twice rw - ext4 /dev/sdd rw
37 36 0:47 / /mnt/twice rw - nfs host:/twice rw
38 27 0:48 / /mnt/again rw - nfs host:/again rw
39 38 0:49 / /mnt/again rw - tmpfs tmpfs rw
40 27 0:50 / /mnt/box rw - fuse.fuse-overlayfs fuse-overlayfs rw
41 27 0:51 / /mnt/object rw - fuse bucket rw
42 27 0:52 / /mnt/smb rw - smb3 //host/x rw
43 27 0:53 / /mnt/guest rw - virtiofs tag rw
a line of another kind
"""


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with pytest.raises(RunLockedError, match=f"in use by process {os.getpid()}; "):
        RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_not_reported_as_in_use(
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


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", ""),
        ("/srv/run", ""),
        ("/home", "nfs4"),
        ("/home/me/run", "nfs4"),
        ("/homes/run", ""),
        ("/home/me/local/run", ""),
        ("/home/me/locals", "nfs4"),
        ("/mnt/with space/run", "cifs"),
        ("/mnt/sshfs/run", "fuse.sshfs"),
        ("/mnt/stick/run", ""),
        ("/mnt/host", "9p"),
        ("/mnt/twice/run", "nfs"),
        ("/mnt/again/run", ""),
        ("/mnt/box/run", ""),
        ("/mnt/object/run", "fuse"),
        ("/mnt/smb/run", "smb3"),
        ("/mnt/guest/run", "virtiofs"),
    ],
)
def test_network_file_systems_are_recognised_by_their_mount(path: str, kind: str) -> None:
    assert network_file_system(MOUNTS, path) == kind


def test_without_mount_information_there_is_no_warning() -> None:
    assert network_file_system("", "/home") == ""


def test_a_network_file_system_causes_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mounts, run, local = tmp_path / "mountinfo", tmp_path / "far" / "run", tmp_path / "near"
    run.mkdir(parents=True)
    local.mkdir()
    link = tmp_path / "link"
    link.symlink_to(run)
    mounts.write_text(f"1 1 0:1 / / rw - ext4 x rw\n2 1 0:2 / {tmp_path}/far rw - nfs4 host:/ rw\n")
    monkeypatch.setattr(module, "_MOUNTS", mounts)
    for folder in (local, link, run, link):
        RunLock(folder).release()
    said = capsys.readouterr().err
    assert said.count("Warning: ") == said.count("\n") == 1
    assert f"{link} is on a network file system (nfs4)" in said
    monkeypatch.setattr(module, "_MOUNTS", tmp_path / "none")
    RunLock(local).release()
    assert capsys.readouterr().err == ""


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from selfinstruct.common.lock import RunLock; lock = RunLock(pathlib.Path(sys.argv[1]))"
    )
    line = [sys.executable, "-c", f"{code}; print('held', flush=True); sys.stdin.read()", str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunLockedError, match=f"in use by process {holder.pid}; "):
            RunLock(tmp_path)
        holder.kill()
    RunLock(tmp_path).release()

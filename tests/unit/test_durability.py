"""Durability of writes: what is acknowledged is on disk before anything that depends on it.

A crash of the operating system can't be tested here, so these tests observe the order of the calls that protect
against one: the settings of the ledger's connection, and the order of fsync and rename.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.common.files import write_atomic, write_folder
from selfinstruct.ledger import Ledger, writer
from selfinstruct.ledger.migrate import backup_path
from tests.cli import environment
from tests.golden.make import GOLDEN

Calls = list[tuple[str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The calls of fsync and rename in order, each with the name of its file or directory."""
    recorded: Calls = []
    fsync = os.fsync

    def recording_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        recorded.append((f"fsync {kind}", path.name))

    def recording(rename: Callable[..., Any]) -> Callable[..., Any]:
        def replace(source: Any, target: Any, **options: Any) -> Any:
            result = rename(source, target, **options)
            recorded.append(("rename", Path(target).name))
            return result

        return replace

    monkeypatch.setattr(os, "fsync", recording_fsync)
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, recording(getattr(os, name)))
    return recorded


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
class TestFiles:
    def test_a_file_is_synced_before_its_rename_and_its_directory_after(self, calls: Calls, tmp_path: Path) -> None:
        write_atomic(tmp_path / "rows.jsonl", [b"one\n", b"two\n"])
        assert [kind for kind, _ in calls] == ["fsync file", "rename", "fsync directory"]
        assert re.fullmatch(r"\.rows\.jsonl\.\w+\.part", calls[0][1])
        assert calls[1:] == [("rename", "rows.jsonl"), ("fsync directory", tmp_path.name)]

    def test_all_data_is_written_when_the_file_is_synced(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        sizes = []

        def recording_fsync(descriptor: int) -> None:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                sizes.append(os.fstat(descriptor).st_size)

        monkeypatch.setattr(os, "fsync", recording_fsync)
        write_atomic(tmp_path / "rows.jsonl", [b"x" * 3, b"y" * 4])
        assert sizes == [7], "nothing is left in a buffer"

    def test_a_folder_is_synced_with_its_files_before_its_rename(self, calls: Calls, tmp_path: Path) -> None:
        with write_folder(tmp_path / "model") as folder:
            (folder / "a").write_text("a")
            (folder / "b").write_text("b")
        assert calls == [
            ("fsync file", "a"),
            ("fsync file", "b"),
            ("fsync directory", ".model.part"),
            ("rename", "model"),
            ("fsync directory", tmp_path.name),
        ]

    def test_the_copy_of_an_older_ledger_is_synced_before_the_migration(
        self, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copy(GOLDEN / "schema-1" / "run.sqlite", tmp_path)
        # pathlib calls os.rename or os.replace, depending on the version of Python.
        Ledger(tmp_path, {}, {}).close()
        copy = backup_path(tmp_path / "run.sqlite", 1).name
        assert calls == [("fsync file", f".{copy}.part"), ("rename", copy), ("fsync directory", tmp_path.name)]


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.mark.parametrize("existing", [False, True])
def test_the_connection_that_writes_the_ledger_syncs_every_commit(
    existing: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if existing:
        Ledger(tmp_path, {}, {}).close()
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def recording_connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connections.append(connect(*args, **options))
        return connections[-1]

    monkeypatch.setattr(writer.sqlite3, "connect", recording_connect)
    with Ledger(tmp_path, {}, {}):
        [connection] = connections
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "synchronous") == 2, "FULL: each commit is synced before it is acknowledged"


WRITE = """
import sys
from pathlib import Path
from selfinstruct.ledger import Ledger
with Ledger(Path(sys.argv[1]), {}, {}) as ledger:
    for number in range(int(sys.argv[2])):
        ledger.set_meta("n", number)
        print("ACKNOWLEDGED", number, flush=True)
"""


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_trace(), reason="needs strace and the permission to trace")
def test_each_commit_is_synced_to_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    """Observed at the level of system calls: write to the log, fsync of the log, acknowledgement."""
    trace, count = tmp_path / "trace", 5
    subprocess.run(
        ["strace", "-f", "-y", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", trace, sys.executable, "-c", WRITE,
         tmp_path / "run", str(count)],
        check=True, capture_output=True, env=environment(),
    )  # fmt: skip
    events = []
    for line in trace.read_text().splitlines():
        if re.search(r"\bpwrite64\(\d+<[^>]*run\.sqlite-wal>", line):
            events.append("write")
        elif re.search(r"\bf(data)?sync\(\d+<[^>]*run\.sqlite-wal>", line):
            events.append("sync")
        elif "ACKNOWLEDGED" in line:
            events.append("acknowledge")
    assert events.count("acknowledge") == count
    unsynced = False
    commits = 0
    for event in events:
        if event == "write":
            unsynced = True
        elif event == "sync":
            commits += unsynced
            unsynced = False
        else:
            assert not unsynced, f"acknowledged before the log was synced: {events}"
    assert commits >= count, events

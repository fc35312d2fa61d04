"""Full disks, read-only ones, damaged files, kills in the midst of a write: nothing lost, nothing torn, clear words.

The disks are small tmpfs of the tests' own, which only root may mount.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selfinstruct.lock import RunLock
from tests.cli import dataset, environment, run_cli
from tests.conftest import Promise
from tests.loopback import Loopback
from tests.scripted import reply

PLENTY = 16_000  # pages, or inodes
WIDTH = 2  # requests in flight
KEPT = "everything acknowledged is kept"

# A process for each command, as in a shell; forked from one that has everything imported, which takes most of the time.
FORKS = """
import gc, json, os, signal, sys
import openai
import selfinstruct.cli.explain, selfinstruct.cli.export, selfinstruct.cli.generate, selfinstruct.cli.status
from selfinstruct import cli

openai.AsyncOpenAI(api_key="none")  # imports the rest of it
gc.freeze()
seen = 0

def kill_at(line, module):
    def trace(frame, event, _):
        global seen
        if not frame.f_code.co_filename.endswith("/selfinstruct/" + module):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

for text in sys.stdin:
    job = json.loads(text)
    child = os.fork()
    if child == 0:
        output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["selfinstruct", *job["args"]]
        if job["kill_at"] is not None:
            kill_at(job["kill_at"], job["module"])
        try:
            cli.main()
        except SystemExit as ended:
            if job["kill_at"] == 0:
                print("LINES", seen)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code or 0)  # to take down what was never built up for this command alone takes long
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Runs ``selfinstruct ARGS``; gives the exit code and both outputs; a traceback is never right.

    ``kill_at`` sends SIGKILL before the n-th line that runs in ``module``; 0 only counts them and prints that last.
    """
    output = tmp_path_factory.mktemp("forked") / "output"
    process = subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env=environment())  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def run(*args: object, kill_at: int | None = None, module: str = "files.py") -> tuple[int, str]:
        job = {"args": [*map(str, args)], "output": str(output), "kill_at": kill_at, "module": module}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        code, said = int(process.stdout.readline()), output.read_text()
        assert "Traceback" not in said, said
        assert "should not happen" not in said, said
        return code, said

    yield run
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()


class Disk:
    """A tmpfs of so many pages of 4 KiB and so many inodes; its own root is one of these."""

    def __init__(self, folder: Path, pages: int = PLENTY, inodes: int = PLENTY) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._mount(f"size={4 * pages}k,nr_inodes={inodes}")

    def _mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=True, capture_output=True)

    def grow(self) -> None:
        self._mount(f"remount,size={4 * PLENTY}k,nr_inodes={PLENTY}")

    def protect(self) -> None:
        self._mount("remount,ro")

    def close(self) -> None:
        subprocess.run(["umount", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """Makes one disk after the other, the last one unmounted with the test."""
    made: list[Disk] = []

    def make(**limits: int) -> Disk:
        while made:
            made.pop().close()
        try:
            made.append(Disk(tmp_path / "disk", **limits))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no tmpfs can be mounted here: {error}")
        return made[0]

    yield make
    for one in made:
        one.close()


def args(run: Path, url: str, rows: int, *more: object) -> list[object]:
    return ["generate", run, "--backend", "openai", "--model", "scripted", "--base-url", url, "--api", "completion",
            "--strategy", "alpaca", "-q", "--concurrency", WIDTH, "-n", rows, *more]  # fmt: skip


def stored(run: Path) -> dict[int, bytes]:
    """Every outcome on disk, by number; the file must be whole."""
    if not (run / "run.sqlite").exists() or (run / "run.sqlite").stat().st_size == 0:
        return {}
    ledger = sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True)
    try:
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not ledger.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            return {}
        return dict(ledger.execute("SELECT k, body FROM outcomes"))
    finally:
        ledger.close()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def recorded(folder: Path, rows: int) -> Iterator[tuple[Path, str]]:
    """A run over HTTP and the address of the server, still there."""
    with Loopback(reply) as server:
        run_cli(*args(folder, server.url, rows))
        yield folder, server.url


# Full


def place_of(said: str) -> str:
    """Which write met the end of the disk."""
    found = re.search(r"run directory|run\.lock|run\.sqlite|config\.yaml|alpaca\.jsonl|manifest\.json", said)
    assert found is not None, said
    return found.group()


def fill(
    tmp_path: Path, disk: Callable[..., Disk], forked: Command, rows: int, limits: list[dict[str, int]]
) -> tuple[list[str], int]:
    """Run into each limit, make room, give the same command again.

    Returns:
        Where each run that failed did so, and how many outcomes those runs had stored.
    """
    places, kept = [], 0
    with Loopback(reply) as server:
        run_cli(*args(tmp_path / "whole", server.url, rows))
        right = tree(tmp_path / "whole" / "dataset")
        for limit in limits:
            place = disk(**limit)
            run = place.folder / "runs" / "a"
            line = args(run, server.url, rows)
            asked = len(server.arrived)
            code, said = forked(*line)
            asked, begun = len(server.arrived) - asked, len(server.arrived)
            partly = (run / "dataset" / "alpaca.jsonl").exists() and dataset(run)
            place.grow()
            before = stored(run)
            if code:
                assert (code, said.count("\n")) == (1, 1), said
                assert "No space left on device (free some space" in said or KEPT in said
                places.append(place_of(said))
            # What the server answered is on disk, except what was on its way when the disk was full.
            assert 0 <= asked - len(before) <= (WIDTH if code else 0), f"{limit}: {asked} asked, {len(before)} stored"
            assert right["alpaca.jsonl"].startswith(partly or b"")
            assert forked(*line)[0] == 0
            after = stored(run)
            assert before.items() <= after.items(), f"{limit}: something that was stored is lost"
            assert len(server.arrived) - begun == len(after) - len(before), f"{limit}: something was asked for twice"
            assert tree(run / "dataset") == right, limit
            assert not list(run.rglob("*.part")), limit
            kept += len(before) if code else 0
    return places, kept


ALL = {"run directory", "run.lock", "run.sqlite", "config.yaml", "alpaca.jsonl", "manifest.json"}


def test_a_full_disk_at_each_write_costs_nothing(
    tmp_path: Path, disk: Callable[..., Disk], forked: Command, promise: Promise
) -> None:
    """Too few inodes fail the making of each file in turn, too few pages the writes: sends, outcomes, the log's end."""
    # The root, the run directory and its parent, lock, database, log, index, configuration, folder, dataset, manifest.
    limits = [{"inodes": count} for count in range(1, 11)] + [{"pages": pages} for pages in (1, 8, 44, 54)]
    places, kept = fill(tmp_path, disk, forked, 20, limits)
    assert set(places) == ALL
    assert len(places) >= 12
    assert kept > 0
    promise("storage: full disk", f"{len(places)} places, 0 of {kept} outcomes lost or bought twice, bytes equal")


@pytest.mark.prove
def test_a_disk_of_every_size_costs_nothing(
    tmp_path: Path, disk: Callable[..., Disk], forked: Command, promise: Promise
) -> None:
    limits = [{"inodes": count} for count in range(1, 11)] + [{"pages": pages} for pages in range(1, 110)]
    places, kept = fill(tmp_path, disk, forked, 12, limits)
    assert set(places) == ALL
    # Long enough for the log to be written back into the database while the run is at work.
    long, more = fill(tmp_path / "long", disk, forked, 400, [{"pages": pages} for pages in range(600, 1500, 60)])
    assert set(long) <= ALL
    count = len(places) + len(long)
    promise("storage: full disk", f"{count} places, 0 of {kept + more} outcomes lost or bought twice, bytes equal")


# Read-only


def test_a_read_only_directory_is_said_to_be_one_and_stays_as_it_was(
    tmp_path: Path, disk: Callable[..., Disk], forked: Command, promise: Promise
) -> None:
    with recorded(tmp_path / "source", 8) as (source, url):
        place = disk()
        run = shutil.copytree(source, place.folder / "run")
        before = tree(run)
        place.protect()
        commands = {
            "go on": args(run, url, 30),
            "again": args(run, url, 8),
            "begin": args(place.folder / "new", url, 8),
            "export": ["export", run],
        }
        for name, line in commands.items():
            code, said = forked(*line)
            assert (code, said.count("\n")) == (1, 1), f"{name}: {said}"
            assert "Read-only file system" in said or "must be writable" in said
    assert tree(run) == before
    promise("storage: read-only directory", f"{len(commands)} commands refused with the reason, no byte changed")


# Damaged


def refused(forked: Command, run: Path, url: str, *says: str) -> int:
    """Every command says so in one line and leaves all as it is.

    Returns:
        How many commands.
    """
    before = tree(run)
    before.pop("run.sqlite-shm", None), before.pop("run.sqlite-wal", None)
    commands = (args(run, url, 8), args(run, url, 30), ["status", run], ["export", run], ["explain", run, "1"])
    for line in commands:
        code, said = forked(*line)
        assert (code, said.count("\n")) == (1, 1), said
        assert str(run / "run.sqlite") in said
        assert any(words in said for words in says), said
        after = tree(run)
        # An unsuccessful reader's, in SQLite's own way; the log is empty.
        assert (after.pop("run.sqlite-shm", b"") and after.pop("run.sqlite-wal")) == b""
        assert after | {"run.lock": b""} == before | {"run.lock": b""}, "nothing is mended, moved or made"
    return len(commands)


def test_a_truncated_ledger_is_refused_and_untouched(tmp_path: Path, forked: Command, promise: Promise) -> None:
    with recorded(tmp_path / "run", 8) as (run, url):
        whole = (run / "run.sqlite").read_bytes()
        lengths = [0, 100, 4096, len(whole) // 2, len(whole) - 1]
        count = 0
        for length in lengths:
            (run / "run.sqlite").write_bytes(whole[:length])
            count += refused(forked, run, url, "malformed", "not a database", "is empty, but a run was here")
        (run / "run.sqlite").write_bytes(whole)
        assert forked(*args(run, url, 8))[0] == 0
    promise("storage: truncated ledger", f"{count} commands on {len(lengths)} lengths refused, no byte changed")


def test_a_newer_schema_is_refused_and_untouched(tmp_path: Path, forked: Command, promise: Promise) -> None:
    with recorded(tmp_path / "run", 8) as (run, url):
        with sqlite3.connect(run / "run.sqlite") as ledger:
            ledger.execute("PRAGMA user_version = 99")
        ledger.close()
        count = refused(forked, run, url, "has ledger schema 99")
    promise("storage: newer schema", f"{count} commands refused, no byte changed")


# Killed


def test_a_lock_left_by_a_kill_blocks_nobody(tmp_path: Path, forked: Command, promise: Promise) -> None:
    """The holder is killed at work; another's lock is respected until then."""
    with Loopback(reply, delay=60) as server:
        process = subprocess.Popen([sys.executable, "-m", "selfinstruct", *map(str, args(tmp_path, server.url, 8))],
                                   env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        while not server.arrived:
            assert process.poll() is None, process.communicate()
        code, said = forked(*args(tmp_path, server.url, 8))
        assert (code, f"in use by process {process.pid}; " in said) == (1, True), said
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert (tmp_path / "run.lock").read_text() == f"{process.pid}\n", "the file is stale, and still there"
        RunLock(tmp_path).release()
    with Loopback(reply) as server:
        assert forked(*args(tmp_path, server.url, 8))[0] == 0
    promise("storage: lock after SIGKILL", "taken at once")


def kill_exports(tmp_path: Path, forked: Command, most: int) -> tuple[int, int, int, int]:
    """Replace a dataset of 20 rows by that of 50 with an export that is killed, then by one that is not.

    Returns:
        Kills; how many left the old file, the new file, and a temporary one that the next export removed.
    """
    run = tmp_path / "run"
    with Loopback(reply) as server:
        run_cli(*args(run, server.url, 20))
        old = tree(run / "dataset")
        run_cli(*args(run, server.url, 50))
        new = tree(run / "dataset")
    assert len(new["alpaca.jsonl"]) > 8192, "more than one buffer, so that parts of it lie on disk"
    code, said = forked("export", run, kill_at=0)
    assert code == 0
    lines = int(said.rsplit("LINES", 1)[1])
    points = sorted(random.Random(5).sample(range(1, lines + 1), min(most, lines)))
    found, swept = {"old": 0, "new": 0}, 0
    for point in points:
        for name, body in old.items():
            (run / "dataset" / name).write_bytes(body)
        assert forked("export", run, kill_at=point)[0] == -signal.SIGKILL
        left = tree(run / "dataset")
        for name in old:
            assert left.pop(name) in (old[name], new[name]), f"{name} is a part after a kill at line {point}"
        assert all(re.fullmatch(r"\.(alpaca\.jsonl|manifest\.json)\.\w{8}\.part", name) for name in left)
        found["new" if dataset(run) == new["alpaca.jsonl"] else "old"] += 1
        assert forked("export", run)[0] == 0
        assert tree(run / "dataset") == new, "and what was left behind is gone"
        swept += len(left)
    return len(points), found["old"], found["new"], swept


def test_an_export_that_is_killed_leaves_the_old_dataset_or_the_new_one(
    tmp_path: Path, forked: Command, promise: Promise
) -> None:
    kills, old, new, swept = kill_exports(tmp_path, forked, 8)
    assert (old > 0, new > 0, swept > 0) == (True, True, True)
    promise("storage: killed export", f"{kills} kills: {old} old, {new} new, 0 parts; {swept} leftovers swept")


@pytest.mark.prove
def test_an_export_that_is_killed_at_any_line_leaves_the_old_dataset_or_the_new_one(
    tmp_path: Path, forked: Command, promise: Promise
) -> None:
    kills, old, new, swept = kill_exports(tmp_path, forked, 10**6)
    assert kills > 200
    promise("storage: killed export", f"{kills} kills: {old} old, {new} new, 0 parts; {swept} leftovers swept")

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
from typing import Any

import pytest

from selfinstruct.common.lock import RunLock
from selfinstruct.ledger.schema import SEALED, seal
from tests.cli import dataset, environment, run_cli
from tests.conftest import Promise
from tests.golden.make import GOLDEN
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


# A flipped bit


def answers(forked: Command, run: Path, out: Path) -> dict[str, str | bytes]:
    """What the commands make of a run; of a refusal, that it is one: a single line that names the run."""
    found: dict[str, str | bytes] = {}
    for name, line in {
        "status": ["status", run, "--json", "--verify"],
        "export": ["export", run, "--format", "candidates", "-o", out],
        "explain": ["explain", run, "1", "--json"],
    }.items():
        code, said = forked(*line)
        if code == 0:
            found[name] = out.read_bytes() if name == "export" else said
        else:
            assert (code, said.count("\n")) == (1, 1), said
            assert str(run) in said
            found[name] = "refused"
    return found


def flip(tmp_path: Path, forked: Command, bits: Callable[[bytes], list[int]]) -> tuple[int, int]:
    """Flip one bit at a time of a run's ledger, with and without the verdicts beside it.

    Returns:
        How many flips were refused, and how many changed nothing that anybody asks for.
    """
    refusals = harmless = 0
    out = tmp_path / "out.jsonl"
    with recorded(tmp_path / "run", 8) as (run, url):
        whole = (run / "run.sqlite").read_bytes()
        right = answers(forked, run, out)
        assert "refused" not in right.values()
        rows = dataset(run)
        for bit in bits(whole):
            body = bytearray(whole)
            body[bit // 8] ^= 1 << bit % 8
            (run / "run.sqlite").write_bytes(body)
            found = answers(forked, run, out)
            wrong = [name for name, said in found.items() if said not in ("refused", right[name])]
            assert not wrong, f"bit {bit}: {wrong} tell something else, and nobody noticed"
            assert (run / "run.sqlite").read_bytes() == body
            if "refused" in found.values():
                refusals += 1
                code, said = forked(*args(run, url, 8))
                if code:
                    assert (code, said.count("\n")) == (1, 1), said
                    assert (run / "run.sqlite").read_bytes() == body, "nothing is mended"
                assert dataset(run) == rows
            else:
                harmless += 1
            for name in ("run.sqlite-wal", "run.sqlite-shm"):
                (run / name).unlink(missing_ok=True)
    return refusals, harmless


def in_stored_answers(whole: bytes) -> list[int]:
    """A bit of each of some stored answers."""
    starts = [found.start() for found in re.finditer(rb'\{"choices":', whole)]
    return [8 * (start + 20) + place % 7 for place, start in enumerate(starts[:6])]


def in_counts_of_rows(whole: bytes) -> list[int]:
    """The lowest bit of what each page with rows says of their number (https://www.sqlite.org/fileformat.html, 1.6)."""
    starts = [100, *range(4096, len(whole), 4096)]
    return [8 * (start + 4) for start in starts if whole[start] in (10, 13)]


def anywhere(count: int) -> Callable[[bytes], list[int]]:
    return lambda whole: sorted(random.Random(11).sample(range(8 * len(whole)), count))


def test_a_flipped_bit_in_a_stored_answer_is_noticed(tmp_path: Path, forked: Command, promise: Promise) -> None:
    refusals, harmless = flip(tmp_path, forked, in_stored_answers)
    assert refusals >= 3
    assert harmless == 0
    promise("storage: flipped bit in an answer", f"{refusals} of {refusals} noticed, no byte changed")


def test_a_page_that_says_of_too_few_rows_is_noticed(tmp_path: Path, forked: Command, promise: Promise) -> None:
    refusals, harmless = flip(tmp_path, forked, lambda whole: in_counts_of_rows(whole)[::2])
    assert refusals >= 3
    assert harmless == 0
    promise("storage: flipped count of a page's rows", f"{refusals} of {refusals} noticed, no byte changed")


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(tmp_path: Path, forked: Command, promise: Promise) -> None:
    refusals, harmless = flip(tmp_path, forked, anywhere(16))
    assert refusals > 0
    promise("storage: flipped bit anywhere", f"{refusals} refused, {harmless} harmless, 0 wrong answers")


@pytest.mark.prove
def test_many_flipped_bits_anywhere_are_noticed_or_harmless(tmp_path: Path, forked: Command, promise: Promise) -> None:
    refusals, harmless = flip(tmp_path, forked, anywhere(600))
    promise("storage: flipped bit anywhere", f"{refusals} refused, {harmless} harmless, 0 wrong answers")


# An older schema

NOWHERE = ("--base-url", "http://127.0.0.1:9/v1", "-q")  # for a run that has all its rows: nothing is sent


def rows_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row without its seal, which must be right where there is one."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as ledger:
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (version,) = ledger.execute("PRAGMA user_version").fetchone()
        found = {name: ledger.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in (*SEALED, "texts")}
    ledger.close()
    for name, columns in SEALED.items():
        assert version == 1 or all(row[-1] == seal(*row[:-1]) for row in found[name]), name
        found[name] = [row[: len(columns)] for row in found[name]]
    return found


def old_run(folder: Path) -> Path:
    """A run of schema 1: the golden one."""
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "schema-1" / "run.sqlite", folder)
    return folder


def test_an_older_schema_is_read_as_it_is_and_brought_up_to_date_by_going_on(
    tmp_path: Path, forked: Command, promise: Promise
) -> None:
    run, golden = old_run(tmp_path / "run"), GOLDEN / "schema-1"
    before = rows_of(golden / "run.sqlite")
    for line in (["status", run], ["explain", run, "1"], ["export", run]):
        assert forked(*line)[0] == 0
    assert (run / "run.sqlite").read_bytes() == (golden / "run.sqlite").read_bytes(), "looking changes nothing"
    assert dataset(run) == (golden / "alpaca.jsonl").read_bytes()
    with Loopback(reply) as server:
        assert forked("generate", run, "--base-url", server.url, "-n", 20, "-q")[0] == 0
    after, kept = rows_of(run / "run.sqlite"), rows_of(run / "run.sqlite.schema-1")
    assert kept == before
    for name in ("texts", "requests", "sends", "outcomes"):
        assert set(before[name]) <= set(after[name]), name
    assert dataset(run).startswith((golden / "alpaca.jsonl").read_bytes())
    count = sum(map(len, before.values()))
    promise("storage: older schema", f"{count} rows of schema 1 kept, sealed and backed up")


def test_a_kill_at_any_line_of_the_change_of_schema_leaves_the_old_ledger_or_the_new_one(
    tmp_path: Path, forked: Command, promise: Promise
) -> None:
    before, versions = rows_of(GOLDEN / "schema-1" / "run.sqlite"), {1: 0, 3: 0}
    _, said = forked("generate", old_run(tmp_path / "0"), *NOWHERE, kill_at=0, module="ledger/migrate.py")
    for point in range(1, int(said.split()[-1]) + 1, 3):
        run = old_run(tmp_path / str(point))
        assert forked("generate", run, *NOWHERE, kill_at=point, module="ledger/migrate.py")[0] == -signal.SIGKILL
        with sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True) as ledger:
            versions[ledger.execute("PRAGMA user_version").fetchone()[0]] += 1
        ledger.close()
        assert rows_of(run / "run.sqlite") == before
        assert forked("generate", run, *NOWHERE)[0] == 0
        after = rows_of(run / "run.sqlite")
        assert after | {"meta": []} == before | {"meta": []}, "of the metadata, the settings follow this version's"
        assert rows_of(run / "run.sqlite.schema-1") == before
        assert not list(run.glob(".*.part"))
    assert versions[1] > 5
    assert versions[3] > 0
    count = sum(versions.values())
    promise("storage: killed change of schema", f"{count} kills: {versions[1]} old, {versions[3]} new, 0 between")


def test_a_full_disk_leaves_the_older_schema_as_it_was(
    tmp_path: Path, disk: Callable[..., Disk], forked: Command
) -> None:
    golden = GOLDEN / "schema-1"
    size = (golden / "run.sqlite").stat().st_size // 4096
    said, code = [], 1
    for pages in range(size + 1, 4 * size, 4):
        place = disk(pages=pages)
        run = old_run(place.folder / "run")
        code, words = forked("generate", run, *NOWHERE)
        if code == 0:
            break
        assert (code, words.count("\n")) == (1, 1), words
        assert "full" in words or "No space" in words
        said.append("can't copy the ledger" in words)
        place.grow()
        assert rows_of(run / "run.sqlite") | {"meta": []} == rows_of(golden / "run.sqlite") | {"meta": []}
        assert forked("generate", run, *NOWHERE)[0] == 0
        assert dataset(run) == (golden / "alpaca.jsonl").read_bytes()
    assert (code, set(said)) == (0, {True, False}), "the copy and what comes after it met the end of the disk"


def test_a_read_only_run_can_be_looked_at(tmp_path: Path, disk: Callable[..., Disk], forked: Command) -> None:
    with recorded(tmp_path / "source", 8) as (source, _):
        place = disk()
        run = shutil.copytree(source, place.folder / "run")
        place.protect()
        assert forked("status", run)[0] == forked("explain", run, "1")[0] == 0
        assert forked("export", run, "-o", tmp_path / "out.jsonl")[0] == 0
        assert (tmp_path / "out.jsonl").read_bytes() == dataset(source)


def test_an_error_amid_a_ledger_is_one_line(tmp_path: Path, forked: Command) -> None:
    """Nothing that is half read complains on its own when the ledger is closed."""
    with recorded(tmp_path / "run", 8) as (run, _):
        with sqlite3.connect(run / "run.sqlite") as ledger:
            ledger.execute("UPDATE requests SET digest = 'x' || digest WHERE k = 1")
        ledger.close()
        code, said = forked("status", run, "--verify")
    assert (code, said.count("\n")) == (1, 1), said

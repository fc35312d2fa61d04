"""Full and read-only disks, damaged files, kills during writes: nothing is lost or torn, and messages are clear.

The disks are small tmpfs mounts, which need root.
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

# A process for each command, as in a shell, forked from one that has imported everything, since imports are slow.
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
            os._exit(ended.code or 0)  # skips a slow shutdown
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Run ``selfinstruct ARGS`` and return the exit code and the output, which must hold no traceback.

    ``kill_at`` sends SIGKILL before the n-th executed line of ``module``; 0 only counts the lines and prints the count.
    """
    log = tmp_path_factory.mktemp("forked") / "output"
    process = subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env=environment())  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def run(*args: object, kill_at: int | None = None, module: str = "common/files.py") -> tuple[int, str]:
        job = {"args": [*map(str, args)], "output": str(log), "kill_at": kill_at, "module": module}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        code, output = int(process.stdout.readline()), log.read_text()
        assert "Traceback" not in output, output
        assert "should not happen" not in output, output
        return code, output

    yield run
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()


class Disk:
    """A tmpfs with a limited number of pages of 4 KiB and of inodes, one of which is its root."""

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
    """Mount one disk at a time; the last one is unmounted after the test."""
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
    """Return every outcome on disk, by number; the file must be intact."""
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
    """Make a run over HTTP; yield its directory and the address of the server, which is still up."""
    with Loopback(reply) as server:
        run_cli(*args(folder, server.url, rows))
        yield folder, server.url


# Full


def failed_write(output: str) -> str:
    """Return which write failed because the disk was full."""
    results = re.search(r"run directory|run\.lock|run\.sqlite|config\.yaml|alpaca\.jsonl|manifest\.json", output)
    assert results is not None, output
    return results.group()


def fill(
    tmp_path: Path, disk: Callable[..., Disk], forked: Command, rows: int, limits: list[dict[str, int]]
) -> tuple[list[str], int]:
    """Hit each limit, make room, and run the same command again.

    Returns:
        The write that failed in each failing run, and the number of outcomes that these runs had stored.
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
            code, output = forked(*line)
            asked, begun = len(server.arrived) - asked, len(server.arrived)
            partly = (run / "dataset" / "alpaca.jsonl").exists() and dataset(run)
            place.grow()
            before = stored(run)
            if code:
                assert (code, output.count("\n")) == (1, 1), output
                assert "No space left on device (free some space" in output or KEPT in output
                places.append(failed_write(output))
            # Every completion is on disk, except those in flight when the disk was full.
            assert 0 <= asked - len(before) <= (WIDTH if code else 0), f"{limit}: {asked} asked, {len(before)} stored"
            assert right["alpaca.jsonl"].startswith(partly or b"")
            assert forked(*line)[0] == 0
            after = stored(run)
            assert before.items() <= after.items(), f"{limit}: a stored outcome is lost"
            assert len(server.arrived) - begun == len(after) - len(before), f"{limit}: a request was sent twice"
            assert tree(run / "dataset") == right, limit
            assert not list(run.rglob("*.part")), limit
            kept += len(before) if code else 0
    return places, kept


ALL = {"run directory", "run.lock", "run.sqlite", "config.yaml", "alpaca.jsonl", "manifest.json"}


def test_a_full_disk_at_each_write_costs_nothing(
    tmp_path: Path, disk: Callable[..., Disk], forked: Command, promise: Promise
) -> None:
    """Too few inodes fail the creation of each file in turn; too few pages fail the writes."""
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
    # Long enough for a checkpoint of the log during the run.
    long, more = fill(tmp_path / "long", disk, forked, 400, [{"pages": pages} for pages in range(600, 1500, 60)])
    assert set(long) <= ALL
    count = len(places) + len(long)
    promise("storage: full disk", f"{count} places, 0 of {kept + more} outcomes lost or bought twice, bytes equal")


# Read-only


def test_a_read_only_directory_is_reported_and_unchanged(
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
            code, output = forked(*line)
            assert (code, output.count("\n")) == (1, 1), f"{name}: {output}"
            assert "Read-only file system" in output or "must be writable" in output
    assert tree(run) == before
    promise("storage: read-only directory", f"{len(commands)} commands refused with the reason, no byte changed")


# Damaged


def refused(forked: Command, run: Path, url: str, *says: str) -> int:
    """Check that every command fails with one line and changes nothing.

    Returns:
        The number of commands.
    """
    before = tree(run)
    before.pop("run.sqlite-shm", None), before.pop("run.sqlite-wal", None)
    commands = (args(run, url, 8), args(run, url, 30), ["status", run], ["export", run], ["explain", run, "1"])
    for line in commands:
        code, output = forked(*line)
        assert (code, output.count("\n")) == (1, 1), output
        assert str(run / "run.sqlite") in output
        assert any(words in output for words in says), output
        after = tree(run)
        # SQLite leaves these behind after a failed read; the log is empty.
        assert (after.pop("run.sqlite-shm", b"") and after.pop("run.sqlite-wal")) == b""
        assert after | {"run.lock": b""} == before | {"run.lock": b""}, "nothing is repaired, moved or created"
    return len(commands)


def test_a_truncated_ledger_is_refused_and_untouched(tmp_path: Path, forked: Command, promise: Promise) -> None:
    with recorded(tmp_path / "run", 8) as (run, url):
        intact = (run / "run.sqlite").read_bytes()
        lengths = [0, 100, 4096, len(intact) // 2, len(intact) - 1]
        count = 0
        for length in lengths:
            (run / "run.sqlite").write_bytes(intact[:length])
            count += refused(forked, run, url, "malformed", "not a database", "is empty, but a run was here")
        (run / "run.sqlite").write_bytes(intact)
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


def test_a_lock_left_by_a_kill_does_not_block(tmp_path: Path, forked: Command, promise: Promise) -> None:
    """The lock is respected until its holder is killed."""
    with Loopback(reply, delay=60) as server:
        process = subprocess.Popen([sys.executable, "-m", "selfinstruct", *map(str, args(tmp_path, server.url, 8))],
                                   env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        while not server.arrived:
            assert process.poll() is None, process.communicate()
        code, output = forked(*args(tmp_path, server.url, 8))
        assert (code, f"in use by process {process.pid}; " in output) == (1, True), output
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert (tmp_path / "run.lock").read_text() == f"{process.pid}\n", "the stale file is still there"
        RunLock(tmp_path).release()
    with Loopback(reply) as server:
        assert forked(*args(tmp_path, server.url, 8))[0] == 0
    promise("storage: lock after SIGKILL", "taken at once")


def kill_exports(tmp_path: Path, forked: Command, most: int) -> tuple[int, int, int, int]:
    """Replace a dataset of 20 rows by one of 50 with an export that is killed, then with one that is not.

    Returns:
        The numbers of kills, of old and of new files afterwards, and of temporary files that the next export removed.
    """
    run = tmp_path / "run"
    with Loopback(reply) as server:
        run_cli(*args(run, server.url, 20))
        old = tree(run / "dataset")
        run_cli(*args(run, server.url, 50))
        new = tree(run / "dataset")
    assert len(new["alpaca.jsonl"]) > 8192, "more than one buffer, so that parts of it reach the disk"
    code, output = forked("export", run, kill_at=0)
    assert code == 0
    lines = int(output.rsplit("LINES", 1)[1])
    points = sorted(random.Random(5).sample(range(1, lines + 1), min(most, lines)))
    results, swept = {"old": 0, "new": 0}, 0
    for point in points:
        for name, body in old.items():
            (run / "dataset" / name).write_bytes(body)
        assert forked("export", run, kill_at=point)[0] == -signal.SIGKILL
        left = tree(run / "dataset")
        for name in old:
            assert left.pop(name) in (old[name], new[name]), f"{name} is incomplete after a kill at line {point}"
        assert all(re.fullmatch(r"\.(alpaca\.jsonl|manifest\.json)\.\w{8}\.part", name) for name in left)
        results["new" if dataset(run) == new["alpaca.jsonl"] else "old"] += 1
        assert forked("export", run)[0] == 0
        assert tree(run / "dataset") == new, "and leftovers are removed"
        swept += len(left)
    return len(points), results["old"], results["new"], swept


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
    """Return the output of each command, or "refused", which must be a single line that names the run."""
    results: dict[str, str | bytes] = {}
    for name, line in {
        "status": ["status", run, "--json", "--verify"],
        "export": ["export", run, "--format", "candidates", "-o", out],
        "explain": ["explain", run, "1", "--json"],
    }.items():
        code, output = forked(*line)
        if code == 0:
            results[name] = out.read_bytes() if name == "export" else output
        else:
            assert (code, output.count("\n")) == (1, 1), output
            assert str(run) in output
            results[name] = "refused"
    return results


def flip(tmp_path: Path, forked: Command, bits: Callable[[bytes], list[int]]) -> tuple[int, int]:
    """Flip one bit at a time of a run's ledger.

    Returns:
        The number of flips that were refused, and of flips that changed no output.
    """
    refusals = harmless = 0
    out = tmp_path / "out.jsonl"
    with recorded(tmp_path / "run", 8) as (run, url):
        intact = (run / "run.sqlite").read_bytes()
        right = answers(forked, run, out)
        assert "refused" not in right.values()
        rows = dataset(run)
        for bit in bits(intact):
            body = bytearray(intact)
            body[bit // 8] ^= 1 << bit % 8
            (run / "run.sqlite").write_bytes(body)
            results = answers(forked, run, out)
            wrong = [name for name, output in results.items() if output not in ("refused", right[name])]
            assert not wrong, f"bit {bit}: {wrong} have another output, undetected"
            assert (run / "run.sqlite").read_bytes() == body
            if "refused" in results.values():
                refusals += 1
                code, output = forked(*args(run, url, 8))
                if code:
                    assert (code, output.count("\n")) == (1, 1), output
                    assert (run / "run.sqlite").read_bytes() == body, "nothing is repaired"
                assert dataset(run) == rows
            else:
                harmless += 1
            for name in ("run.sqlite-wal", "run.sqlite-shm"):
                (run / name).unlink(missing_ok=True)
    return refusals, harmless


def in_stored_answers(intact: bytes) -> list[int]:
    """Return the position of one bit in each of six stored completions."""
    starts = [results.start() for results in re.finditer(rb'\{"choices":', intact)]
    return [8 * (start + 20) + place % 7 for place, start in enumerate(starts[:6])]


def in_counts_of_rows(intact: bytes) -> list[int]:
    """Return the position of the lowest bit of each page's row count (https://www.sqlite.org/fileformat.html, 1.6)."""
    starts = [100, *range(4096, len(intact), 4096)]
    return [8 * (start + 4) for start in starts if intact[start] in (10, 13)]


def anywhere(count: int) -> Callable[[bytes], list[int]]:
    return lambda intact: sorted(random.Random(11).sample(range(8 * len(intact)), count))


def test_a_flipped_bit_in_a_stored_completion_is_detected(tmp_path: Path, forked: Command, promise: Promise) -> None:
    refusals, harmless = flip(tmp_path, forked, in_stored_answers)
    assert refusals >= 3
    assert harmless == 0
    promise("storage: flipped bit in an answer", f"{refusals} of {refusals} noticed, no byte changed")


def test_a_wrong_row_count_of_a_page_is_detected(tmp_path: Path, forked: Command, promise: Promise) -> None:
    refusals, harmless = flip(tmp_path, forked, lambda intact: in_counts_of_rows(intact)[::2])
    assert refusals >= 3
    assert harmless == 0
    promise("storage: flipped count of a page's rows", f"{refusals} of {refusals} noticed, no byte changed")


def test_a_flipped_bit_anywhere_is_detected_or_harmless(tmp_path: Path, forked: Command, promise: Promise) -> None:
    refusals, harmless = flip(tmp_path, forked, anywhere(16))
    assert refusals > 0
    promise("storage: flipped bit anywhere", f"{refusals} refused, {harmless} harmless, 0 wrong answers")


@pytest.mark.prove
def test_many_flipped_bits_anywhere_are_detected_or_harmless(tmp_path: Path, forked: Command, promise: Promise) -> None:
    refusals, harmless = flip(tmp_path, forked, anywhere(600))
    promise("storage: flipped bit anywhere", f"{refusals} refused, {harmless} harmless, 0 wrong answers")


# An older schema

NOWHERE = ("--base-url", "http://127.0.0.1:9/v1", "-q")  # for a complete run: nothing is sent


def rows_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row without its seal, which must be correct if the schema has seals."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as ledger:
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (version,) = ledger.execute("PRAGMA user_version").fetchone()
        results = {name: ledger.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in (*SEALED, "texts")}
    ledger.close()
    for name, columns in SEALED.items():
        assert version == 1 or all(row[-1] == seal(*row[:-1]) for row in results[name]), name
        results[name] = [row[: len(columns)] for row in results[name]]
    return results


def old_run(folder: Path) -> Path:
    """Make a copy of the golden run of schema 1."""
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "schema-1" / "run.sqlite", folder)
    return folder


def test_an_older_schema_is_read_unchanged_and_migrated_when_the_run_continues(
    tmp_path: Path, forked: Command, promise: Promise
) -> None:
    run, golden = old_run(tmp_path / "run"), GOLDEN / "schema-1"
    before = rows_of(golden / "run.sqlite")
    for line in (["status", run], ["explain", run, "1"], ["export", run]):
        assert forked(*line)[0] == 0
    assert (run / "run.sqlite").read_bytes() == (golden / "run.sqlite").read_bytes(), "reading changes nothing"
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


def test_a_kill_at_any_line_of_the_migration_leaves_the_old_ledger_or_the_new_one(
    tmp_path: Path, forked: Command, promise: Promise
) -> None:
    before, versions = rows_of(GOLDEN / "schema-1" / "run.sqlite"), {1: 0, 3: 0}
    _, output = forked("generate", old_run(tmp_path / "0"), *NOWHERE, kill_at=0, module="ledger/migrate.py")
    last = int(output.split()[-1])  # runs after the commit
    for point in [*range(1, last, 3), last]:
        run = old_run(tmp_path / str(point))
        assert forked("generate", run, *NOWHERE, kill_at=point, module="ledger/migrate.py")[0] == -signal.SIGKILL
        with sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True) as ledger:
            versions[ledger.execute("PRAGMA user_version").fetchone()[0]] += 1
        ledger.close()
        assert rows_of(run / "run.sqlite") == before
        assert forked("generate", run, *NOWHERE)[0] == 0
        after = rows_of(run / "run.sqlite")
        assert after | {"meta": []} == before | {"meta": []}, "only the settings in the metadata may change"
        assert rows_of(run / "run.sqlite.schema-1") == before
        assert not list(run.glob(".*.part"))
    assert versions[1] > 5
    assert versions[3] > 0
    count = sum(versions.values())
    promise("storage: killed change of schema", f"{count} kills: {versions[1]} old, {versions[3]} new, 0 between")


def test_a_full_disk_leaves_the_older_schema_unchanged(
    tmp_path: Path, disk: Callable[..., Disk], forked: Command
) -> None:
    golden = GOLDEN / "schema-1"
    size = (golden / "run.sqlite").stat().st_size // 4096
    output, code = [], 1
    for pages in range(size + 1, 4 * size, 4):
        place = disk(pages=pages)
        run = old_run(place.folder / "run")
        code, words = forked("generate", run, *NOWHERE)
        if code == 0:
            break
        assert (code, words.count("\n")) == (1, 1), words
        assert "full" in words or "No space" in words
        output.append("can't copy the ledger" in words)
        place.grow()
        assert rows_of(run / "run.sqlite") | {"meta": []} == rows_of(golden / "run.sqlite") | {"meta": []}
        assert forked("generate", run, *NOWHERE)[0] == 0
        assert dataset(run) == (golden / "alpaca.jsonl").read_bytes()
    assert (code, set(output)) == (0, {True, False}), "both the copy and the migration hit the limit"


def test_a_read_only_run_can_be_read(tmp_path: Path, disk: Callable[..., Disk], forked: Command) -> None:
    with recorded(tmp_path / "source", 8) as (source, _):
        place = disk()
        run = shutil.copytree(source, place.folder / "run")
        place.protect()
        assert forked("status", run)[0] == forked("explain", run, "1")[0] == 0
        assert forked("export", run, "-o", tmp_path / "out.jsonl")[0] == 0
        assert (tmp_path / "out.jsonl").read_bytes() == dataset(source)


def test_an_error_in_the_middle_of_a_ledger_is_one_line(tmp_path: Path, forked: Command) -> None:
    """An interrupted iteration raises no further error when the ledger is closed."""
    with recorded(tmp_path / "run", 8) as (run, _):
        with sqlite3.connect(run / "run.sqlite") as ledger:
            ledger.execute("UPDATE requests SET digest = 'x' || digest WHERE k = 1")
        ledger.close()
        code, output = forked("status", run, "--verify")
    assert (code, output.count("\n")) == (1, 1), output

"""SIGKILL at random moments: nothing acknowledged is lost, and the final bytes are those of a run never stopped."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli import command, dataset, environment, run_cli
from tests.loopback import Loopback
from tests.scripted import reply


def make_source(path: Path, rows: int) -> Path:
    """A recorded run of ``rows`` rows, lag 256, over HTTP."""
    with Loopback(reply) as server:
        run_cli("generate", path, "--backend", "openai", "--model", "scripted", "--base-url", server.url,
                "--api", "completion", "--strategy", "self-instruct", "-n", rows, "--concurrency", 64)  # fmt: skip
    return path


def commits(run: Path) -> dict[int, bytes]:
    """Every outcome that is on disk, by number; the file must be whole."""
    if not (run / "run.sqlite").exists():
        return {}
    ledger = sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True)
    try:
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not ledger.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            return {}
        return dict(ledger.execute("SELECT k, body FROM outcomes"))
    finally:
        ledger.close()


def ended(process: subprocess.Popen[bytes], *, within: float) -> bool:
    try:
        process.wait(timeout=within)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_and_resume(run: Path, args: list[object], *, kills: int, longest_s: float, seed: str) -> int:
    """Kill the command ``kills`` times, each after a random while, then let it finish.

    Returns:
        How many kills hit the loop at work: after commits of that life, before its end.
    """
    dice = random.Random(int(seed) + 1)
    environ, inside, known = environment(PYTHONHASHSEED=seed), 0, {}
    for number in range(1, kills + 1):
        process = subprocess.Popen(command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
        # Each fifth kill may hit the start; for the others the clock begins at this life's first commit.
        while number % 5 and len(commits(run)) <= len(known) and not ended(process, within=0.02):
            pass
        if not ended(process, within=dice.uniform(0.0, longest_s)):
            process.send_signal(signal.SIGKILL)
        process.communicate()
        found = commits(run)
        assert known.items() <= found.items(), "an acknowledged completion was lost or altered"
        at_work = process.returncode == -signal.SIGKILL and len(found) > len(known)
        inside += at_work
        print(
            f"  PYTHONHASHSEED={seed} kill {number:2}: {len(found):4} commits{'' if at_work else ' (outside the loop)'}"
        )
        known = found
    run_cli(*args, env={"PYTHONHASHSEED": seed})
    assert known.items() <= commits(run).items()
    return inside


def check(tmp_path: Path, *, rows: int, kills: int, pace: float, width: int, longest_s: float, hit: int) -> None:
    source = make_source(tmp_path / "source", rows)
    options = ["--from", source, "-n", rows, "--concurrency", width, "--set", f"replay.pace={pace}"]
    started = time.monotonic()
    run_cli("generate", tmp_path / "whole", *options)
    print(
        f"  never stopped: {rows} rows, {len(commits(tmp_path / 'whole'))} commits, {time.monotonic() - started:.1f} s"
    )
    assert dataset(tmp_path / "whole") == dataset(source)
    for seed in ("0", "4242"):
        run = tmp_path / f"killed-{seed}"
        inside = kill_and_resume(run, ["generate", run, *options], kills=kills, longest_s=longest_s, seed=seed)
        print(f"  PYTHONHASHSEED={seed}: {inside} of {kills} kills inside the loop")
        assert inside >= hit
        assert dataset(run) == dataset(source)
        assert (run / "dataset/manifest.json").read_bytes() == (source / "dataset/manifest.json").read_bytes()


def test_a_few_kills_change_no_byte(tmp_path: Path) -> None:
    check(tmp_path, rows=60, kills=4, pace=0.1, width=8, longest_s=0.4, hit=2)


@pytest.mark.prove
def test_twenty_kills_change_no_byte(tmp_path: Path) -> None:
    check(tmp_path, rows=300, kills=20, pace=0.3, width=16, longest_s=0.6, hit=15)


@pytest.mark.parametrize("strategy", ["alpaca", "self-instruct"])
def test_a_kill_between_completion_and_verdict_asks_nothing_again(tmp_path: Path, strategy: str) -> None:
    """All outcomes are in the ledger, none is judged: the next start judges them and sends nothing for them."""
    with Loopback(reply) as server:
        args = ("generate", tmp_path / "a", "--backend", "openai", "--model", "scripted", "--base-url", server.url,
                "--api", "completion", "--strategy", strategy)  # fmt: skip
        run_cli(*args, "-n", 20)
        before = dataset(tmp_path / "a")
        for file in (tmp_path / "a" / "dataset").iterdir():
            file.unlink()
        sent = len(server.arrived)
        run_cli(*args, "-n", 20)
        assert len(server.arrived) == sent
        assert dataset(tmp_path / "a") == before


def test_a_kill_before_the_first_commit_leaves_a_directory_that_can_be_used(tmp_path: Path) -> None:
    run = tmp_path / "a"
    run.mkdir()
    (run / "run.sqlite").touch()
    (run / "run.lock").write_text("99999\n")
    assert "holds no run" in run_cli("status", run, code=1)
    with Loopback(reply) as server:
        run_cli("generate", run, "--backend", "openai", "--model", "scripted", "--base-url", server.url,
                "--api", "completion", "-n", 3)  # fmt: skip
    assert len(dataset(run).splitlines()) == 3

"""Commands over several runs: ``runs``, ``diff``, and ``status --watch``."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import ROOT, command, environment, run_cli
from tests.loopback import Loopback
from tests.scripted import reply

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "alpaca", tmp_path / "runs" / "a")
    return tmp_path / "runs" / "a"


def again(run: Path, name: str, *args: object) -> Path:
    """The same answers under other settings, as far as they are asked for."""
    out = run.with_name(name)
    run_cli("generate", out, "--from", run, "-q", *args)
    return out


def test_runs_are_listed_with_what_each_came_to_and_a_damaged_one_with_what_is_wrong(run: Path) -> None:
    other = again(run, "b", "-n", 5)
    (run.parent / "c").mkdir()
    (run.parent / "c" / "run.sqlite").write_bytes(b"no database, and longer than its header would be" * 20)
    lines = run_cli("runs", run.parent).splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["run", "rows"], [str(run), "12/12"], [str(other), "5/5"]]
    assert "can't be read" in lines[3]
    assert str(run.parent / "c") in lines[3]
    assert run_cli("runs", run).splitlines()[1].split()[1] == "12/12"
    (run.parent / "empty").mkdir()
    assert "no run in" in run_cli("runs", run.parent / "empty")
    assert "there is no directory" in run_cli("runs", run.parent / "nothing", code=2)


def test_a_shorter_run_lost_the_rows_beyond_its_end(run: Path) -> None:
    shorter = again(run, "b", "-n", 5)
    said = run_cli("diff", run, shorter)
    assert said.startswith("5 rows in both, 7 in ")
    found = json.loads(run_cli("diff", run, shorter, "--json"))
    assert (found["common"], len(found["lost"]), found["gained"]) == (5, 7, [])
    assert [one["row"] for one in found["lost"]] == [6, 7, 8, 9, 10, 11, 12]
    assert run_cli("diff", run, run).strip() == f"12 rows in both, 0 in {run} alone, 0 in {run} alone"


def test_what_a_stricter_filter_took_is_told_with_its_reason(tmp_path: Path, loopback: Callable[..., Loopback]) -> None:
    server = loopback(reply)
    args = ["--backend", "openai", "--model", "scripted", "--base-url", server.url, "--api", "completion", "--strategy",
            "alpaca", "-n", 12, "-q"]  # fmt: skip
    run_cli("generate", tmp_path / "a", *args)
    run_cli("generate", tmp_path / "b", *args, "--set", "filters.word_count.min_words=9")
    found = json.loads(run_cli("diff", tmp_path / "a", tmp_path / "b", "--json"))
    short = [one for one in found["lost"] if len(one["instruction"].split()) < 9]
    assert short
    assert {one["reason"] for one in short} <= {"too_short", "never offered"}
    assert "too_short" in {one["reason"] for one in short}
    for one in found["lost"]:
        if one["candidate"]:
            told = json.loads(run_cli("explain", tmp_path / "b", one["candidate"], "--json"))
            assert told["instruction"] == one["instruction"]


def test_watching_ends_when_the_run_is_complete(run: Path) -> None:
    assert "12 of 12 rows, complete" in run_cli("status", run, "--watch")
    live = again(run, "live", "-n", 5)
    run_cli("generate", live, "-n", 12, "--max-requests", 1, "-q", code=1)  # the target is 12 now, and not reached
    watching = subprocess.Popen(
        command("status", live, "--watch", "--json"), stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert watching.stdout is not None
    assert not json.loads(watching.stdout.readline())["complete"]
    run_cli("generate", live, "-n", 12, "--max-requests", 10_000, "-q")
    said, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert json.loads(said.splitlines()[-1])["complete"]

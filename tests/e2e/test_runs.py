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


def replay(run: Path, name: str, *args: object) -> Path:
    """Replay the run under other settings."""
    out = run.with_name(name)
    run_cli("generate", out, "--from", run, "-q", *args)
    return out


def test_runs_are_listed_with_their_figures_or_the_reason_why_they_are_unreadable(run: Path) -> None:
    other = replay(run, "b", "-n", 5)
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


def test_a_shorter_run_lacks_the_rows_beyond_its_target(run: Path) -> None:
    shorter = replay(run, "b", "-n", 5)
    output = run_cli("diff", run, shorter)
    assert output.startswith("5 rows in both, 7 in ")
    diff = json.loads(run_cli("diff", run, shorter, "--json"))
    assert (diff["common"], len(diff["lost"]), diff["gained"]) == (5, 7, [])
    assert [row["row"] for row in diff["lost"]] == [6, 7, 8, 9, 10, 11, 12]
    assert run_cli("diff", run, run).strip() == f"12 rows in both, 0 in {run} alone, 0 in {run} alone"


def test_rows_lost_to_a_stricter_filter_are_listed_with_the_reason(
    tmp_path: Path, loopback: Callable[..., Loopback]
) -> None:
    server = loopback(reply)
    args = ["--backend", "openai", "--model", "scripted", "--base-url", server.url, "--api", "completion", "--strategy",
            "alpaca", "-n", 12, "-q"]  # fmt: skip
    run_cli("generate", tmp_path / "a", *args)
    run_cli("generate", tmp_path / "b", *args, "--set", "filters.word_count.min_words=9")
    lost = json.loads(run_cli("diff", tmp_path / "a", tmp_path / "b", "--json"))["lost"]
    short = [row for row in lost if len(row["instruction"].split()) < 9]
    assert short
    assert {row["reason"] for row in short} <= {"too_short", "never offered"}
    assert "too_short" in {row["reason"] for row in short}
    for row in lost:
        if row["candidate"]:
            explanation = json.loads(run_cli("explain", tmp_path / "b", row["candidate"], "--json"))
            assert explanation["instruction"] == row["instruction"]


def test_watch_ends_when_the_run_is_complete(run: Path) -> None:
    assert "12 of 12 rows, complete" in run_cli("status", run, "--watch")
    live = replay(run, "live", "-n", 5)
    run_cli("generate", live, "-n", 12, "--max-requests", 1, "-q", code=1)  # the target is now 12, and not reached
    watching = subprocess.Popen(
        command("status", live, "--watch", "--json"), stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert watching.stdout is not None
    assert not json.loads(watching.stdout.readline())["complete"]
    run_cli("generate", live, "-n", 12, "--max-requests", 10_000, "-q")
    output, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert json.loads(output.splitlines()[-1])["complete"]

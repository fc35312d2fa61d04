"""``fork``, ``refilter`` and ``tune``: other settings for completions that were bought once."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.common.resources import builtin_prompts
from selfinstruct.engine.plan import forked_plan
from selfinstruct.errors import UsageError
from selfinstruct.ledger import InheritedOutcomes, Reader
from selfinstruct.runs.explain import explain
from tests.cli import command, dataset, environment, run_cli
from tests.loopback import Loopback
from tests.scripted import reply

LOOSE, STRICT = "filters.novelty.threshold=0.95", "filters.novelty.threshold=0.45"


def options(server: Loopback, strategy: str) -> list[object]:
    return ["--backend", "openai", "--model", "scripted", "--base-url", server.url, "--api", "completion", "--strategy",
            strategy, "-q"]  # fmt: skip


@pytest.fixture(params=["alpaca", "self-instruct"])
def source(request: pytest.FixtureRequest, tmp_path: Path, loopback: Callable[..., Loopback]) -> tuple[Path, Loopback]:
    """A run with a strict filter and 25 rows, and its server."""
    server = loopback(reply)
    run_cli("generate", tmp_path / "a", *options(server, request.param), "-n", 25, "--set", STRICT)
    return tmp_path / "a", server


def sent(server: Loopback, start: int = 0) -> list[Any]:
    return [request.body for request in server.arrived[start:]]


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dataset(run).splitlines()]


def unreachable_target(run: Path, *args: object) -> int:
    """Return a number of rows above the yield of the run's completions under these settings."""
    probe = run.with_name("probe")
    run_cli("refilter", run, "-o", probe, "-n", 1000, *args)
    count = len(rows(probe)) + 10
    shutil.rmtree(probe)
    return count


def test_the_same_settings_give_the_same_rows_and_send_nothing(source: tuple[Path, Loopback]) -> None:
    run, server = source
    before = len(server.arrived)
    output = run_cli("fork", run, "-o", run.with_name("b"), "-q")
    assert "is complete: 25 rows" in output
    assert len(server.arrived) == before
    assert dataset(run.with_name("b")) == dataset(run)


def test_a_looser_filter_sends_missing_follow_ups_and_nothing_twice(
    source: tuple[Path, Loopback],
) -> None:
    run, server = source
    before = len(server.arrived)
    n = unreachable_target(run, "--set", LOOSE)
    output = run_cli("refilter", run, "-o", run.with_name("b"), "--set", LOOSE, "-n", n)
    assert len(server.arrived) == before
    assert "nothing was sent" in output
    run_cli("generate", run.with_name("b"), "-q")
    more = sent(server, before)
    assert more
    assert not [body for body in more if body in sent(server)[:before]]
    assert len(rows(run.with_name("b"))) == n
    # With one command or two, the dataset is the same.
    run_cli("fork", run, "-o", run.with_name("c"), "--set", LOOSE, "-n", n, "-q")
    assert dataset(run.with_name("c")) == dataset(run.with_name("b"))


def test_a_stricter_filter_skips_the_follow_ups_of_rejected_tasks(
    tmp_path: Path, loopback: Callable[..., Loopback]
) -> None:
    server = loopback(reply)
    run = tmp_path / "a"
    run_cli("generate", run, *options(server, "self-instruct"), "-n", 30, "--set", LOOSE)
    run_cli("refilter", run, "-o", tmp_path / "b", "--set", STRICT, "-n", 1000)
    run_cli("refilter", run, "-o", tmp_path / "c", "-n", 1000)
    strict, all_completions = (json.loads(run_cli("status", tmp_path / name, "--json")) for name in "bc")
    assert strict["stages"]["instances"] < all_completions["stages"]["instances"]
    assert strict["open"] == 0
    lost = json.loads(run_cli("diff", run, tmp_path / "b", "--json"))["lost"]
    assert lost
    # Every lost row belongs to a task that was rejected as similar.
    candidates = tmp_path / "candidates.jsonl"
    run_cli("export", tmp_path / "b", "--format", "candidates", "-o", candidates)
    exported = map(json.loads, candidates.read_text().splitlines())
    reasons = {candidate["instruction"]: candidate["reason"] for candidate in exported}
    assert {reasons[row["instruction"]] for row in lost} == {"similar"}


def test_a_skipped_request_is_explained(tmp_path: Path, loopback: Callable[..., Loopback]) -> None:
    run_cli("generate", tmp_path / "a", *options(loopback(reply), "self-instruct"), "-n", 15, "--set", LOOSE)
    run_cli("refilter", tmp_path / "a", "-o", tmp_path / "b", "--set", STRICT, "-n", 1000)
    messages = []
    for number in range(60):
        try:
            explain(tmp_path / "b", f"{number}.0")
        except UsageError as error:
            messages.append(str(error))
    skipped = "skipped: the candidate that it follows is not kept under this run's settings"
    assert any(skipped in message for message in messages), messages


def test_a_fork_continues_with_another_model_and_explains_rows_of_both(source: tuple[Path, Loopback]) -> None:
    run, server = source
    fork = run.with_name("b")
    n = unreachable_target(run)
    run_cli("fork", run, "-o", fork, "--model", "another", "-n", n, "-q")
    assert {body["model"] for body in sent(server)} == {"scripted", "another"}
    assert dataset(fork).startswith(dataset(run))
    first, last = (json.loads(run_cli("explain", fork, position, "--json")) for position in (1, n))
    assert first["row"] == 1
    assert last["row"] == n
    assert set(json.loads((fork / "dataset/manifest.json").read_text())["models"]) == {"scripted", "another"}
    # A fork of the fork has three generations of requests.
    run_cli("fork", fork, "-o", run.with_name("c"), "--model", "a third", "-n", unreachable_target(fork), "-q")
    assert dataset(run.with_name("c")).startswith(dataset(fork))


def test_a_fork_does_not_inherit_spending(source: tuple[Path, Loopback]) -> None:
    run, server = source
    before = len(server.arrived)
    run_cli("fork", run, "-o", run.with_name("b"), "-n", 900, "--max-requests", 7, "-q", code=1)
    assert len(server.arrived) == before + 7
    status = json.loads(run_cli("status", run.with_name("b"), "--json"))
    assert status["sends"] == 7


def test_a_changed_template_applies_to_new_requests_only(source: tuple[Path, Loopback], tmp_path: Path) -> None:
    run, server = source
    strategy = json.loads(run_cli("status", run, "--json"))["strategy"]
    name = "alpaca/list" if strategy == "alpaca" else "self-instruct/instructions"
    new = tmp_path / "prompts" / f"{name}.txt"
    new.parent.mkdir(parents=True)
    new.write_text("A NEW HEAD\n" + (builtin_prompts() / f"{name}.txt").read_text())
    before = len(server.arrived)
    fork, n = run.with_name("b"), unreachable_target(run) + 100  # more than the queued follow-ups yield
    run_cli("fork", run, "-o", fork, "--prompts", tmp_path / "prompts", "-n", n, "-q")
    heads = [body["prompt"].startswith("A NEW HEAD") for body in sent(server, before)]
    assert any(heads)
    assert not any(body["prompt"].startswith("A NEW HEAD") for body in sent(server)[:before])
    assert dataset(fork).startswith(dataset(run))
    run_cli("generate", fork, "-n", n + 5, "-q")


def test_an_option_that_needs_more_templates_keeps_the_recorded_ones(
    tmp_path: Path, loopback: Callable[..., Loopback]
) -> None:
    run, folder = tmp_path / "a", tmp_path / "prompts"
    shutil.copytree(builtin_prompts() / "alpaca", folder / "alpaca")
    run_cli("generate", run, *options(loopback(reply), "alpaca"), "-n", 5, "--prompts", folder)
    for file in folder.rglob("*.txt"):
        file.write_text("EDITED SINCE\n" + file.read_text())
    settings = {"alpaca": {"structured": True}, "openai": {"schema_field": "json_schema"}}
    with Reader(run) as reader:
        texts, recorded = forked_plan(settings, reader, InheritedOutcomes(reader)).prompts.texts, reader.templates()
    assert {name: texts[name] for name in recorded} == recorded
    assert texts["alpaca/list-json"].startswith("EDITED SINCE"), "a template that the run did not have"


def test_a_kill_during_a_fork_leaves_a_complete_fork_or_none(source: tuple[Path, Loopback]) -> None:
    run, _ = source
    for number in range(6):
        new = run.with_name(f"k{number}")
        process = subprocess.Popen(
            command("refilter", run, "-o", new), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (new / "run.sqlite").exists():
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with sqlite3.connect(new / "run.sqlite") as ledger:
            tables = ledger.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if tables:
                count = ledger.execute("SELECT COUNT(*) FROM outcomes").fetchone()
        if tables:
            with sqlite3.connect(run / "run.sqlite") as ledger:
                assert ledger.execute("SELECT COUNT(*) FROM outcomes").fetchone() == count
            run_cli("generate", new, "-q")
        else:
            run_cli("refilter", run, "-o", new)
        assert dataset(new) == dataset(run)


def test_an_impossible_fork_is_refused_with_the_reason(source: tuple[Path, Loopback], tmp_path: Path) -> None:
    run, _ = source
    strategy = json.loads(run_cli("status", run, "--json"))["strategy"]
    other = "alpaca" if strategy == "self-instruct" else "self-instruct"
    new = tmp_path / "new"
    assert "can read the completions of" in run_cli("fork", run, "-o", new, "--set", f"strategy={other}", code=2)
    assert not (new / "run.sqlite").exists()
    assert "threshold must be" in run_cli("refilter", run, "-o", new, "--set", "filters.novelty.threshold=7", code=2)
    assert "already holds a run" in run_cli("refilter", run, "-o", run, code=2)
    assert "holds no run" in run_cli("refilter", tmp_path / "nothing", "-o", new, code=1)
    run_cli("refilter", run, "-o", new)
    assert "is a fork" in run_cli("generate", tmp_path / "replayed", "--from", new, "-q", code=2)


def test_tune_predicts_the_result_of_refilter(source: tuple[Path, Loopback]) -> None:
    run, server = source
    before = len(server.arrived)
    strategy = json.loads(run_cli("status", run, "--json"))["strategy"]
    grid = "filters.novelty.threshold=0.45,0.6,0.95"
    results = json.loads(run_cli("tune", run, "--grid", grid, "--json"))["results"]
    assert len(server.arrived) == before
    assert [result["settings"]["filters.novelty.threshold"] for result in results] == [0.45, 0.6, 0.95]
    assert results[0]["rejected"].get("similar", 0) > results[-1]["rejected"].get("similar", 0)
    for result in results:
        threshold = result["settings"]["filters.novelty.threshold"]
        new = run.with_name(f"at {threshold}")
        setting = f"filters.novelty.threshold={threshold}"
        output = run_cli("refilter", run, "-o", new, "--set", setting, "-n", 1000)
        assert len(rows(new)) == result["rows"]
        assert (f"{result['waiting']} follow-up" in output) == bool(result["waiting"])
    if strategy == "self-instruct":  # alpaca has no follow-ups: each task comes with its answer
        assert results[-1]["waiting"] > results[0]["waiting"]
    else:
        assert not any(result["waiting"] for result in results)
    table = run_cli("tune", run, "--grid", "filters.novelty=null", "--grid", "filters.near_duplicate.threshold=0.7,0.9")
    assert len(table.splitlines()) == 3
    assert " off " in table
    assert "is not a filter setting" in run_cli("tune", run, "--grid", "seed=1,2", code=2)
    assert "key=value,value" in run_cli("tune", run, "--grid", "x", code=2)

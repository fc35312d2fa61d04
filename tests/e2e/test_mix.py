"""Whole mixed runs: the same bytes at any concurrency and after any stop, and labels that every command understands."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.errors import RunChangedError, UsageError
from selfinstruct.runs.explain import explain
from selfinstruct.runs.fork import refilter
from selfinstruct.runs.status import status
from selfinstruct.runs.tune import tune
from tests.cli import dataset, run_cli
from tests.loopback import Fault, Loopback
from tests.scripted import reply

ENTRIES = [{"name": "self-instruct"}, {"name": "alpaca", "label": "short", "list_length": 6}, {"name": "alpaca"}]
LABELS = {"self-instruct", "short", "alpaca"}
FILTERED = Fault(400, body={"error": {"message": "filtered", "code": "content_filter"}})


def faulty(_: int, body: dict[str, Any]) -> Fault | None:
    """Fail one request in eleven permanently, by its content: the same ones in every run.

    The content filter is at fault and no other error: a plain 400 that comes before the first answer blames the server.
    """
    return FILTERED if body["seed"] % 11 == 3 else None


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback(reply, faulty) as loopback:
        yield loopback


def settings(server: Loopback, **more: Any) -> dict[str, Any]:
    section = {"model": "m", "api": "completion", "base_url": server.url}
    return {"strategies": ENTRIES, "adapt": True, "backend": "openai", "openai": section, "n": 90, **more}


def outputs(run: Path) -> tuple[bytes, bytes]:
    return dataset(run), (run / "dataset" / "manifest.json").read_bytes()


def test_concurrency_stops_and_replays_change_no_byte(tmp_path: Path) -> None:
    expected = None
    for width in (1, 8, 64):
        with Loopback(reply, faulty) as server:
            result = generate(tmp_path / f"c{width}", settings(server, concurrency=width))
        assert (result.ending, result.stats.failures.total() > 0) == ("complete", True)
        expected = expected or outputs(tmp_path / "c1")
        assert outputs(tmp_path / f"c{width}") == expected
    run = tmp_path / "stopped"
    with Loopback(reply, faulty) as server:
        for limit in (9, 31):
            assert generate(run, settings(server, budget={"max_requests": limit}, concurrency=4)).ending == "budget"
        generate(run, {"budget": {"max_requests": None}})
    assert outputs(run) == expected
    generate(tmp_path / "again", {"backend": "replay", "replay": {"source": str(run)}})
    assert outputs(tmp_path / "again") == expected
    assert status(run, verify=True).complete


def test_rows_name_their_method_and_commands_report_by_method(tmp_path: Path, server: Loopback) -> None:
    run = tmp_path / "a"
    generate(run, settings(server))
    rows = [json.loads(line) for line in dataset(run).splitlines()]
    assert {row["strategy"] for row in rows} == LABELS
    number = next(number for number, row in enumerate(rows, 1) if row["strategy"] == "self-instruct")
    explanation = explain(run, str(number))
    assert [step.request.stage for step in explanation.steps] == [
        "self-instruct/instructions",
        "self-instruct/classify",
        "self-instruct/instances",
    ]
    assert explanation.candidate.candidate.columns == {"strategy": "self-instruct"}
    values = json.loads(run_cli("status", run, "--json"))
    assert values["strategy"] == "mix"
    assert values["methods"].keys() == LABELS
    assert sum(method["rows"] for method in values["methods"].values()) >= 90
    assert sum(method["requests"] for method in values["methods"].values()) == values["requests"]
    tokens = sum(method["tokens"] for method in values["methods"].values())
    assert tokens == values["prompt_tokens"] + values["completion_tokens"]
    slices = values["proposals"]
    assert 1 < len(slices) <= 10
    total: Counter[str] = Counter()
    for part in slices:
        total.update(part["methods"])
    assert all(before["last"] < after["first"] for before, after in pairwise(slices))
    assert all(total[label] >= method["proposals"] for label, method in values["methods"].items())
    # The text page shows the same figures. A method that yields few rows per token is used less in the end.
    best = max(values["methods"].values(), key=lambda method: method["rows_per_1000_tokens"])
    worst = min(values["methods"].values(), key=lambda method: method["rows_per_1000_tokens"])
    assert best["proposals"] > 2 * worst["proposals"]
    page = run_cli("status", run)
    assert "mix of self-instruct 1, short 1, alpaca 1; weights follow what they bring" in page
    assert f"requests {slices[0]['first']}-{slices[0]['last']}" in page
    assert "self-instruct/classify" in run_cli("explain", run, number)
    assert "  mix  " in run_cli("runs", tmp_path)
    assert "90 rows in both" in run_cli("diff", run, run)


def test_a_run_keeps_its_methods_and_accepts_the_same_methods_again(tmp_path: Path, server: Loopback) -> None:
    run = tmp_path / "a"
    generate(run, settings(server, n=10))
    assert generate(run, settings(server, n=20)).ending == "complete"
    assert generate(run, {"n": 25}).ending == "complete"
    changes = [
        ({"strategies": [{**ENTRIES[0], "weight": 3}, *ENTRIES[1:]]}, "strategies.self-instruct.weight: 1.0 -> 3.0"),
        ({"strategies": ENTRIES[:2]}, "strategies.alpaca.name: 'alpaca' -> None"),
        ({"adapt": False}, "adapt: True -> False"),
        ({"mix": {"explore": 0.5}}, "mix.explore: 0.05 -> 0.5"),
        ({"strategy": "alpaca"}, "strategy: 'mix' -> 'alpaca'"),
    ]
    for change, message in changes:
        with pytest.raises(RunChangedError, match=message):
            generate(run, change)
    other = tmp_path / "b"
    generate(other, {**settings(server, n=5), "strategies": None, "adapt": False, "strategy": "alpaca"})
    with pytest.raises(RunChangedError, match="strategy: 'alpaca' -> 'mix'"):
        generate(other, {"strategies": ENTRIES})


def test_a_fork_continues_with_other_weights_and_repeats_no_request(tmp_path: Path, server: Loopback) -> None:
    run, fork = tmp_path / "a", tmp_path / "b"
    generate(run, settings(server, n=60, filters={"novelty": {"threshold": 0.45}}))
    same = refilter(run, tmp_path / "same", {})
    assert (len(same.comparison.lost), len(same.comparison.gained)) == (0, 0)
    assert outputs(tmp_path / "same")[0] == outputs(run)[0]
    trials = list(tune(run, {"filters.novelty.threshold": [0.45, 0.95]}))
    assert trials[0].rows < trials[1].rows
    with pytest.raises(UsageError, match="the label 'short' \\(alpaca\\) has issued requests"):
        refilter(run, tmp_path / "c", {"strategies": [ENTRIES[0], ENTRIES[2]]})
    before = len(server.arrived)
    with pytest.raises(UsageError, match="only mix can read"):
        refilter(run, tmp_path / "d", {"strategy": "alpaca"})
    entries = [{**ENTRIES[0], "weight": 0}, *ENTRIES[1:], {"name": "alpaca", "label": "new", "list_length": 5}]
    forked = refilter(run, fork, {"strategies": entries, "filters": {"novelty": {"threshold": 0.95}}, "n": 200})
    assert (len(server.arrived), forked.queued > 0) == (before, True)
    answered = status(fork).stats.by_method
    result = generate(fork)
    assert result.ending == "complete"
    shares = status(fork).stats.by_method
    assert shares["new"].rows > 0
    assert shares["self-instruct"].proposals == answered["self-instruct"].proposals, "weight 0 proposes nothing"
    assert shares["self-instruct"].requests > answered["self-instruct"].requests, "earlier tasks are followed up"
    bodies = [json.dumps(arrived.body, sort_keys=True) for arrived in server.arrived]
    assert not set(bodies[:before]) & set(bodies[before:])

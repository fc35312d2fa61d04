"""Sends that a server refuses before any work cost nothing; the ones that it may have billed keep their worst case."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.ledger import Reader
from tests.cli import run_cli
from tests.loopback import Body, Fault, Loopback

N = 8
FAST = ["--set", "retry.base_s=0.01", "--set", "retry.attempts=2"]
OUT_OF_TIME = Fault(408)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps({"instruction": f"Explain how item {i}. is made."}) for i in range(N)))
    return path


def item(body: Body) -> int:
    return int(json.dumps(body).partition("how item ")[2].partition(".")[0])


def respond(run: Path, tasks: Path, url: str, *more: object, code: int = 0) -> dict[str, Any]:
    line = ["respond", run, "--from", tasks, "--backend", "openai", "--model", "m", "--base-url", url, "-q", *FAST]
    run_cli(*line, *more, code=code)
    return json.loads(run_cli("status", run, "--json", "--verify"))


@pytest.mark.parametrize("width", [1, 8])
def test_throttled_sends_leave_the_budget_of_tokens_to_the_others(tmp_path: Path, tasks: Path, width: int) -> None:
    asked: Counter[int] = Counter()

    def throttle(_: int, body: Any) -> Fault | None:
        asked[item(body)] += 1
        return Fault(429, headers={"retry-after": "0"}) if asked[item(body)] <= 3 else None

    with Loopback(lambda body: f"Cut item {item(body)} first.", throttle) as server:
        report = respond(tmp_path / "a", tasks, server.url, "--max-tokens", 24_000, "--concurrency", width)
    assert (report["rows"], report["sends"], report["lost_tokens"]) == (N, 4 * N, 0)


def test_refused_prompts_and_controls_leave_their_tokens(tmp_path: Path, tasks: Path) -> None:
    refused = Fault(400, body={"error": {"message": "This prompt may not be answered."}})
    with Loopback(lambda body: "Cut it first.", lambda _, body: refused if item(body) >= N - 2 else None) as server:
        report = respond(tmp_path / "a", tasks, server.url, "--max-tokens", 24_000)
    assert (report["rows"], report["failures"]) == (N - 2, {"bad_request": 2})
    assert 0 < report["lost_tokens"] < 50, "the control counts at the usage that the server reported"


@pytest.mark.parametrize(
    "fault",
    [
        OUT_OF_TIME,
        Fault(500),
        Fault(400, body={"error": {"message": "filtered", "code": "content_filter"}}),
        Fault(200, body={"choices": [{"error": {"code": 429, "message": "the provider was lost"}}]}),
    ],
)
def test_sends_that_may_have_been_billed_keep_their_worst_case(tmp_path: Path, tasks: Path, fault: Fault) -> None:
    with Loopback(lambda body: "Cut it first.", {2: fault}) as server:
        respond(tmp_path / "a", tasks, server.url, "--concurrency", 1)
    with Reader(tmp_path / "a") as reader:
        spent = reader.spending()
    assert (spent.sends, spent.lost_completion_tokens > 500) == (N + 1, True)


def test_a_resumed_run_counts_a_refused_send_like_the_run_before(tmp_path: Path, tasks: Path) -> None:
    """An account without credit refuses many times; the budget is still there once it has been filled."""
    dry = Fault(400, body={"error": {"message": "the upstream server refused it"}})
    with Loopback(lambda body: "Cut it first.", lambda number, _: dry if number > 2 else None) as server:
        for _ in range(3):
            report = respond(tmp_path / "a", tasks, server.url, "--max-tokens", 24_000, code=1)
            assert report["lost_tokens"] == 0
    with Loopback(lambda body: "Cut it first.") as server:
        assert respond(tmp_path / "a", tasks, server.url, "--max-tokens", 24_000)["rows"] == N

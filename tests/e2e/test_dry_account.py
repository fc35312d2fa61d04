"""Refusals that look alike: of a prompt, which is final, and of an account or a server, which never is."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import selfinstruct
from selfinstruct.common.rng import derive
from selfinstruct.errors import BackendError
from tests.batches import Batches, Script
from tests.cli import dataset, run_cli
from tests.loopback import Body, Fault, Loopback
from tests.scripted import SETTINGS, reply

N = 40
CREDIT = {"error": {"type": "invalid_request_error", "message": "credit balance too low"}}
DRY = Fault(400, body={"error": {"type": "invalid_request_error", "message": "the upstream server refused it"}})
BLOCKED = {"error": {"message": "This prompt may not be answered.", "code": None}}
RAW = ("alpaca", "self-instruct", "magpie", "respond")
FAST = ["--set", "retry.base_s=0.01", "--set", "retry.attempts=2"]

Faulty = Callable[[int, Any], Fault | None]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    lines = [json.dumps({"instruction": f"Explain how item {index}. is made by hand."}) for index in range(N)]
    path.write_text("\n".join(lines))
    return path


def item(body: Body) -> int:
    """Return the index of the task in a request's body."""
    return int(json.dumps(body).partition("how item ")[2].partition(".")[0])


def answer(body: Body) -> str:
    return f"First take the material for item {item(body)}, then cut and join it."


def respond(run: Path, tasks: Path, url: str, *more: object, code: int = 0) -> str:
    line = ["respond", run, "--from", tasks, "--backend", "openai", "--model", "m", "--base-url", url, "-q", *FAST]
    return run_cli(*line, *more, code=code)


def status(run: Path) -> dict[str, Any]:
    return json.loads(run_cli("status", run, "--json", "--verify"))


def items(run: Path) -> list[int]:
    """Return the indexes of the tasks in a dataset, in order."""
    rows = [json.loads(line) for line in dataset(run).splitlines()]
    return [item(row["instruction"]) for row in rows]


@pytest.mark.parametrize("width", [1, 16])
@pytest.mark.parametrize(
    "fault",
    [
        DRY,
        Fault(400, body=CREDIT),
        Fault(413, body={"detail": "no"}),
        Fault(422, body=CREDIT),
        Fault(403, body={"error": {"message": "Your account was flagged by moderation."}}),
        Fault(400, body={"error": {"message": "blocked by content policy", "code": "content_policy_violation"}}),
        Fault(451),
    ],
)
def test_an_account_that_runs_dry_stops_the_run_with_every_request_open(
    tmp_path: Path, tasks: Path, fault: Fault, width: int
) -> None:
    with Loopback(answer, lambda number, body: fault if number > 5 else None) as server:
        for _ in range(2):
            before = len(server.arrived)
            output = respond(tmp_path / "a", tasks, server.url, "--concurrency", width, code=1)
            assert str(fault.status) in output
            assert "Nothing is recorded as failed" in output
            assert "command" in output
            assert len(server.arrived) - before <= 5 + 8 + width, "an unbroken series ends soon"
        report = status(tmp_path / "a")
        assert report["failures"] == {}
        assert (report["rows"], report["complete"]) == (len(items(tmp_path / "a")), False)
    with Loopback(answer) as server:
        respond(tmp_path / "a", tasks, server.url)
        respond(tmp_path / "b", tasks, server.url)
        assert len(server.arrived) == N - 5 + N, "no answer is requested twice"
    assert items(tmp_path / "a") == list(range(N))
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


@pytest.mark.parametrize("width", [1, 16])
def test_an_account_that_is_dry_for_a_while_loses_no_task(tmp_path: Path, tasks: Path, width: int) -> None:
    """The account is filled again while the run is at work: the refused requests are asked again."""
    with Loopback(answer, lambda number, body: DRY if 6 <= number <= 8 else None) as server:
        respond(tmp_path / "a", tasks, server.url, "--concurrency", width)
        assert len(server.arrived) <= N + 3 + 1
    assert items(tmp_path / "a") == list(range(N))


@pytest.mark.parametrize("width", [1, 4])
def test_a_server_that_is_down_for_a_while_loses_no_task(tmp_path: Path, tasks: Path, width: int) -> None:
    """Requests use up their attempts during an outage, and are asked again after it."""
    with Loopback(answer, lambda number, body: Fault(503) if 6 <= number <= 8 else None) as server:
        respond(tmp_path / "a", tasks, server.url, "--concurrency", width, "--set", "retry.attempts=1")
    assert items(tmp_path / "a") == list(range(N))


@pytest.mark.parametrize("width", [1, 16])
@pytest.mark.parametrize(
    "refused", [{7}, {0}, {N - 1}, {0, 1, 2}, {N - 3, N - 2, N - 1}, set(range(10, 30)), {3, 9, 27}]
)
@pytest.mark.parametrize("fault", [Fault(451, body=BLOCKED), Fault(400, body=BLOCKED)])
def test_refused_prompts_are_recorded_and_the_others_answered(
    tmp_path: Path, tasks: Path, fault: Fault, refused: set[int], width: int
) -> None:
    code = "bad_request" if fault.status == 400 else "forbidden"
    with Loopback(answer, lambda number, body: fault if item(body) in refused else None) as server:
        respond(tmp_path / "a", tasks, server.url, "--concurrency", width)
        asked = Counter(item(arrived.body) for arrived in server.arrived)
    assert items(tmp_path / "a") == [index for index in range(N) if index not in refused]
    assert status(tmp_path / "a")["failures"] == {code: len(refused)}
    assert all(asked[index] == 2 for index in refused), "each is asked twice"
    controls = sum(count - 1 for index, count in asked.items() if index not in refused)
    assert controls <= 1 + len(refused) // 8


def test_a_single_refused_request_stays_open_if_nothing_was_ever_answered(tmp_path: Path) -> None:
    (path := tmp_path / "t.jsonl").write_text(json.dumps({"instruction": "Explain how item 0. is made."}))
    with Loopback(answer, lambda number, body: Fault(403, body=BLOCKED)) as server:
        output = respond(tmp_path / "a", path, server.url, code=1)
        assert "no request has been answered since" in output
        assert len(server.arrived) == 1
    assert status(tmp_path / "a")["open"] == 1


def test_the_last_request_of_a_dry_account_stays_open_and_the_control_is_counted(tmp_path: Path, tasks: Path) -> None:
    with Loopback(answer, lambda number, body: DRY if number >= N else None) as server:
        output = respond(tmp_path / "a", tasks, server.url, "--concurrency", 1, code=1)
        assert f"request {N - 2}, which was answered before, now fails too" in output
        assert len(server.arrived) == N + 1
    report = status(tmp_path / "a")
    assert (report["failures"], report["open"], report["sends"]) == ({}, 1, N + 1)


def test_a_kind_of_request_that_is_always_refused_stops_the_run(tmp_path: Path) -> None:
    """Requests of another stage prove nothing: here the settings of one stage are refused."""

    def refuses(number: int, body: Body) -> Fault | None:
        return Fault(400, body={"error": {"message": "too many stop sequences"}}) if len(body["stop"]) > 1 else None

    line = ["generate", tmp_path / "a", "--backend", "openai", "--model", "m", "--api", "completion", "-n", 30, "-q"]
    with Loopback(reply) as server:
        run_cli(*line[:1], tmp_path / "b", *line[2:], "--base-url", server.url)
        stops = {len(arrived.body["stop"]) for arrived in server.arrived}
    assert stops == {1, 2}, "the stages differ"
    with Loopback(reply, refuses) as server:
        output = run_cli(*line, "--base-url", server.url, code=1)
        assert "too many stop sequences" in output
    assert status(tmp_path / "a")["failures"] == {}
    with Loopback(reply) as server:
        run_cli(*line, "--base-url", server.url)
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


@pytest.mark.parametrize("refused_lines", [4, 1])
def test_a_batch_that_the_account_pays_for_in_part_loses_no_task(
    tmp_path: Path, tasks: Path, refused_lines: int
) -> None:
    filled = False

    def line(number: int, body: Body) -> Any:
        return (400, CREDIT) if not filled and (number > 1 or item(body) >= N - refused_lines) else None

    settings = {"strategy": "respond", "seeds": str(tasks), "backend": "openai-batch", "lag": 64}
    with Batches(answer, Script(line=line)) as server:
        section = {"model": "m", "base_url": server.url, "api": "chat", "poll_s": 0.02}
        for _ in range(2):
            with pytest.raises(BackendError, match=r"credit balance too low.*Nothing is recorded as failed"):
                selfinstruct.generate(tmp_path / "a", {**settings, "openai-batch": section})
            assert status(tmp_path / "a")["failures"] == {}
        filled = True
        result = selfinstruct.generate(tmp_path / "a", {**settings, "openai-batch": section})
    assert result.succeeded
    assert items(tmp_path / "a") == list(range(N))


def test_a_refused_line_of_the_last_batch_costs_one_more_batch(tmp_path: Path, tasks: Path) -> None:
    def line(number: int, body: Body) -> Any:
        return (400, BLOCKED) if item(body) >= N - 2 else None

    with Batches(answer, Script(line=line)) as server:
        section = {"model": "m", "base_url": server.url, "api": "chat", "poll_s": 0.02}
        result = selfinstruct.generate(
            tmp_path / "a", {"strategy": "respond", "seeds": str(tasks), "backend": "openai-batch",
                             "lag": 64, "openai-batch": section}
        )  # fmt: skip
        sizes = [len(batch.lines) for batch in server.batches]
    assert result.stats.failures == {"bad_request": 2}
    assert sizes[-1] == 3, "the two refused requests and the control"
    assert sum(sizes) == N + 3


def old_run(run: Path, tasks: Path, failed: set[int]) -> None:
    """Make a run with recorded failures, as an older version made it of an account that ran dry."""
    with Loopback(answer, lambda number, body: DRY if item(body) in failed else None) as server:
        respond(run, tasks, server.url, "--concurrency", 64)
    report = status(run)
    assert report["failures"] == {"bad_request": len(failed)}


@pytest.mark.parametrize("failed", [set(range(5, N - 1)), {0}, {3, 9, 27}, {N - 1}])
def test_retry_reopens_failures_and_the_rows_are_regained(tmp_path: Path, tasks: Path, failed: set[int]) -> None:
    old_run(tmp_path / "a", tasks, failed)
    before = dataset(tmp_path / "a")
    output = run_cli("retry", tmp_path / "a", "--dry-run")
    assert f"{len(failed)} failed request{'s' if len(failed) > 1 else ''} would be reopened: bad_request" in output
    assert status(tmp_path / "a")["failures"] == {"bad_request": len(failed)}
    output = json.loads(run_cli("retry", tmp_path / "a", "--json"))
    assert output == {"run": str(tmp_path / "a"), "reopened": {"bad_request": len(failed)}, "remaining": {}}
    assert "nothing to reopen" in run_cli("retry", tmp_path / "a")
    assert dataset(tmp_path / "a") == before, "the dataset on disk is untouched"
    assert status(tmp_path / "a")["failures"] == {}
    with Loopback(answer) as server:
        respond(tmp_path / "a", tasks, server.url)
        assert {item(arrived.body) for arrived in server.arrived} == failed
        assert len(server.arrived) == len(failed), "nothing else is asked"
        respond(tmp_path / "b", tasks, server.url)
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")
    assert status(tmp_path / "a")["failures"] == {}
    assert "nothing to reopen" in run_cli("retry", tmp_path / "a")


def test_retry_selects_by_code_and_reopened_requests_may_fail_again(tmp_path: Path, tasks: Path) -> None:
    def faulty(number: int, body: Body) -> Fault | None:
        return {4: Fault(400, body=BLOCKED), 8: Fault(451, body=BLOCKED), 20: Fault(500)}.get(item(body))

    with Loopback(answer, faulty) as server:
        respond(tmp_path / "a", tasks, server.url)
        assert status(tmp_path / "a")["failures"] == {"bad_request": 1, "forbidden": 1, "attempts": 1}
        output = run_cli("retry", tmp_path / "a", "--failed", "content_filter")
        assert "no recorded failure with the code content_filter" in output
        assert "still recorded as failed: " in output
        output = run_cli("retry", tmp_path / "a", "--failed", "attempts", "--failed", "forbidden")
        assert "2 failed requests reopened: " in output
        assert "(still recorded as failed: bad_request 1)" in output
        assert status(tmp_path / "a")["failures"] in ({}, {"bad_request": 1})
        respond(tmp_path / "a", tasks, server.url)
        assert status(tmp_path / "a")["failures"] == {"bad_request": 1, "forbidden": 1, "attempts": 1}
    assert selfinstruct.retry(tmp_path / "a").reopened.total() == 3
    with Loopback(answer) as server:
        respond(tmp_path / "a", tasks, server.url)
        assert len(server.arrived) == 3
    assert items(tmp_path / "a") == list(range(N))


@pytest.mark.parametrize("name", SETTINGS)
def test_retry_of_any_strategy_keeps_every_completion(tmp_path: Path, name: str) -> None:
    """Later requests were made after the failures; they are processed as they were sent."""
    failing = {derive("request", 0, number) for number in (2, 5, 6, 11)}
    run, source = tmp_path / "a", tmp_path / "b"

    def generate(url: str) -> selfinstruct.GenerateResult:
        section = {"model": "m", "base_url": url, "api": "completion" if name in RAW else "chat"}
        strategy = {} if name in ("mix", "quality") else {"strategy": name}
        return selfinstruct.generate(
            run, {**SETTINGS[name], **strategy, "backend": "openai", "n": 15, "openai": section}
        )

    with Loopback(reply, lambda _, body: Fault(400) if body["seed"] in failing else None) as server:
        failures = generate(server.url).stats.failures
    assert failures["bad_request"] >= 2
    answered = answers(run)
    assert selfinstruct.retry(run).reopened >= failures, "a run may end before it has processed every failure"
    assert answers(run) == answered, "every completion is kept"
    assert selfinstruct.status(run, verify=True).stats.failures == {}
    with Loopback(reply) as server:
        result = generate(server.url)
    # An evaluation asks each item once, and has no row for an answer that was cut.
    ending, rows = ("exhausted", len(result.rows)) if name == "evaluate" else ("complete", 15)
    assert (result.ending, result.stats.failures) == (ending, {})
    assert answered.items() <= answers(run).items()
    assert selfinstruct.status(run, verify=True).rows == rows
    selfinstruct.explain(run, 1)
    assert len(selfinstruct.fork(run, source, {"n": 5}).rows) == 5


def test_a_replay_of_a_retried_run_names_the_reason(tmp_path: Path) -> None:
    poison = derive("request", 0, 2)
    settings = {"strategy": "self-instruct", "backend": "openai", "n": 20}
    for poisons in ({poison}, set[int]()):
        with Loopback(reply, lambda _, body, poisons=poisons: DRY if body["seed"] in poisons else None) as server:
            section = {"model": "m", "base_url": server.url, "api": "completion"}
            selfinstruct.generate(tmp_path / "a", {**settings, "openai": section})
        selfinstruct.retry(tmp_path / "a")
    output = run_cli("generate", tmp_path / "b", "--from", tmp_path / "a", code=1)
    assert "was continued after a retry" in output
    assert "selfinstruct fork" in output


def answers(run: Path) -> dict[int, bytes]:
    """Return the completions in a ledger, by number of their request."""
    with closing(sqlite3.connect(run / "run.sqlite")) as ledger:
        return dict(ledger.execute("SELECT k, body FROM outcomes WHERE kind = 'completion'"))


def test_retry_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    assert "holds no run" in run_cli("retry", tmp_path / "none", code=1)
    assert not (tmp_path / "none").exists()

"""Answers that the server gave up: the finish reason says so, and no error object does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.ledger import Reader
from selfinstruct.parse.answers import AnswerReader
from selfinstruct.records import Choice, Completion, Usage
from selfinstruct.records.endings import ending, is_lost, is_recognised
from tests.cli import run_cli
from tests.loopback import Body, Fault, Loopback

TASKS = 6
LOST = ("error", "ERROR", "abort", "aborted", "cancelled", "USER_CANCEL", "canceled", "failed", "internal_error",
        "InternalServerError", "server_error", "upstream_error", "network_error", "timeout", "TIMED_OUT", "time_limit",
        "insufficient_system_resource", "interrupted", "engine_overloaded", "FINISH_REASON_ERROR")  # fmt: skip
OTHERS = ("stop", "length", "content_filter", "ERROR_TOXIC", "tool_calls", "refusal", "stop_str", "", "error_limit")


def settings(folder: Path, url: str, **more: Any) -> dict[str, Any]:
    tasks = folder / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"instruction": f"Question {number}?"}) + "\n" for number in range(TASKS)))
    section = {"base_url": url, "model": "m"}
    retry = {"base_s": 0.001, "attempts": 3}
    return {"strategy": "respond", "seeds": str(tasks), "backend": "openai", "openai": section, "retry": retry, **more}


def answer(body: Body, finish_reason: str = "stop") -> Body:
    """Return an answer whose tokens depend on the task, so that a sum shows which answers were counted."""
    task = body["messages"][-1]["content"]
    content = f"This answers {task}" if finish_reason == "stop" else "This answ"
    return {
        "choices": [{"message": {"content": content}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 100 + int(task[9]), "completion_tokens": 7},
    }


@pytest.mark.parametrize("name", LOST)
def test_endings_of_an_answer_that_was_given_up(name: str) -> None:
    assert is_lost(name)
    assert is_recognised(ending(name)), "no advice to accept it"


@pytest.mark.parametrize("name", OTHERS)
def test_endings_that_another_attempt_would_not_change(name: str) -> None:
    assert not is_lost(name)


@pytest.mark.parametrize("name", ["error", "InternalServerError"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_lost_answer_is_asked_for_again_and_its_tokens_are_counted(tmp_path: Path, name: str, stream: bool) -> None:
    seen: set[str] = set()

    def lost(_: int, body: Body) -> Fault:
        task = body["messages"][-1]["content"]
        value = answer(body, "stop" if task in seen else name)
        seen.add(task)
        if not stream:
            return Fault(body=value)
        (choice,) = value["choices"]
        piece = {
            "choices": [{"index": 0, "delta": choice["message"], "finish_reason": name and choice["finish_reason"]}]
        }
        events = [piece, {"choices": [], "usage": value["usage"]}]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return Fault(200, {"content-type": "text/event-stream"}, f"{text}data: [DONE]\n\n")

    with Loopback(faults=lost) as server:
        options = settings(tmp_path, server.url)
        options["openai"]["stream"] = stream
        result = generate(tmp_path / "run", options)
    assert (len(result.rows), result.stats.rejected, result.stats.failures) == (TASKS, {}, {})
    with Reader(tmp_path / "run") as reader:
        spent = reader.spending()
    prompts = sum(100 + task for task in range(TASKS))
    assert spent.sends == 2 * TASKS
    assert (spent.prompt_tokens, spent.completion_tokens) == (prompts, 7 * TASKS)
    assert (spent.lost_prompt_tokens, spent.lost_completion_tokens) == (prompts, 7 * TASKS), "not at the worst case"


def test_an_answer_that_is_lost_each_time_is_a_failure_that_retry_reopens(tmp_path: Path) -> None:
    healed: list[bool] = []

    def lost(_: int, body: Body) -> Fault:
        bad = "Question 2?" in body["messages"][-1]["content"] and not healed
        return Fault(body=answer(body, "error" if bad else "stop"))

    with Loopback(faults=lost) as server:
        result = generate(tmp_path / "run", settings(tmp_path, server.url))
        assert (len(result.rows), result.stats.failures) == (TASKS - 1, {"attempts": 1})
        healed.append(True)
        assert "reopened: attempts 1" in run_cli("retry", tmp_path / "run")
        assert len(generate(tmp_path / "run", {}).rows) == TASKS


def test_a_server_that_gives_up_every_answer_stops_the_run_with_its_requests_open(tmp_path: Path) -> None:
    with Loopback(faults=lambda _, body: Fault(body=answer(body, "error"))) as server:
        options = settings(tmp_path, server.url)
        output = run_cli("respond", tmp_path / "run", "--from", options["seeds"], "--backend", "openai", "--model", "m",
                         "--base-url", server.url, "--set", "retry.base_s=0.001", "-q", code=1)  # fmt: skip
    assert f"{server.url} gave up an answer (finish_reason error)" in output
    with Loopback(faults=lambda _, body: Fault(body=answer(body))) as server:
        options = settings(tmp_path, server.url)
        assert len(generate(tmp_path / "run", {"openai": options["openai"]}).rows) == TASKS, "no task was lost"


def test_a_stored_answer_with_such_an_ending_keeps_its_verdict() -> None:
    stored = Completion((Choice("This answ", "error"),), Usage(9, 9), "m")
    read = AnswerReader().read(Completion.from_json(stored.to_json())).completion
    assert read.failed
    assert read.choices[0].cut_reason == "ended_error"

"""Models that reason, from a real server to the dataset, in every strategy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate, open_run
from selfinstruct.errors import SelfInstructError
from tests.cli import run_cli
from tests.e2e.test_broken_answers import Model, replies, run, texts_of_rows
from tests.golden.make import APIS
from tests.loopback import Loopback, Reply

DRAFT = "DRAFTED"
THOUGHT = (
    f"{DRAFT} first.\n1. {DRAFT} one task about rivers and boats.\n2. {DRAFT} another task about old engines.\n\n"
    f"### Task 4\nInstruction: {DRAFT} a third task about markets.\nInput: <noinput>\nOutput: {DRAFT} an output.\n"
    f"Task: {DRAFT} a fourth task.\nScore: 1\nAnswer: {DRAFT} an answer."
)
FORMS = {
    "tags": "<think>\n{thought}\n</think>\n\n{answer}",
    "closing tag": "{thought}\n</think>\n\n{answer}",
    "Mistral": "[THINK]{thought}[/THINK]{answer}",
    "harmony": "<|channel|>analysis<|message|>{thought}<|end|>"
    "<|start|>assistant<|channel|>final<|message|>{answer}<|return|>",
    "token at the end": "<think>{thought}</think>{answer}<|im_end|>",
}


def thinking(form: str) -> Model:
    """Return the scripted model with a thought before each answer."""

    def model(body: dict[str, Any]) -> Any:
        return [
            Reply(FORMS[form].format(thought=THOUGHT, answer=(each.text or "").lstrip()), each.finish_reason)
            for each in replies(body)
        ]

    return model


CASES = [*((name, "tags") for name in APIS), *(("self-instruct", form) for form in FORMS), ("respond", "harmony")]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_no_strategy_takes_a_thought_for_an_answer(name: str, form: str, tmp_path: Path) -> None:
    seen: list[str] = []

    def model(body: dict[str, Any]) -> Any:
        seen.append(json.dumps(body))
        return thinking(form)(body)

    api = {"api": "chat"} if name not in ("magpie", "mix", "quality", "alpaca", "personas") else {}
    settings = {"respond": {"systems": "builtin"}} if name == "respond" else {}
    result = run(tmp_path, name, model, openai=api, **settings)
    assert len(result.rows) == 5
    assert DRAFT not in texts_of_rows(tmp_path)
    assert not any(DRAFT in body for body in seen)


def reasoning_server(needed: int, *, shown: bool = True) -> Model:
    """Return a model that spends ``needed`` tokens on reasoning before each answer, as the server counts them."""

    def model(body: dict[str, Any]) -> Any:
        limit = body.get("max_tokens", 16)
        [each, *_] = replies(body)
        cut = limit <= needed
        message = {"role": "assistant", "content": "" if cut else (each.text or "").rpartition("</think>\n")[2]}
        if shown:
            message["reasoning_content"] = THOUGHT
        spent = min(limit, needed)
        usage: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": spent + (0 if cut else 12)}
        if shown:
            usage["completion_tokens_details"] = {"reasoning_tokens": spent}
        choice = {"index": 0, "message": message, "finish_reason": "length" if cut else each.finish_reason}
        return {"model": "thinker", "choices": [choice], "usage": usage}

    return model


@pytest.mark.parametrize("shown", [True, False])
def test_limits_hold_for_the_answer(shown: bool, tmp_path: Path) -> None:
    result = run(tmp_path, "self-instruct", reasoning_server(5000, shown=shown), concurrency=4)
    assert len(result.rows) == 5
    assert result.stats.requests < 60
    assert DRAFT not in texts_of_rows(tmp_path)
    if shown:
        assert result.stats.reasoning_tokens == 5000 * result.stats.requests
        shown_lines = run_cli("status", tmp_path)
        assert f"{result.stats.reasoning_tokens:,} of them for reasoning" in shown_lines
        assert json.loads(run_cli("status", tmp_path, "--json"))["reasoning_tokens"] > 0


def test_more_room_is_given_before_giving_up(tmp_path: Path) -> None:
    assert len(run(tmp_path, "self-instruct", reasoning_server(20_000), concurrency=2).rows) == 5


@pytest.mark.parametrize("shown", [True, False])
def test_a_run_whose_answers_are_all_thought_stops_early(shown: bool, tmp_path: Path) -> None:
    requests: list[Any] = []

    def model(body: dict[str, Any]) -> Any:
        requests.append(body)
        return reasoning_server(1 << 20, shown=shown)(body)

    with pytest.raises(
        SelfInstructError, match=r"reasoning_tokens=.* or switch reasoning off .--set openai.thinking=false"
    ):
        run(tmp_path, "self-instruct", model, concurrency=4)
    assert len(requests) < 60
    assert not open_run(tmp_path).status().stats.failures  # nothing was given up


def test_room_that_exceeds_the_context_is_reduced(tmp_path: Path) -> None:
    """A server with a context of 8,000 tokens refuses a larger limit."""
    from tests.loopback import Fault

    def refuse(number: int, body: Any) -> Fault | None:
        if body["max_tokens"] <= 8000:
            return None
        message = "This model's maximum context length is 8000 tokens"
        return Fault(400, body={"error": {"message": message, "code": "context_length_exceeded"}})

    with Loopback(reasoning_server(3000), refuse) as server:
        section = {"model": "thinker", "base_url": server.url}
        result = generate(tmp_path, {"n": 5, "lag": 8, "backend": "openai", "openai": section})
    assert len(result.rows) == 5
    assert not result.stats.failures


def test_reasoning_from_a_field_becomes_the_reasoning_of_a_row(tmp_path: Path) -> None:
    run(tmp_path, "respond", reasoning_server(10), respond={"reasoning": True})
    rows = [json.loads(line) for line in (tmp_path / "dataset" / "alpaca.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert all(row["reasoning"] == THOUGHT and DRAFT not in row["output"] for row in rows)


@pytest.mark.parametrize("effort", [None, "low"])
def test_thinking_is_switched_off_by_the_fields_of_the_server(effort: str | None, tmp_path: Path) -> None:
    bodies: list[Any] = []

    def model(body: dict[str, Any]) -> Any:
        bodies.append(body)
        return replies(body)

    run(tmp_path, "respond", model, openai={"thinking": False, "reasoning_effort": effort})
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False} for body in bodies)
    assert all(body.get("reasoning_effort") == effort for body in bodies)

"""Further answers in place of unfinished ones, and advice on what would bring more rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.api import GenerateResult, generate
from selfinstruct.engine.advice import advice
from tests.cli import dataset, run_cli
from tests.e2e.test_broken_answers import BROKEN, replies, run
from tests.loopback import Loopback, Reply
from tests.scripted import SETTINGS, reply


def answers_cut(stage_limit: int, ending: str = "length") -> Any:
    """Return a model that cuts answers with this limit of tokens, and answers everything else."""

    def model(body: dict[str, Any]) -> Any:
        if body.get("n", 1) > 1:
            key = json.dumps(body["messages"])
            return [Reply(f"A quiet harbour, version {index}, for {len(key)} readers.") for index in range(body["n"])]
        if "scale of 1 to 5" in json.dumps(body["messages"]) or "Score" in json.dumps(body["messages"]):
            return "Score: 5\nReason: good"
        if body["max_tokens"] == stage_limit:
            return Reply(f"It begins well and {BROKEN}", ending)
        return replies(body)

    return model


LIMITS = {
    "respond": ({"answer": {"max_tokens": 777}}, {}),
    "evol-instruct": ({"answer": {"max_tokens": 777}}, {}),
    "self-instruct": ({"answer": {"max_tokens": 777}, "input_first_examples": 0}, {}),
    "personas": ({"answer": {"max_tokens": 777}}, {}),
}


def run_cut(folder: Path, name: str, ending: str, **quality: Any) -> GenerateResult:
    """Run a strategy whose answers are all cut."""
    section, more = LIMITS[name]
    settings = {name: section, **more, "filters": {"near_duplicate": None, "copied": None}}
    if quality:
        settings["quality"] = quality
    return run(folder, name, answers_cut(777, ending), openai={"api": "chat"}, patience=25, **settings)


@pytest.mark.parametrize("ending", ["length", "model_length"])
@pytest.mark.parametrize("name", LIMITS)
def test_other_answers_are_asked_for_when_the_first_is_cut(name: str, ending: str, tmp_path: Path) -> None:
    result = run_cut(tmp_path, name, ending, best_of=3, judge={"rubrics": ["clarity"]})
    assert len(result.rows) == 5
    assert all(BROKEN not in row.candidate.output for row in result.rows)
    assert result.stats.discarded["truncated" if ending == "length" else "ended_model_length"] >= 5


def test_a_row_without_any_complete_answer_is_rejected_by_its_own_fault(tmp_path: Path) -> None:
    def model(body: dict[str, Any]) -> Any:
        return [Reply(f"It begins {BROKEN}", "length")] * body.get("n", 1)

    quality = {"best_of": 3, "judge": {}}
    result = run(tmp_path, "respond", model, openai={"api": "chat"}, quality=quality, respond={}, patience=30)
    assert not result.rows
    assert result.stats.rejected["truncated"] > 0


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("respond", "respond.answer.max_tokens=1554"),
        ("evol-instruct", "evol-instruct.answer.max_tokens=1554"),
        ("self-instruct", "self-instruct.answer.max_tokens=1554"),
        ("personas", "personas.answer.max_tokens=1554"),
    ],
)
def test_a_run_that_the_token_limit_spoils_says_which_limit_to_raise(name: str, setting: str, tmp_path: Path) -> None:
    result = run_cut(tmp_path, name, "length")
    (line,) = advice(result.plan, result.stats)
    assert f"--set {setting}" in line
    assert line in run_cli("status", tmp_path)
    assert json.loads(run_cli("status", tmp_path, "--json"))["advice"] == [line]


def test_a_sound_run_needs_no_advice(tmp_path: Path) -> None:
    result = run(tmp_path, "respond", lambda body: [Reply(f"A quiet harbour of {len(str(body))} boats.")])
    assert advice(result.plan, result.stats) == ()


@pytest.mark.parametrize("ending", [None, "", "null", "None"])
@pytest.mark.parametrize("name", ["respond", "evol-instruct", "conversation"])
def test_a_server_that_names_no_ending_stops_the_run_early(name: str, ending: str | None, tmp_path: Path) -> None:
    def model(body: dict[str, Any]) -> Any:
        answered = reply(body)
        return Reply(answered.text if isinstance(answered, Reply) else str(answered), ending)

    options = {**SETTINGS[name], "strategy": name, "n": 40, "backend": "openai"}
    with Loopback(model) as server:
        options["openai"] = {"model": "m", "base_url": server.url, "api": "chat"}
        result = generate(tmp_path / "a", options)
        assert (result.ending, len(result.rows), result.succeeded) == ("unnamed", 0, False)
        sent = len(server.arrived)
        assert sent <= 64 + 64, "the patience of 200 requests is not used up"
        line = run_cli("generate", tmp_path / "a", "-q", code=1)
        assert "no answer counts as complete, since the server names no finish reason" in line
        assert "begin a new run or a fork with --set 'accept_endings=[unknown]'" in line
        assert len(server.arrived) == sent, "the same command asks for nothing"
        run_cli("fork", tmp_path / "a", "-o", tmp_path / "b", "-n", 5, "--set", "accept_endings=[unknown]")
        assert name != "respond" or len(server.arrived) == sent, "the answers in the ledger are enough"
    assert len(dataset(tmp_path / "b", "alpaca" if name == "evol-instruct" else "messages").splitlines()) == 5


@pytest.mark.parametrize(
    ("endings", "accepted"),
    [
        (["stop_str"], "stop_str"),
        (["Stop-Str", "eos_id"], "eos_id, stop_str"),
        (["eos_id", None], "eos_id, unknown"),
        (["stop_str", "stop_str", "stop_str", "length"], "stop_str"),
    ],
)
def test_a_server_with_endings_of_its_own_stops_the_run_early(
    endings: list[str | None], accepted: str, tmp_path: Path
) -> None:
    """The order of arrival decides nothing: the ending follows from the request."""
    texts: list[str] = []

    def model(body: dict[str, Any]) -> Any:
        text = json.dumps(body["messages"])
        texts.append(text)
        return Reply(f"A quiet harbour of {len(texts)} boats.", endings[texts.index(text) % len(endings)])

    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"instruction": f"Question {task}?"}) + "\n" for task in range(300)))
    options = {"strategy": "respond", "seeds": str(tasks), "backend": "openai", "concurrency": 1}
    with Loopback(model) as server:
        result = generate(tmp_path / "a", {**options, "openai": {"model": "m", "base_url": server.url}})
        assert (result.ending, len(result.rows)) == ("unnamed", 0)
        assert 64 <= len(server.arrived) <= 64 + 16
        output = run_cli("generate", tmp_path / "a", "-q", code=1)
        assert f"--set 'accept_endings=[{accepted}]'" in output
        if accepted != "unknown":
            assert "finish reasons that are not known (" in output
        run_cli("fork", tmp_path / "a", "-o", tmp_path / "b", "-n", 5, "--set", f"accept_endings=[{accepted}]")
    assert len(dataset(tmp_path / "b").splitlines()) == 5


@pytest.mark.parametrize("ending", ["content_filter", "tool_calls"])
def test_an_ending_that_marks_no_answer_is_not_advised(ending: str, tmp_path: Path) -> None:
    result = run(tmp_path, "respond", lambda body: [Reply(f"A harbour {BROKEN}", ending)], patience=80, n=100)
    assert result.ending in ("stalled", "exhausted")
    assert not any("accept_endings" in line for line in advice(result.plan, result.stats))

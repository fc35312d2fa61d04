"""Verifiers in whole runs: wrong answers are rejected, and ``explain`` shows what was expected and found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.api import generate
from selfinstruct.strategies import STRATEGIES
from tests.abuse.hostile import selfinstruct
from tests.answering import Answering
from tests.loopback import Body, Loopback

KINDS = (
    ("number", lambda one, two: {"kind": "number", "value": one + two}),
    ("python", lambda one, two: {"kind": "python", "value": one + two}),
    ("all", lambda one, two: {"kind": "all", "of": [{"kind": "number", "value": one + two}, {"kind": "no_commas"}]}),
)
PAIRS = [(one, two) for one in range(11, 15) for two in (20, 31, 42)]


def answer(body: Body) -> str:
    """Right, wrong, and right in the wrong form."""
    question = body["messages"][-1]["content"]
    one, two = (int(word) for word in question.split() if word.isdigit())
    if two == 20:
        return f"{one + two}"
    return f"{one + two + 1}" if two == 31 else f"Well, {one} + {two}\n{one} + {two}"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(STRATEGIES, "answering", Answering)
    (tmp_path / "prompts/answering").mkdir(parents=True)
    (tmp_path / "prompts/answering/answer.txt").write_text("$task\n")
    seeds = [
        {
            "id": f"{kind}-{one}-{two}",
            "instruction": f"What is {one} + {two} ?",
            "output": "?",
            "verifier": make(one, two),
        }
        for one, two in PAIRS
        for kind, make in KINDS
    ]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    return {
        "strategy": "answering", "seeds": str(tmp_path / "seeds.jsonl"), "prompts": str(tmp_path / "prompts"), "n": 100,
        "backend": "openai", "openai": {"model": "m"}, "concurrency": 1, "patience": 1000,
    }  # fmt: skip


def run(folder: Path, settings: dict[str, Any], **more: Any) -> Any:
    with Loopback(answer) as server:
        openai = {**settings["openai"], "base_url": server.url}
        return generate(folder, {**settings, "openai": openai, **more})


def test_only_right_answers_become_rows_in_every_kind_of_run(tmp_path: Path, settings: dict[str, Any]) -> None:
    one = run(tmp_path / "one", settings)
    assert one.ending == "exhausted"
    rows = [json.loads(line) for line in one.exported.path.read_text().splitlines()]
    assert len(rows) == 4 * (3 + 1), "all kinds of the right answers, and of those with a sum in the last line: python"
    for row in rows:
        first, second = (int(word) for word in row["instruction"].split() if word.isdigit())
        assert second != 31
        assert row["verifier"]["kind"] == "python" or row["output"] == str(first + second)
    other = run(tmp_path / "other", settings, concurrency=8)
    assert other.exported.path.read_bytes() == one.exported.path.read_bytes()
    assert run(tmp_path / "stopped", settings, budget={"max_requests": 17}).ending == "budget"
    stopped = run(tmp_path / "stopped", settings, budget={"max_requests": None})
    assert stopped.exported.path.read_bytes() == one.exported.path.read_bytes()
    status = selfinstruct("status", tmp_path / "one", "--verify")
    assert status.code == 0, status.output
    assert "wrong_answer" in status.output


def test_explain_shows_what_was_expected_and_found(tmp_path: Path, settings: dict[str, Any]) -> None:
    run(tmp_path / "run", settings)
    page = selfinstruct("explain", tmp_path / "run", "3.0").output  # 11 + 31, number
    assert "candidate 3.0: rejected, wrong_answer" in page
    assert '  verifier: rejected, wrong_answer\n    number: expected 42, found "43"' in page
    page = selfinstruct("explain", tmp_path / "run", "8.0").output  # 11 + 42, all
    assert 'number: "+ 42", expected 53' not in page
    assert 'no_commas: ",", expected no comma' in page
    assert "python: expected 31, found 31" in selfinstruct("explain", tmp_path / "run", "1.0").output

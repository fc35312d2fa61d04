"""Verifiers in whole runs: wrong answers are rejected, and ``explain`` shows what was expected and found."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.api import explain, export, generate, refilter, status, tune
from selfinstruct.errors import LedgerError
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


TESTS = {"kind": "tests", "tests": "assert solve() == 5", "seconds": 0.2}
SLOW = "def solve():\n    while True: pass"
FAST = "def solve(): return 5"


@pytest.fixture
def coding(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run whose answers are code: every other one exceeds its time limit."""
    seeds = [
        {"id": f"code-{number}", "instruction": f"Write solve number {number}", "output": "?", "verifier": TESTS}
        for number in range(4)
    ]
    path = Path(settings["seeds"])
    path.write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    return settings


def code(body: Body) -> str:
    number = int(body["messages"][-1]["content"].split()[-1])
    return f"{SLOW if number % 2 else FAST}\n# {number}"


def generate_code(folder: Path, settings: dict[str, Any], **more: Any) -> Any:
    with Loopback(code) as server:
        openai = {**settings["openai"], "base_url": server.url}
        return generate(folder, {**settings, "openai": openai, **more})


def results(folder: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "run.sqlite")) as ledger:
        return [json.loads(body) for (body,) in ledger.execute("SELECT body FROM executions ORDER BY key")]


def test_the_result_of_code_is_stored_with_the_run_and_never_computed_again(
    tmp_path: Path, coding: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    first = generate_code(folder, coding)
    exported = first.exported.path.read_bytes()
    assert exported.count(b"\n") == 2
    found = sorted(str(result["found"]) for result in results(folder))
    assert found == ["all tests pass"] * 2 + ["the tests: it takes more than 0.2 s"] * 2

    from selfinstruct.verifiers import sandbox

    original = sandbox.run

    def run_no_answer(sources: Any, **more: Any) -> Any:
        assert len(sources) == 1, "tests alone are run to check the seeds; with an answer it would be a second time"
        return original(sources, **more)

    monkeypatch.setattr(sandbox, "run", run_no_answer)
    (folder / "verdicts.sqlite").unlink()
    assert status(folder, verify=True).stats == first.stats
    assert export(folder).path.read_bytes() == exported
    assert explain(folder, "1.0")
    again = generate_code(folder, coding, n=99)
    assert again.exported.path.read_bytes() == exported
    refiltered = refilter(folder, tmp_path / "fork", {})
    assert refiltered.exported.path.read_bytes() == exported
    assert results(tmp_path / "fork") == results(folder)
    assert next(tune(folder, {"filters.keywords": [None]})).rows == 2


def test_a_run_without_code_has_no_table_of_results(tmp_path: Path, settings: dict[str, Any]) -> None:
    seeds = [
        {"id": "one", "instruction": "What is 11 + 20 ?", "output": "?", "verifier": {"kind": "number", "value": 31}}
    ]
    Path(settings["seeds"]).write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    run(tmp_path / "run", settings)
    with closing(sqlite3.connect(tmp_path / "run/run.sqlite")) as ledger:
        assert ledger.execute("SELECT 1 FROM sqlite_master WHERE name = 'executions'").fetchone() is None


def test_a_damaged_result_is_an_error(tmp_path: Path, coding: dict[str, Any]) -> None:
    generate_code(tmp_path / "run", coding)
    with closing(sqlite3.connect(tmp_path / "run/run.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE executions SET body = replace(CAST(body AS TEXT), 'true', 'null')")
    with pytest.raises(LedgerError, match=r"the result of the execution \w+ can't be read \(its checksum is wrong\)"):
        status(tmp_path / "run", verify=True)

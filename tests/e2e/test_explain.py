"""``selfinstruct explain``: how a row came to be, and why a candidate was rejected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.ledger import Reader
from tests.cli import ROOT, run_cli

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(params=["alpaca", "self-instruct"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / request.param, tmp_path / "run")
    return tmp_path / "run"


def explained(run: Path, name: object) -> dict[str, Any]:
    return json.loads(run_cli("explain", run, name, "--json"))


def candidates(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]


def test_a_row_is_explained_with_its_span_in_the_completion(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "alpaca.jsonl").read_text().splitlines()]
    for position, row in enumerate(rows[:4], start=1):
        explanation = explained(run, position)
        assert {key: explanation[key] for key in row} == row
        assert (explanation["row"], explanation["kept"], explanation["reason"]) == (position, True, "")
        last = explanation["steps"][-1]
        assert last["candidate"] == explanation["id"]
        with Reader(run) as reader:
            recorded = reader.outcome(last["request"])
            request = reader.request(last["request"])
        assert recorded is not None
        assert request is not None
        assert last["outcome"] == recorded.outcome.to_json()
        assert [turn["text"] for turn in last["turns"]] == [turn.text for turn in request.turns]
        start, end = last["span"]
        span_text = last["outcome"]["choices"][0][0][start:end]
        assert row["output"].split()[0] in span_text
        parents = [step["parent"] for step in explanation["steps"]]
        assert parents == [None, *(step["request"] for step in explanation["steps"][:-1])]


def test_verdicts_equal_the_candidates_export(run: Path) -> None:
    exported = candidates(run)
    rejected, kept = ([each for each in exported if each["kept"] is flag] for flag in (False, True))
    assert rejected
    assert kept
    for candidate in [*rejected[:4], *kept[:2]]:
        explanation = explained(run, candidate["id"])
        assert (explanation["kept"], explanation["reason"]) == (candidate["kept"], candidate["reason"])
        last = explanation["steps"][-1]
        verdicts = [{**verdict, "nearest": (verdict["nearest"] or {}).get("id")} for verdict in last["verdicts"]]
        assert verdicts == [{key: verdict[key] for key in verdicts[0]} for verdict in candidate["verdicts"]]
        assert [task["id"] for task in last["shown"]] == candidate["demonstrations"]


def test_common_words_are_marked_in_the_nearest_text(run: Path) -> None:
    explanation = explained(run, 1)
    verdicts = [verdict for step in explanation["steps"] for verdict in step["verdicts"]]
    near = next(verdict["nearest"] for verdict in verdicts if verdict["filter"] == "rouge")
    words = [near["text"][start:end].lower() for start, end in near["common"]]
    assert words
    remaining = iter(explanation["instruction"].lower().replace(",", " ").replace(":", " ").replace(".", " ").split())
    assert all(word in remaining for word in words), "a common subsequence"
    page = run_cli("explain", run, 1)
    assert f"nearest, {near['id']}: " in page
    assert f"⟦{near['text'][slice(*near['common'][0])]}⟧" in page


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0", "has no row 0: its rows are 1 to 12"),
        ("13", "has no row 13"),
        ("0.99", "candidates, and 0.99 is not among them"),
        ("9" * 5000, "neither a row's number (5) nor a candidate's id (17.2)"),
        ("9" * 30 + ".0", "neither a row's number (5) nor a candidate's id (17.2)"),
        ("99999.0", "request 99999 was never sent"),
        ("first", "'first' is neither a row's number (5) nor a candidate's id (17.2)"),
    ],
)
def test_an_unknown_row_or_candidate_is_reported_with_the_reason(run: Path, name: str, message: str) -> None:
    assert message in run_cli("explain", run, name, code=2)


def test_marks_in_a_text_are_escaped() -> None:
    from selfinstruct.cli.explain import _marked

    assert _marked("a ⟦b⟧ c", ((2, 5),)) == "a ⟦⟦⟦b⟧⟧⟧ c"

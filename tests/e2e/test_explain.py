"""``selfinstruct explain``: the way of a row, and of what was rejected."""

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


def test_every_row_is_explained_with_the_place_in_the_answer_that_it_came_from(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "alpaca.jsonl").read_text().splitlines()]
    for place, row in enumerate(rows[:4], start=1):
        found = explained(run, place)
        assert {key: found[key] for key in row} == row
        assert (found["row"], found["kept"], found["reason"]) == (place, True, "")
        last = found["steps"][-1]
        assert last["candidate"] == found["id"]
        with Reader(run) as reader:
            recorded = reader.outcome(last["request"])
            request = reader.request(last["request"])
        assert recorded is not None
        assert request is not None
        assert last["outcome"] == recorded.outcome.to_json()
        assert [turn["text"] for turn in last["turns"]] == [turn.text for turn in request.turns]
        start, end = last["span"]
        part = last["outcome"]["choices"][0][0][start:end]
        assert row["output"].split()[0] in part
        parents = [step["parent"] for step in found["steps"]]
        assert parents == [None, *(step["request"] for step in found["steps"][:-1])]


def test_every_candidate_has_the_verdicts_of_the_list_of_candidates(run: Path) -> None:
    listed = candidates(run)
    assert {one["kept"] for one in listed} == {True, False}
    some = [one for one in listed if not one["kept"]][:4] + [one for one in listed if one["kept"]][:2]
    for one in some:
        found = explained(run, one["id"])
        assert (found["kept"], found["reason"]) == (one["kept"], one["reason"])
        ours = [
            {**verdict, "nearest": (verdict["nearest"] or {}).get("id")} for verdict in found["steps"][-1]["verdicts"]
        ]
        assert ours == [{key: verdict[key] for key in ours[0]} for verdict in one["verdicts"]]
        shown = [task["id"] for task in found["steps"][-1]["shown"]]
        assert shown == one["demonstrations"]


def test_what_a_neighbour_shares_is_marked_in_its_text(run: Path) -> None:
    found = explained(run, 1)
    near = next(one["nearest"] for step in found["steps"] for one in step["verdicts"] if one["filter"] == "rouge")
    words = [near["text"][start:end].lower() for start, end in near["common"]]
    assert words
    left = iter(found["instruction"].lower().replace(",", " ").replace(":", " ").replace(".", " ").split())
    assert all(word in left for word in words), "a common subsequence"
    page = run_cli("explain", run, 1)
    assert f"nearest, {near['id']}: " in page
    assert f"⟦{near['text'][slice(*near['common'][0])]}⟧" in page


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("0", "has no row 0: its rows are 1 to 12"),
        ("13", "has no row 13"),
        ("0.99", "candidates, and 0.99 is none of them"),
        ("9" * 5000, "neither a row's number (5) nor a candidate's id (17.2)"),
        ("9" * 30 + ".0", "neither a row's number (5) nor a candidate's id (17.2)"),
        ("99999.0", "request 99999 is not judged, nor was it ever sent"),
        ("first", "'first' is neither a row's number (5) nor a candidate's id (17.2)"),
    ],
)
def test_what_is_not_there_is_told_in_a_sentence(run: Path, name: str, says: str) -> None:
    assert says in run_cli("explain", run, name, code=2)


def test_marks_in_a_text_are_not_taken_for_ours() -> None:
    from selfinstruct.cli.explain import _marked

    assert _marked("a ⟦b⟧ c", ((2, 5),)) == "a ⟦⟦⟦b⟧⟧⟧ c"

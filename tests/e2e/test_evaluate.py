"""Evaluations from the command line: asked once, resumed, scored, explained and compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import DataError, UsageError, compare, diff, evaluate, explain, export, status
from selfinstruct.ledger import Reader
from tests.cli import run_cli
from tests.loopback import Fault, Loopback, Reply

Start = Callable[..., Loopback]
ITEMS = 12


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Items that ask for their own number, four of them in one cluster."""
    rows = [
        {"id": f"n{n}", "instruction": f"Write {n}.", "verifier": {"kind": "number", "value": n},
         **({"cluster": "first"} if n < 4 else {})}
        for n in range(ITEMS)
    ]  # fmt: skip
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def number(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].removeprefix("Write ").rstrip("."))


def right_below(limit: int) -> Callable[[dict[str, Any]], str]:
    return lambda body: str(number(body) + (number(body) >= limit))


def settings(server: Loopback, **more: Any) -> dict[str, Any]:
    return {"backend": "openai", "openai": {"model": "m", "base_url": server.url}, **more}


def words(server: Loopback, *more: object) -> list[object]:
    return ["--backend", "openai", "--model", "m", "--base-url", server.url, "-q", *more]


def value(run: Path, metric: str = "verified") -> float:
    return json.loads((run / "scores.json").read_text())["suites"]["verified"]["metrics"][metric]["value"]


def test_every_item_is_asked_once_greedily_and_scored(suite: Path, tmp_path: Path, loopback: Start) -> None:
    server, run = loopback(right_below(9)), tmp_path / "run"
    printed = run_cli("evaluate", run, "--suite", f"verified={suite}", *words(server))
    assert "75.0%" in printed
    assert "clusters" in printed
    assert sorted(number(arrived.body) for arrived in server.arrived) == list(range(ITEMS))
    assert {(arrived.body["temperature"], len(arrived.body["messages"])) for arrived in server.arrived} == {(0, 1)}
    again = json.loads(run_cli("evaluate", run, "--json"))
    assert (again["succeeded"], again["missing"], again["requests"]) == (True, 0, ITEMS)
    metric = again["suites"]["verified"]["metrics"]["verified"]
    assert metric["value"] == value(run) == 0.75
    assert metric["interval"][0] < 0.75 < metric["interval"][1]
    assert (metric["values"], metric["clusters"]) == (ITEMS, 9)
    assert len(server.arrived) == ITEMS
    assert status(run).complete


def test_the_command_and_the_function_give_the_same_scores(suite: Path, tmp_path: Path, loopback: Start) -> None:
    server = loopback(right_below(5))
    result = evaluate(tmp_path / "python", [f"verified={suite}"], settings(server, evaluate={"limit": 7}))
    run_cli("evaluate", tmp_path / "command", "--suite", f"verified={suite}", "--limit", 7, *words(server))
    first, second = ((tmp_path / name / "scores.json").read_bytes() for name in ("python", "command"))
    assert first == second
    assert result.succeeded
    assert result.scores.digest == json.loads(first)["digest"]
    assert len(result.scores.suites[0].items) == 7


def test_a_run_that_stops_at_its_budget_says_what_is_missing_and_continues(
    suite: Path, tmp_path: Path, loopback: Start
) -> None:
    server, run = loopback(right_below(9)), tmp_path / "run"
    options = ["--suite", f"verified={suite}", "--max-requests", 5, *words(server)]
    printed = run_cli("evaluate", run, *options, code=1)
    assert "stopped at the budget" in printed
    assert "incomplete, 7 of 12 items have no outcome yet" in printed
    assert json.loads((run / "scores.json").read_text())["missing"] == 7
    explanation = run_cli("explain", run, "verified/n11", code=2)
    assert "has no outcome yet" in explanation
    other = tmp_path / "whole"
    run_cli("evaluate", other, "--suite", f"verified={suite}", *words(server))
    assert "is incomplete: 7 items without an outcome are left out" in run_cli("compare", run, other)
    asked = len(server.arrived)
    run_cli("evaluate", run, "--max-requests", 100)
    assert len(server.arrived) == asked + 7
    assert (run / "scores.json").read_bytes() == (other / "scores.json").read_bytes()


def test_several_servers_share_the_items(suite: Path, tmp_path: Path, loopback: Start) -> None:
    servers = [loopback(right_below(9)) for _ in range(2)]
    urls = [word for server in servers for word in ("--base-url", server.url)]
    run_cli("evaluate", tmp_path / "run", "--suite", f"verified={suite}", "--backend", "openai", "--model", "m", "-q",
            *urls)  # fmt: skip
    assert sum(len(server.arrived) for server in servers) == ITEMS
    assert value(tmp_path / "run") == 0.75


def test_answers_that_are_cut_empty_or_refused_count(suite: Path, tmp_path: Path, loopback: Start) -> None:
    def answer(body: dict[str, Any]) -> str | Reply:
        return {0: "", 1: Reply("1", "length"), 2: Reply("", "length"), 3: "<think>3"}.get(
            number(body), str(number(body))
        )

    def fault(_: int, body: dict[str, Any]) -> Fault | None:
        return Fault(400) if number(body) == 5 else None

    run = tmp_path / "run"
    printed = run_cli("evaluate", run, "--suite", f"verified={suite}", *words(loopback(answer, fault)))
    assert "4 items without an answer count 0" in printed
    assert "1 answer cut before the end" in printed
    assert value(run) == pytest.approx(8 / 12)
    items = json.loads((run / "scores.json").read_text())["items"]
    reasons = {name: item["reason"] for name, item in items.items() if item["reason"]}
    assert reasons["verified/n0"] == "empty"
    assert reasons["verified/n5"] == "bad_request"
    assert items["verified/n1"] == {"cut": True, "reason": "", "values": {"verified": [1.0]}}
    assert explain(run, "verified/n5").failed_requirements == ("no answer: bad_request",)
    assert "failed, bad_request" in run_cli("explain", run, "verified/n5")


def test_a_model_that_answers_nothing_scores_0_with_the_reason(tmp_path: Path, loopback: Start) -> None:
    rows = [{"instruction": f"Write {n}.", "verifier": {"kind": "no_commas"}} for n in range(230)]
    (tmp_path / "many.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    server, run = loopback(lambda body: ""), tmp_path / "run"
    printed = run_cli("evaluate", run, "--suite", f"verified={tmp_path / 'many.jsonl'}", *words(server))
    assert "0.0%" in printed
    assert "230 items without an answer count 0: empty 230" in printed
    assert "nan" not in printed.lower()
    assert len(server.arrived) == 230
    assert status(run).complete


def test_an_item_is_explained_with_what_its_answer_fails(suite: Path, tmp_path: Path, loopback: Start) -> None:
    run = tmp_path / "run"
    run_cli("evaluate", run, "--suite", f"verified={suite}", *words(loopback(right_below(9))))
    printed = run_cli("explain", run, "verified/n10")
    assert re.search(r"the item fails:\n  number: expected 10.*, found .*11", printed)
    assert "Write 10." in printed
    assert "meets every requirement" in run_cli("explain", run, "verified/n3")
    assert "has no item 'verified/n1O'" in run_cli("explain", run, "verified/n1O", code=2)
    assert json.loads(run_cli("explain", run, 1, "--json"))["failed_requirements"] == []


def test_a_wrong_row_is_named_before_anything_is_sent(suite: Path, tmp_path: Path, loopback: Start) -> None:
    with suite.open("a") as file:
        file.write('{"instruction": "x"}\n')
    server = loopback()
    printed = run_cli("evaluate", tmp_path / "run", "--suite", f"verified={suite}", *words(server), code=2)
    assert f"{suite}:{ITEMS + 1}: 'verifier' is missing" in printed
    with pytest.raises(DataError):
        evaluate(tmp_path / "run", [f"verified={suite}"], settings(server))
    assert server.arrived == []
    assert not (tmp_path / "run").exists()


def test_scores_need_the_ledger_alone(suite: Path, tmp_path: Path, loopback: Start) -> None:
    server, run = loopback(right_below(9)), tmp_path / "run"
    run_cli("evaluate", run, "--suite", f"verified={suite}", *words(server))
    before = (run / "scores.json").read_bytes()
    suite.unlink()
    (run / "scores.json").unlink()
    run_cli("evaluate", run)
    assert (run / "scores.json").read_bytes() == before
    assert len(server.arrived) == ITEMS


def test_another_suite_or_limit_is_another_run(suite: Path, tmp_path: Path, loopback: Start) -> None:
    server, run = loopback(right_below(9)), tmp_path / "run"
    run_cli("evaluate", run, "--suite", f"verified={suite}", *words(server))
    assert "limit" in run_cli("evaluate", run, "--limit", 3, code=1)
    original = suite.read_text()
    suite.write_text(original.replace("Write 7.", "Write 8."))
    assert "suites/0000-verified" in run_cli("evaluate", run, "--suite", f"verified={suite}", code=1)
    moved = tmp_path / "moved.jsonl"
    moved.write_text(original)
    run_cli("evaluate", run, "--suite", f"verified={moved}")  # the same content in another place


def test_settings_of_other_runs_are_refused(suite: Path, tmp_path: Path, loopback: Start) -> None:
    server = loopback()
    for more, says in (
        ((), "no suite"),
        (("--suite", f"verified={suite}", "--set", "seeds=x.jsonl"), "seeds"),
        (("--suite", f"verified={suite}", "--set", "quality.best_of=2"), "quality"),
        (("--suite", f"verifed={suite}"), "did you mean"),
    ):
        assert says in run_cli("evaluate", tmp_path / "run", *more, *words(server), code=2)
    assert server.arrived == []


def test_runs_are_compared_item_by_item(suite: Path, tmp_path: Path, loopback: Start) -> None:
    runs = [tmp_path / name for name in ("a", "b", "c")]
    for run, limit in zip(runs, (3, 12, 3), strict=True):
        run_cli("evaluate", run, "--suite", f"verified={suite}", *words(loopback(right_below(limit))))
    printed = run_cli("compare", runs[0], runs[1])
    assert "higher" in printed
    assert "+75.0 pp" in printed
    assert "items would have shown a true difference of +5.0 pp (power 80%)" in printed
    both = compare(*runs)
    assert [each.verdict for each in both.differences] == ["higher", "tied"]
    assert both.differences[0].adjusted_p_value == 2 * both.differences[0].difference.p_value
    assert compare(runs[1], runs[0]).differences[0].verdict == "lower"
    assert compare(*runs[:2], detect=0.2).differences[0].items_to_detect < both.differences[0].items_to_detect
    found = json.loads(run_cli("compare", *runs, "--json"))["differences"]
    assert [each["items_to_detect"] for each in found] == [each.items_to_detect for each in both.differences]
    assert "Holm" in run_cli("compare", *runs)
    assert (diff(*runs[:2]).common, len(diff(*runs[:2]).lost)) == (3, 9)


def test_runs_over_other_items_are_compared_on_request(suite: Path, tmp_path: Path, loopback: Start) -> None:
    server = loopback(right_below(6))
    run_cli("evaluate", tmp_path / "all", "--suite", f"verified={suite}", *words(server))
    run_cli("evaluate", tmp_path / "some", "--suite", f"verified={suite}", "--limit", 5, *words(server))
    with pytest.raises(UsageError, match=r"7 are in one of them or differ .* 5 are the same; --shared"):
        compare(tmp_path / "all", tmp_path / "some")
    shared = compare(tmp_path / "all", tmp_path / "some", shared=True)
    assert shared.differences[0].items == 5
    assert "5 items are shared; 7 others" in shared.warnings[0]
    with pytest.raises(UsageError, match="at least two"):
        compare(tmp_path / "all")


def test_a_run_of_another_strategy_has_no_scores(tmp_path: Path, loopback: Start) -> None:
    golden = Path(__file__).parent.parent / "golden"
    assert "has no scores" in run_cli("compare", golden / "alpaca", golden / "alpaca", code=2)


def test_an_answer_knows_its_item_in_the_dataset(suite: Path, tmp_path: Path, loopback: Start) -> None:
    run = tmp_path / "run"
    run_cli("evaluate", run, "--suite", f"verified={suite}", *words(loopback(right_below(9))))
    rows = [json.loads(line) for line in export(run).path.read_text().splitlines()]
    assert [row["item"] for row in rows] == [f"verified/n{n}" for n in range(ITEMS)]
    with Reader(run) as reader:
        assert reader.answers() == ITEMS


def test_training_rows_that_reveal_items_are_recorded_warned_about_and_filtered(
    tmp_path: Path, loopback: Start
) -> None:
    question = "Describe in plain words how a lighthouse keeper spends the long nights of winter."
    rows = [{"id": "seen", "instruction": question, "verifier": {"kind": "no_commas"}},
            {"id": "new", "instruction": "List five rivers.", "verifier": {"kind": "no_commas"}}]  # fmt: skip
    suite, data = tmp_path / "suite.jsonl", tmp_path / "data.jsonl"
    suite.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    trained = [{"instruction": f"Please: {question}", "output": "He reads."}, {"instruction": "Add 1.", "output": "2"}]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in trained))
    server, run, clean = loopback(lambda body: "x"), tmp_path / "run", tmp_path / "clean"
    printed = run_cli("evaluate", run, "--suite", f"verified={suite}", "--trained-on", data, *words(server))
    assert "contamination: 1 of 2 training rows reveal 1 item" in printed
    result = evaluate(clean, [f"verified={suite}"], settings(server), trained_on=data)
    assert result.contamination is not None
    assert result.contamination.items == ("verified/seen",)
    assert json.loads(run_cli("evaluate", run, "--json"))["contamination"]["items"] == ["verified/seen"]
    assert "reveals items: 1 (verified/seen)" in run_cli("compare", run, clean)
    run_cli("filter", data, "-o", tmp_path / "unseen.jsonl", "--suite", f"verified={suite}", "-q")
    assert json.loads((tmp_path / "unseen.jsonl").read_text()) == trained[1]

"""Runs that answer a file of instructions, and the meaning of ``--from`` for each strategy."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.common.rng import Rng
from tests.cli import dataset, run_cli
from tests.loopback import Loopback, Reply

VERIFIER = {"kind": "text", "value": "right"}


def model(body: Mapping[str, Any]) -> Reply | str:
    """Answers what it is asked; some answers are cut, some lack their end."""
    *_, asked = (message["content"] for message in body["messages"])
    flaw = Rng("flaw", asked).random()
    if flaw < 0.1:
        return Reply("cut sh", "length")
    if flaw < 0.2:
        return "thinking only"
    system = body["messages"][0]["content"][:9] if len(body["messages"]) > 1 else "nobody"
    return f"<think>as {system}</think>To {asked.splitlines()[0]}: yes."


def tasks(path: Path, count: int = 40) -> Path:
    rows = [{"instruction": f"Question {number}", "input": f"about {number % 3}"} for number in range(count)]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def respond(run: Path, server: Loopback, *more: object, code: int = 0) -> str:
    return run_cli("respond", run, "--backend", "openai", "--model", "m", "--base-url", server.url, *more, code=code)


def test_order_and_stops_change_nothing_and_a_run_continues_without_its_file(tmp_path: Path) -> None:
    options = ["--set", "respond.systems=builtin", "--set", "respond.reasoning=true"]
    path = tasks(tmp_path / "tasks.jsonl")
    with Loopback(model) as server:
        whole = respond(tmp_path / "a", server, "--from", path, *options, "--concurrency", 1)
        respond(tmp_path / "b", server, "--from", path, *options, "--concurrency", 8)
        respond(tmp_path / "c", server, "--from", path, *options, "--max-requests", 17, code=1)
        path.unlink()
        respond(tmp_path / "c", server, "--max-requests", 100)
        assert len(server.arrived) == 120
    assert "every task was asked" in whole
    rows = [json.loads(line) for line in dataset(tmp_path / "a", "messages").splitlines()]
    assert len({dataset(tmp_path / run, "messages") for run in "abc"}) == 1
    status = json.loads(run_cli("status", tmp_path / "a", "--json"))
    assert (status["target"], status["requests"], status["rows"]) == (40, 40, len(rows))
    assert set(status["rejected"]) == {"truncated", "no_answer"}
    assert len(rows) + sum(status["rejected"].values()) == 40
    for row in rows:
        system, user, assistant = (message["content"] for message in row["messages"])
        question = user.splitlines()[0]
        assert user.startswith(f"{question}\n\nabout ")
        assert (row["reasoning"], assistant) == (f"as {system[:9].strip()}", f"To {question}: yes.")
    assert len({row["messages"][0]["content"] for row in rows}) > 5
    page = run_cli("explain", tmp_path / "a", 1)
    for part in ("    row_", "system (from respond/system.txt)", "⟦To Question", "answer: kept"):
        assert part in page


def test_tasks_come_from_a_finished_run_and_verifiers_are_checked(tmp_path: Path) -> None:
    rows = [
        {"instruction": "A", "verifier": VERIFIER},
        {"instruction": "B"},
        {"instruction": "C", "verifier": VERIFIER},
    ]
    path = tmp_path / "tasks.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in rows).encode()))

    def answer(body: Mapping[str, Any]) -> str:
        return "Right." if body["messages"][0]["content"] == "A" else "wrong"

    with Loopback(answer) as server:
        respond(tmp_path / "a", server, "--from", path)
        told = respond(tmp_path / "b", server, "--from", tmp_path / "a")
        few = respond(tmp_path / "few", server, "--from", path, "-n", 1)
        many = respond(tmp_path / "many", server, "--from", path, "-n", 9, code=1)
    kept = [{"verifier": VERIFIER, "instruction": "A", "input": "", "output": "Right."},
            {"instruction": "B", "input": "", "output": "wrong"}]  # fmt: skip
    assert [json.loads(line) for line in dataset(tmp_path / "a").splitlines()] == kept
    assert "wrong_answer" in run_cli("status", tmp_path / "a")
    assert dataset(tmp_path / "b") == dataset(tmp_path / "a")
    assert "2 of 2 rows" in told
    assert "1 of 1 row" in few
    assert "nothing more to ask" in many


def test_a_run_that_has_asked_for_every_task_is_complete_and_forecasts_nothing(tmp_path: Path) -> None:
    def answer(body: Mapping[str, Any]) -> Reply | str:
        return Reply("cut", "length") if "3" in body["messages"][0]["content"] else "Fine."

    run = tmp_path / "a"
    with Loopback(answer) as server:
        respond(run, server, "--from", tasks(tmp_path / "tasks.jsonl", 5))
        page = run_cli("status", run)
        assert "4 of 5 rows, complete: every task was asked" in page
        assert "tokens to go" not in page
        found = json.loads(run_cli("status", run, "--json"))
        assert (found["complete"], found["exhausted"], found["rows"]) == (True, True, 4)
        more = respond(run, server, "-n", 9, code=1)
        assert "nothing more to ask" in more
        page = run_cli("status", run, "--watch")
        assert "4 of 9 rows, not complete: the strategy has nothing more to ask" in page
        assert "tokens to go" not in page
        assert len(server.arrived) == 5
    respond(run, server, "-n", 5)  # nothing is left to ask: no server is needed


def test_tasks_of_a_mixed_run_are_named_by_from(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"Describe the town {name}."}) + "\n" for name in "ABCD"))
    entries = "strategies=[{name: respond}, {name: alpaca}]"
    with Loopback(lambda body: "Fine.") as server:
        backend = ("--backend", "openai", "--model", "m", "--base-url", server.url)
        said = run_cli("generate", tmp_path / "a", "--set", entries, "--from", path, "-n", 9, *backend, code=1)
        # alpaca can show none of them: they have no answers.
        assert {one.body["messages"][-1]["content"][:17] for one in server.arrived} == {"Describe the town"}
    assert "nothing more to ask" in said
    assert len(dataset(tmp_path / "a").splitlines()) == 4


def test_from_names_tasks_or_a_run_to_replay_as_the_strategy_requires(tmp_path: Path) -> None:
    path = tasks(tmp_path / "tasks.jsonl", 3)
    with Loopback(lambda body: "Fine.") as server:
        respond(tmp_path / "a", server, "--from", path)
        backend = ("--backend", "openai", "--model", "m", "--base-url", server.url)
        run_cli("generate", tmp_path / "b", "--strategy", "respond", "--from", path, *backend)
        sent = len(server.arrived)
        run_cli("generate", tmp_path / "c", "--from", tmp_path / "a")
        run_cli("respond", tmp_path / "d", "--backend", "replay", "--from", tmp_path / "a")
        assert len(server.arrived) == sent == 6
        assert dataset(tmp_path / "a") == dataset(tmp_path / "b") == dataset(tmp_path / "c") == dataset(tmp_path / "d")
        said = run_cli("generate", tmp_path / "e", "--strategy", "alpaca", "--from", path, *backend, code=2)
        assert "--from goes with --backend replay, or with --strategy " in said
        assert f"alpaca writes tasks of its own: to show it the ones in {path} as examples, use --seeds {path}" in said
        assert "respond" in said
        assert "there is neither a file nor a run" in run_cli("generate", tmp_path / "e", "--from", "nowhere", code=2)
        said = run_cli("generate", tmp_path / "e", "--backend", "replay", "--from", path, code=2)
        assert "holds no run, and the replay backend answers from one" in said
        assert not (tmp_path / "e").exists()
        said = respond(tmp_path / "a", server, "--from", tasks(tmp_path / "others.jsonl", 2), code=1)
        assert "seeds removed: row_3" in said


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "which tasks are to be answered? Name a file or a run: --from PATH"),
        (["--from", "{tmp}/nowhere.jsonl"], "can't read {tmp}/nowhere.jsonl: No such file"),
        (["--from", "{tmp}/bad.jsonl"], "{tmp}/bad.jsonl:2: no task: none of instruction"),
        (["--from", "{tmp}/bad.jsonl", "--seeds", "x"], "leave one of them out"),
        (["--from", "{tmp}/bad.jsonl", "--set", "respond.systems=nowhere"], "can't read nowhere"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(tmp_path: Path, args: list[str], says: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"instruction": "x"}\n{"task": "y"}\n')
    filled = [one.replace("{tmp}", str(tmp_path)) for one in args]
    assert says.replace("{tmp}", str(tmp_path)) in run_cli("respond", tmp_path / "run", *filled, code=2)
    assert not (tmp_path / "run").exists()


SIMILAR = (
    {"instruction": "Name the longest river of France."},
    {"instruction": "Translate to German.", "input": "good morning"},
    {"instruction": "Translate to German.", "input": "see you later my friend"},
    {"instruction": "name the longest river of FRANCE!"},
    {"instruction": "Explain how a bicycle stays upright."},
)
NOVELTY = ("--set", "filters.novelty.threshold=0.7")


def similar_tasks(folder: Path) -> Path:
    path = folder / "similar.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in SIMILAR))
    return path


def test_novelty_compares_a_task_with_the_tasks_before_it_and_asks_no_repetition(tmp_path: Path) -> None:
    with Loopback(lambda body: "Fine.") as server:
        said = respond(tmp_path / "a", server, "--from", similar_tasks(tmp_path), *NOVELTY, "--concurrency", 1)
        assert len(server.arrived) == 4
        respond(tmp_path / "b", server, "--from", tmp_path / "similar.jsonl", *NOVELTY, "--max-requests", 2, code=1)
        respond(tmp_path / "b", server, "--max-requests", 100)
        assert len(server.arrived) == 8
    assert "not asked: 1 task that resembles an earlier one (filters.novelty): row_4 (row_1, 1.00)" in said
    assert "4 of 5 rows" in said
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")
    assert [json.loads(line)["instruction"] for line in dataset(tmp_path / "a").splitlines()] == [
        SIMILAR[index]["instruction"] for index in (0, 1, 2, 4)
    ]
    status = json.loads(run_cli("status", tmp_path / "a", "--json", "--verify"))
    assert (status["rows"], status["complete"], status["rejected"]) == (4, True, {})
    assert status["repeated_tasks"] == [{"task": "row_4", "nearest": "row_1", "score": 1.0}]
    assert "not asked        1 task" in run_cli("status", tmp_path / "a")


def test_novelty_compares_tasks_within_their_context(tmp_path: Path) -> None:
    asked = {"question": "Which river is named in the text?", "context": "The Rhine flows north."}
    rows = (
        asked,
        {**asked, "context": "The Elbe flows east."},
        {**asked, "system": "Be brief."},
        {**asked, "history": [["Hello", "Hi"]]},
        {**asked, "question": "Which river is named in this text?"},
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Loopback(lambda body: "Fine.") as server:
        said = respond(tmp_path / "a", server, "--from", tmp_path / "rows.jsonl", *NOVELTY)
        assert len(server.arrived) == 4
    assert "not asked: 1 task that resembles an earlier one (filters.novelty): row_5 (row_1, 0.86)" in said


def test_tune_and_refilter_show_what_novelty_keeps_of_answered_tasks(tmp_path: Path) -> None:
    with Loopback(lambda body: "Fine.") as server:
        respond(tmp_path / "all", server, "--from", similar_tasks(tmp_path))
        respond(
            tmp_path / "novel", server, "--from", tmp_path / "similar.jsonl", "--set", "filters.novelty.threshold=0.1"
        )
    grid = ("--grid", "filters.novelty.threshold=0.3,1.0", "--json")
    tuned = [json.loads(run_cli("tune", tmp_path / name, *grid))["results"] for name in ("all", "novel")]
    assert [(result["rows"], result["waiting"]) for result in tuned[0]] == [(4, 0), (5, 0)]
    assert [(result["rows"], result["waiting"]) for result in tuned[1]] == [(4, 0), (4, 1)]
    said = run_cli("refilter", tmp_path / "all", "-o", tmp_path / "strict", *NOVELTY)
    assert "rows: 4 kept, 1 lost (similar 1), 0 gained" in said
    page = run_cli("explain", tmp_path / "strict", "3.0")
    assert "similar" in page
    assert "row_1" in page

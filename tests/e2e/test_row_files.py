"""Rows of other people through whole commands: nothing in them is dropped in silence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli import dataset, run_cli
from tests.loopback import Loopback

MAIL = "Write to ann@firm.io today."
LONG = "You are the assistant of a large library and answer questions about books, opening hours and fees. " * 4


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def kept(path: Path, *options: object, code: int = 0) -> tuple[list[int], str]:
    """Return the numbers of the rows that ``filter`` keeps, from 0, and its output."""
    out = path.with_name("out.jsonl")
    output = run_cli("filter", path, "-o", out, *options, code=code)
    lines = path.read_bytes().splitlines()
    return [lines.index(line) for line in out.read_bytes().splitlines()], output


PLACES: dict[str, dict[str, Any]] = {
    "system": {"instruction": "Name a river.", "output": "Oder.", "system": MAIL},
    "history": {"instruction": "Name a river.", "output": "Oder.", "history": [["Hello", MAIL]]},
    "chosen": {"prompt": "Name a river.", "chosen": MAIL, "rejected": "Oder."},
    "rejected": {"prompt": "Name a river.", "chosen": "Oder.", "rejected": [{"role": "assistant", "content": MAIL}]},
    "reasoning": {"instruction": "Name a river.", "output": "Oder.", "reasoning": MAIL},
    "context": {"question": "Name a river.", "answer": "Oder.", "context": MAIL},
    "tools": {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"name": "f", "description": MAIL}]},
    "tool call": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [{"x": MAIL}]}]},
    "JSON in a string": {"messages": json.dumps([{"role": "user", "content": "Hi:\nann\u0040firm.io"}])},
    "escapes in a string": {"messages": '[{"role": "user", "content": "Hi ann\\u0040firm.io"}]'},
    "another field": {"instruction": "Name a river.", "output": "Oder.", "meta": {"author": ["x", MAIL]}},
    "seed instances": {"instruction": "Go.", "instances": [{"input": MAIL, "output": "x"}]},
}


def test_personal_data_is_seen_in_every_field(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", *PLACES.values(), {"instruction": "Name a river.", "output": "Oder."})
    assert kept(path, "--pii", "drop")[0] == [len(PLACES)]
    out = tmp_path / "redacted.jsonl"
    output = run_cli("filter", path, "-o", out, "--pii", "redact")
    assert f"redacted  {len(PLACES)}" in output
    assert "firm.io" not in out.read_text()
    assert out.read_text().count("[EMAIL]") == len(PLACES)


def test_near_duplicates_include_context_system_prompt_and_earlier_rounds(tmp_path: Path) -> None:
    question = {"question": "Which of the two is older, and by how many years?", "answer": "The first, by ten years."}
    first, second = "The North Tower dates from 1402.", "A bridge was opened there in 1931."
    rows = [
        {**question, "context": first * 3},
        {**question, "context": second * 3},
        {**question, "context": first * 3},  # a duplicate of the first row
        {**question, "system_prompt": "Answer as a pirate."},
        {**question, "system_prompt": "Answer as a child of seven."},
        {**question, "system_prompt": "Answer as a pirate!"},  # nearly the fourth
        {**question, "history": [["I saw the lighthouse and the mill of Nyborg.", "Both stand."]]},
        {**question, "history": [["My uncle compares two cathedrals in Spain.", "Go on."]]},
        {"question": "When does the reading room open?", "answer": "At nine.", "system": LONG},
        {"question": "What does a new card cost?", "answer": "Five euros.", "system": LONG},
        {"question": "What does a new card cost?", "answer": "Five euros!", "system": LONG + "Be kind."},
    ]
    path = write(tmp_path / "rows.jsonl", *rows)
    assert kept(path, "--minhash")[0] == kept(path)[0] == [0, 1, 3, 4, 6, 7, 8, 9]


def test_questions_about_one_long_passage_are_no_near_duplicates(tmp_path: Path) -> None:
    asked = ["Who built the mill?", "When did the bridge open?", "Why was the tower sold?"]
    rows = [{"question": text, "answer": f"See line {number}.", "context": LONG} for number, text in enumerate(asked)]
    rows.append({"question": "How high is the mast?", "answer": "Ten metres.", "history": [[LONG, "I see."]]})
    rows.append({"question": "What is it made of?", "answer": "Oak.", "history": [[LONG, "I see."]]})
    assert kept(write(tmp_path / "rows.jsonl", *rows), "--minhash")[0] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("option", ["--rouge", "--minhash"])
def test_a_blank_text_is_no_duplicate(option: str, tmp_path: Path) -> None:
    rows = [{"instruction": "", "input": " ", "output": ""}] * 3 + [{"instruction": "Name a river.", "output": "Oder."}]
    numbers, output = kept(write(tmp_path / "rows.jsonl", *rows), option)
    assert numbers == [3]
    assert [line.split() for line in output.splitlines()][-1][1:] == ["nothing_to_judge", "3"]


def test_rows_whose_parts_have_other_keys_are_told_apart(tmp_path: Path) -> None:
    def row(key: str, number: int) -> dict[str, Any]:
        text = f"Describe item {number} of {number * 7919 % 1000} in the house of {number * 104729 % 997}"
        return {"messages": [{"role": "user", "content": [{"type": "text", key: text}]}]}

    rows = [row(("value", "text", "content")[number % 3], number) for number in range(120)]
    rows[50] = {"messages": json.dumps(rows[50]["messages"])}
    rows[51] = {"messages": [{"role": "user", "content": [{"type": "text", "body": "x"}]}]}
    path = write(tmp_path / "rows.jsonl", *rows)
    numbers, output = kept(path, "--rouge", "0.99", code=1)
    assert numbers == [number for number in range(120) if number != 51]
    assert (
        f"{path}:52: message 1 of 'messages': a part of type text in 'content' holds no text that can be read" in output
    )


def test_an_unreadable_answer_matters_only_where_it_is_judged(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"instruction": "Count to 42.", "output": 42})
    assert kept(path)[0] == kept(path, "--minhash", "--pii", "drop")[0] == [0]
    output = run_cli("filter", path, "-o", tmp_path / "out.jsonl", "--refusals", code=2)
    assert f"{path}:1: 'output' must be a string, not int" in output
    with Loopback(lambda _: "Forty-two.") as server:
        options = ["--backend", "openai", "--model", "m", "--base-url", server.url]
        run_cli("respond", tmp_path / "run", "--from", path, *options)
    assert json.loads(dataset(tmp_path / "run")) == {"instruction": "Count to 42.", "input": "", "output": "Forty-two."}


def test_one_bad_row_is_skipped_and_counted_by_every_command(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Tell story {number} of {number * 7919 % 1000}.", "output": "Once."} for number in range(99)
    ]
    path = write(tmp_path / "rows.jsonl", *rows[:40], {"instruction": ["a list"], "output": "x"}, *rows[40:])
    where = f"{path}:41: 'instruction' must be a string, not list"
    assert where in run_cli("seeds", "check", path, "--threshold", 1, code=1)
    assert where in run_cli("seeds", "check", path, "--threshold", 1, "--skip-malformed")
    for command in ([], ["--strategy", "evol-instruct"]):
        chosen = ["--from" if command else "--seeds", path, *command, "--dry-run"]
        assert where in run_cli("generate", tmp_path / "new", *chosen, code=2)
        output = run_cli("generate", tmp_path / "new", *chosen, "--skip-malformed")
        assert f"note: 1 row skipped as malformed, the first: {where}" in output
    with Loopback(lambda _: "Once upon a time.") as server:
        options = ["--backend", "openai", "--model", "m", "--base-url", server.url]
        refused = run_cli("respond", tmp_path / "run", "--from", path, *options, code=2)
        assert where in refused
        assert "--skip-malformed leaves them out" in refused
        assert not server.arrived
        output = run_cli("respond", tmp_path / "run", "--from", path, *options, "--skip-malformed", "--max-requests", 9,
                         code=1)  # fmt: skip
        assert f"note: 1 row skipped as malformed, the first: {where}" in output
        run_cli("generate", tmp_path / "run", "--max-requests", 500)  # the run remembers --skip-malformed
        assert len(server.arrived) == 99


@pytest.mark.parametrize("name", ["seeds.json", "seeds.jsonl", "seeds.csv"])
def test_seeds_are_read_from_arrays_and_tables(name: str, tmp_path: Path) -> None:
    rows = [{"instruction": f"Name {thing}.", "output": "Yes."} for thing in ("a river", "two old kings", "the peaks")]
    header = "instruction,output\n"
    text = header + "".join(f"{row['instruction']},{row['output']}\n" for row in rows)
    (tmp_path / name).write_text(text if name.endswith("csv") else json.dumps(rows, indent=2))
    assert "tasks              3 (3 instances)" in run_cli("seeds", "check", tmp_path / name)
    assert "Name two old kings." in run_cli("generate", tmp_path / "run", "--seeds", tmp_path / name, "--dry-run")


@pytest.mark.parametrize("strategy", ["evol-instruct", "conversation"])
def test_strategies_that_send_no_system_prompt_refuse_it(strategy: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"system": "Be brief.", "instruction": "Name a river."},
                 {"history": [["Hi", "Hello"]], "instruction": "Name a river."})  # fmt: skip
    output = run_cli("generate", tmp_path / "run", "--strategy", strategy, "--from", path, "--dry-run", code=2)
    assert f"{path}:1: the row has a system prompt, which the strategy {strategy} can't send" in output
    assert f"{path}:2: the row has earlier rounds, which the strategy {strategy} can't send" in output


def test_a_base_model_sees_system_prompt_and_earlier_rounds(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"system": "Be brief.", "history": [["Hi", "Hello."]], "instruction": "Bye",
                                           "context": "A farewell."})  # fmt: skip
    prompts: list[str] = []

    def answer(body: Mapping[str, Any]) -> str:
        prompts.append(body["prompt"])
        return "So long."

    with Loopback(answer) as server:
        run_cli("respond", tmp_path / "run", "--from", path, "--backend", "openai", "--model", "m", "--base-url",
                server.url, "--set", "respond.answer={max_tokens: 99, api: completion}")  # fmt: skip
    expected = "Be brief.\n\n### Task\nHi\n\n### Answer\nHello.\n\n### Task\nBye\n\nA farewell.\n\n### Answer"
    assert [prompt.strip() for prompt in prompts] == [expected]
    row = json.loads(dataset(tmp_path / "run", "messages"))
    assert [turn["content"] for turn in row["messages"]] == [
        "Be brief.",
        "Hi",
        "Hello.",
        "Bye\n\nA farewell.",
        "So long.",
    ]
    assert "So long." in run_cli("explain", tmp_path / "run", 1)
    assert "alpaca holds one question" in run_cli("export", tmp_path / "run", "--format", "alpaca", code=2)

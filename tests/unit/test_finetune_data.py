"""Reading of rows: all layouts, all file formats, and the messages for invalid rows and files."""

from __future__ import annotations

import builtins
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.data.rows import ChatTurn, Example, examples_of, read_examples
from selfinstruct.common.formats import FORMATS
from selfinstruct.common.formats import TrainingRow as Row
from selfinstruct.common.resources import builtin_seeds
from selfinstruct.errors import MissingExtraError, UsageError

ROW = {"instruction": "Sort.", "input": "b a", "output": "a b"}
TURNS = (ChatTurn("user", "Sort.\n\nb a"), ChatTurn("assistant", "a b"))


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def single_example(row: dict[str, Any]) -> Example:
    (example,) = examples_of(row, "f:1")
    return example


def error_of(row: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        examples_of(row, "f:1")
    return str(caught.value)


# Layouts


@pytest.mark.parametrize("layout", FORMATS)
def test_every_export_layout_is_read_as_the_same_conversation(layout: str) -> None:
    assert single_example(FORMATS[layout](Row("Sort.", "b a", "a b"))).turns == TURNS
    system = FORMATS[layout](Row("Sort.", "b a", "a b", "Be brief."))
    assert single_example(system).turns == (ChatTurn("system", "Be brief."), *TURNS)


def test_an_alpaca_row_keeps_its_fields() -> None:
    assert single_example(ROW) == Example("f:1", TURNS, instruction="Sort.", input="b a", output="a b")
    assert single_example({"instruction": "Hi.", "output": "Hello."}).turns == (
        ChatTurn("user", "Hi."),
        ChatTurn("assistant", "Hello."),
    )
    assert single_example({"instruction": "Hi.", "input": None, "response": "Hello."}).input == ""


def test_an_empty_system_prompt_is_ignored_and_an_invalid_one_reported() -> None:
    assert single_example({**ROW, "system": ""}).turns == single_example({**ROW, "system": None}).turns == TURNS
    assert "'system' must be a string, not list" in error_of({**ROW, "system": ["Be brief."]})


def test_a_prompt_keeps_its_completion_and_a_question_its_answer() -> None:
    assert single_example({"prompt": "2+2=", "completion": "4"}).completion == "4"
    assert single_example({"prompt": "", "completion": "4"}).prompt == ""
    assert single_example({"question": "2+2?", "answer": "4"}).turns == (
        ChatTurn("user", "2+2?"),
        ChatTurn("assistant", "4"),
    )


def test_each_instance_of_a_seed_task_is_an_example() -> None:
    task = {"instruction": "Sort.", "instances": [{"input": "b a", "output": "a b"}, {"input": "", "output": "none"}]}
    result = examples_of(task, "seeds.jsonl:3")
    assert [(example.name, example.input, example.output) for example in result] == [
        ("seeds.jsonl:3#1", "b a", "a b"),
        ("seeds.jsonl:3#2", "", "none"),
    ]
    assert result[0].turns == TURNS


def test_all_built_in_seed_tasks_are_read() -> None:
    result = read_examples(builtin_seeds())
    tasks = [json.loads(line) for line in builtin_seeds().read_text().splitlines()]
    assert result.skipped == []
    assert [example.output for example in result.examples] == [
        one["output"] for task in tasks for one in task["instances"]
    ]


def test_messages_keep_their_order_and_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Red"}, {"type": "text", "text": "Blue"}]
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Name colours."},
        {"role": "assistant", "content": parts},
    ]
    assert single_example({"messages": messages}).turns[::2] == (
        ChatTurn("system", "Be kind."),
        ChatTurn("assistant", "Red\nBlue"),
    )
    shared = [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
    assert [turn.role for turn in single_example({"conversations": shared}).turns] == ["system", "user", "assistant"]


SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]


@pytest.mark.parametrize(("layout", "messages"), [("conversations", SHARED), ("messages", MESSAGES)])
def test_the_system_prompt_of_a_row_applies_unless_its_messages_have_one(layout: str, messages: list[Any]) -> None:
    turns = (ChatTurn("user", "Hi"), ChatTurn("assistant", "Yo"))
    assert single_example({layout: messages, "system": "Be brief."}).turns == (ChatTurn("system", "Be brief."), *turns)
    assert (
        single_example({layout: messages, "system": ""}).turns
        == single_example({layout: messages, "system": None}).turns
        == turns
    )
    for role in ("system", "developer"):
        system_message = {"role": role, "content": "Be kind."}
        assert single_example({layout: [system_message, *messages], "system": "Be brief."}).turns == (
            ChatTurn(role, "Be kind."),
            *turns,
        )
    assert "'system' must be a string, not int" in error_of({layout: messages, "system": 3})


@pytest.mark.parametrize(
    ("role", "known"),
    [("human", "user"), ("user", "user"), ("gpt", "assistant"), ("model", "assistant"), ("bot", "assistant"),
     ("chatgpt", "assistant"), ("assistant", "assistant"), ("system", "system"), ("tool", "tool")],
)  # fmt: skip
def test_role_aliases_become_the_roles_of_chat_templates(role: str, known: str) -> None:
    messages = [*SHARED, {"from": role, "value": "x"}]
    assert single_example({"conversations": messages}).turns[-1] == ChatTurn(known, "x")
    if known == "assistant":
        assert single_example({"conversations": messages[2:]}).turns == (ChatTurn("assistant", "x"),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "it has no field"),
        ({"text": "x", "id": 1}, "it has 'text', 'id'"),
        ({"instruction": "x"}, "no field 'output'"),
        ({"instruction": "x", "output": 3}, "'output' must be a string, not int"),
        ({"instruction": ["x"], "output": "y"}, "'instruction' must be a string, not list"),
        ({"instruction": "x", "instances": []}, "not a list with at least one instance"),
        ({"instruction": "x", "instances": [{"input": ""}]}, "no field 'output'"),
        ({"messages": []}, "not a list with at least one message"),
        ({"messages": "x"}, "is not a list of messages: it is a string"),
        ({"messages": ["x"]}, "not a list of messages"),
        ({"messages": [{"role": "user", "content": "x"}]}, "has no assistant message"),
        ({"messages": [{"role": "assistant", "content": None}]}, "lacks a role or content"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}, "a tool call can't be read as JSON"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "holds no text, only image"),
        ({"messages": [{"role": "im_end|>", "content": "x"}]}, "unknown role 'im_end|>'"),
        ({"prompt": "x", "completion": None}, "no field 'completion'"),
    ],
)
def test_an_invalid_row_is_reported_with_the_reason(row: dict[str, Any], message: str) -> None:
    assert message in error_of(row)


# Files


def test_bad_lines_are_skipped_and_reported_with_their_line_number(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", ROW, "{", "", {"instruction": "x"}, "[1]", '{"a": NaN}', ROW)
    result = read_examples(str(path))
    assert [example.name for example in result.examples] == [f"{path}:1", f"{path}:7"]
    assert [row.name for row in result.skipped] == [f"{path}:{number}" for number in (2, 4, 5, 6)]
    assert {row.reason for row in result.skipped} == {"unreadable"}


@pytest.mark.parametrize("content", ["", "\n\n", "{\n", '{"a": 1}\n'])
def test_a_file_without_usable_rows_is_rejected(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError, match="holds no row to train on") as caught:
        read_examples(path)
    assert (f"{path}:1: " in str(caught.value)) == bool(content.strip())


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**ROW, "output": "a\u2028b\u0085c 🟦"}, ensure_ascii=False) + "\r\n", "utf-8-sig")
    assert read_examples(path).examples[0].output == "a\u2028b\u0085c 🟦"


def test_gzipped_lines_are_read_and_a_truncated_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    compressed = gzip.compress("".join(json.dumps({**ROW, "output": f"{n}"}) + "\n" for n in range(3000)).encode())
    path.write_bytes(compressed)
    assert len(read_examples(path).examples) == 3000
    path.write_bytes(compressed[: len(compressed) // 2])
    with pytest.raises(UsageError, match="is damaged after line"):
        read_examples(path)


def test_a_json_array_is_read_and_its_rows_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "alpaca_data.json"
    path.write_text(json.dumps([ROW, 3, {"a": 1}, ROW], indent=1))
    result = read_examples(path)
    assert [example.name for example in result.examples] == [f"{path}: row 1", f"{path}: row 4"]
    assert [row.name for row in result.skipped] == [f"{path}: row 2", f"{path}: row 3"]
    path.write_text("[{,")
    with pytest.raises(UsageError, match="not JSON"):
        read_examples(path)
    assert len(read_examples(lines(tmp_path / "lines.json", ROW, ROW)).examples) == 2


def test_a_run_of_selfinstruct_is_its_alpaca_file(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "run.sqlite").touch()
    with pytest.raises(
        UsageError, match=r"has no dataset/alpaca\.jsonl or messages\.jsonl.*selfinstruct export .*[^ ]$"
    ):
        read_examples(tmp_path)
    path = lines(tmp_path / "dataset" / "alpaca.jsonl", ROW)
    for folder in (tmp_path, tmp_path / "dataset"):
        assert [example.name for example in read_examples(folder).examples] == [f"{path}:1"]


def test_an_unknown_directory_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run of selfinstruct nor a datasets directory"):
        read_examples(tmp_path)


@pytest.mark.parametrize("name", ["rows.jsonl", "nowhere/rows.jsonl", "a/b/c", "./rows", "~/rows"])
def test_a_missing_file_is_not_looked_up_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # a look-up on the hub would raise another error
    with pytest.raises(UsageError, match="there is no file"):
        read_examples(name)


def test_a_missing_file_in_an_existing_folder_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "runs").mkdir()
    with pytest.raises(UsageError, match="there is no file runs/quikstart"):
        read_examples("runs/quikstart")


def test_parquet_is_read_by_rows(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    parquet.write_table(arrow.Table.from_pylist([{"messages": messages}, {"messages": None}]), path)
    result = read_examples(path)
    assert [(example.name, example.turns[1].content) for example in result.examples] == [(f"{path}: row 1", "Yo")]
    assert str(result.skipped[0]).startswith(f"{path}: row 2: 'messages' has no value")
    path.write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="can't read"):
        read_examples(path)


def test_a_datasets_directory_with_several_splits_asks_for_one(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list([ROW, ROW])
    one.save_to_disk(tmp_path / "one")
    assert [example.turns for example in read_examples(tmp_path / "one").examples] == [TURNS, TURNS]
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "two")
    with pytest.raises(UsageError, match=r"several splits; give one: .*two/train, .*two/test"):
        read_examples(tmp_path / "two")
    assert len(read_examples(tmp_path / "two" / "test").examples) == 2


@pytest.mark.parametrize(("name", "package"), [("rows.parquet", "pyarrow"), ("saved", "datasets"), ("a/b", "datasets")])
def test_a_missing_extra_is_named(name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.parquet").touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_info.json").touch()
    real = builtins.__import__

    def without(module: str, *rest: Any) -> Any:
        if module.split(".", maxsplit=1)[0] == package:
            raise ImportError(module)
        return real(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtraError, match=rf"{package}.* is not installed; run: pip install 'selfinstruct\[data\]'"
    ):
        read_examples(name)


def test_reading_rows_imports_no_heavy_library() -> None:
    code = "import sys, finetune.data.rows; print({'torch', 'transformers', 'datasets', 'pyarrow'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"

"""Loading tasks from files and runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.errors import DataError, UsageError
from selfinstruct.records import Instance, Message, Task
from selfinstruct.seeds import load_tasks as read_tasks
from selfinstruct.seeds import seeds_from_json, seeds_to_json

NUMBER = {"kind": "number", "value": 4}


def load_tasks(path: Path) -> list[Task]:
    return read_tasks(path).tasks


def lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


LAYOUTS: list[tuple[dict[str, Any], Task]] = [
    ({"instruction": " Name a river. "}, Task("row_1", "Name a river.")),
    ({"instruction": "Add.", "input": "1 2"}, Task("row_1", "Add.", (Instance("1 2", ""),))),
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, Task("row_1", "Add.", (Instance("1 2", "3"),))),
    ({"instruction": "Add.", "input": "", "output": None}, Task("row_1", "Add.")),
    (
        {"id": "t", "name": "n", "domain": "d", "instruction": "I", "is_classification": True, "verifier": NUMBER},
        Task("t", "I", (), True, "n", "d", NUMBER),
    ),
    ({"prompt": "Hello"}, Task("row_1", "Hello")),
    ({"prompt": "Hello", "completion": "Hi"}, Task("row_1", "Hello", (Instance("", "Hi"),))),
    ({"prompt": said(("system", "Be."), ("user", "Hello"))}, Task("row_1", "Hello", system="Be.")),
    ({"question": "Why?", "answer": "So."}, Task("row_1", "Why?", (Instance("", "So."),))),
    ({"text": "Write a poem."}, Task("row_1", "Write a poem.")),
    (
        {"messages": said(("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "D"))},
        Task("row_1", "A", (Instance("", "B"),), system="S"),
    ),
    (
        {"messages": said(("user", "A"), ("assistant", "B"), ("user", "C"))},
        Task("row_1", "C", history=(Message("user", "A"), Message("assistant", "B"))),
    ),
    ({"conversations": [{"from": "human", "value": "A"}]}, Task("row_1", "A")),
    ({"id": 12, "instruction": "I", "instances": []}, Task("12", "I")),
]


@pytest.mark.parametrize(("row", "task"), LAYOUTS, ids=lambda item: str(item)[:40] if isinstance(item, dict) else "")
def test_every_layout_gives_a_task(row: dict[str, Any], task: Task, tmp_path: Path) -> None:
    tasks = load_tasks(lines(tmp_path / "rows.jsonl", row))
    assert tasks == [task]
    assert seeds_from_json(json.loads(json.dumps(seeds_to_json(tasks)))) == tasks


def test_each_input_of_a_seed_task_is_a_task(tmp_path: Path) -> None:
    given = [{"input": "1", "output": "a"}, {"input": "2"}, {"input": "1", "output": "b"}]
    path = lines(tmp_path / "rows.jsonl", {"id": "s", "instruction": "Go.", "instances": given}, {"instruction": "x"})
    first, second, third = load_tasks(path)
    assert first == Task("s", "Go.", (Instance("1", "a"),))
    assert second == Task("row_1", "Go.", (Instance("2", ""),))
    assert third.id == "row_2"


def test_ids_are_unique_and_never_candidate_ids(tmp_path: Path) -> None:
    own = ["17.2", "a", "a", "row_6", None, 7, "", True, "12.x", "row_9_2"]
    path = lines(tmp_path / "rows.jsonl", *({"id": name, "instruction": "x"} for name in own))
    names = [task.id for task in load_tasks(path)]
    assert names == ["row_1", "a", "row_3", "row_6", "row_5", "7", "row_7", "row_8", "12.x", "row_9_2"]
    path = lines(tmp_path / "rows.jsonl", *({"id": name, "instruction": "x"} for name in ("row_2", None)))
    assert [task.id for task in load_tasks(path)] == ["row_2", "row_2_2"]


def test_a_text_file_has_one_task_per_line(tmp_path: Path) -> None:
    text = "\ufeffName a river.\r\n\n  Name a {city} $here. \u2028 \nLast"
    plain, zipped = tmp_path / "tasks.txt", tmp_path / "tasks.txt.gz"
    plain.write_text(text, "utf-8", newline="")
    zipped.write_bytes(gzip.compress(text.encode()))
    wanted = [Task("row_1", "Name a river."), Task("row_3", "Name a {city} $here."), Task("row_4", "Last")]
    assert load_tasks(plain) == load_tasks(zipped) == wanted
    plain.write_bytes(b"good\nb\xffd\n")
    with pytest.raises(DataError, match=r"tasks\.txt:2: not UTF-8"):
        load_tasks(plain)


def test_tasks_of_a_run_come_from_its_dataset(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").touch()
    with pytest.raises(UsageError, match="selfinstruct export"):
        load_tasks(tmp_path)
    lines(tmp_path / "dataset" / "messages.jsonl", {"messages": said(("user", "A"), ("assistant", "B"))})
    assert load_tasks(tmp_path) == [Task("row_1", "A", (Instance("", "B"),))]
    lines(tmp_path / "dataset" / "alpaca.jsonl", {"instruction": "I", "input": "", "output": "O", "verifier": NUMBER})
    assert load_tasks(tmp_path) == [Task("row_1", "I", (Instance("", "O"),), verifier=NUMBER)]


def test_parquet_an_array_and_a_datasets_folder_are_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"instruction": "A", "id": 5}, {"instruction": "B", "verifier": {"kind": "text", "value": "b"}}]
    rows.append({"instruction": "C", "verifier": {"kind": "regex", "pattern": "c"}})
    wanted = [Task("5", "A"), Task("row_2", "B", verifier={"kind": "text", "value": "b"})]
    wanted.append(Task("row_3", "C", verifier={"kind": "regex", "pattern": "c"}))
    columns = [{"id": None, "verifier": None, **row} for row in rows]
    parquet.write_table(arrow.Table.from_pylist(columns), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert load_tasks(tmp_path / "rows.parquet") == load_tasks(tmp_path / "rows.json") == wanted
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet")).save_to_disk(tmp_path / "saved")
    assert load_tasks(tmp_path / "saved") == wanted


def test_one_message_lists_every_invalid_row_and_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = [
        '{"instruction": ""}',
        '{"instruction": 5}',
        '{"task": "x", "answer": "y"}',
        '{"messages": [{"role": "assistant", "content": "x"}]}',
        '{"messages": ["x"]}',
        '{"messages": [{"role": "user", "content": " "}]}',
        '{"instruction": "x", "instances": "y"}',
        '{"instruction": "x", "verifier": {"kind": "magic"}}',
        '{"instruction": "x", "input": []}',
        "nonsense",
    ]
    path.write_text("\n".join(['{"instruction": "Good."}', *bad]))
    with pytest.raises(DataError) as caught:
        load_tasks(path)
    *errors, remedy = str(caught.value).splitlines()
    assert [error.removeprefix(str(path)).split(":")[1] for error in errors] == [str(n) for n in range(2, 12)]
    for error, says in zip(errors, ("missing or empty", "not int", "it has 'task', 'answer'; name the task's field",
                                    "no user message", "not a list of messages", "first message", "list of objects",
                                    "unknown kind", "'input' must be a string", "not JSON"), strict=True):  # fmt: skip
        assert says in error
    assert "remove these rows" in remedy


def test_a_file_without_tasks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file has no task"):
        load_tasks(lines(tmp_path / "rows.jsonl"))
    for name in ("nowhere.jsonl", "nowhere.txt", "nowhere"):
        with pytest.raises(UsageError, match="nowhere"):
            load_tasks(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="neither a run"):
        load_tasks(tmp_path / "folder")

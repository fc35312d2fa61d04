"""Rows of every layout become the examples that they say, and bad rows are told with their place."""

from __future__ import annotations

import gzip
import json

import pytest

from finetune.data import Turn, examples_of, read_examples
from selfinstruct.errors import UsageError

PAIR = (Turn("user", "q"), Turn("assistant", "a"))


def write(path, rows, opened=open):
    with opened(path, "wb") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    return str(path)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "instances": [{"input": "", "output": "a"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"question": "q", "answer": "a"},
    ],
)
def test_every_layout_is_the_same_conversation(row):
    [example] = examples_of(row, "rows.jsonl:1")
    assert example.turns == PAIR


def test_an_input_stays_apart_from_its_instruction():
    [example] = examples_of({"instruction": "q", "input": "i", "output": "a"}, "rows.jsonl:1")
    assert (example.instruction, example.input, example.output) == ("q", "i", "a")
    assert example.turns[0].content == "q\n\ni"


def test_each_instance_of_a_seed_task_is_an_example():
    instances = [{"input": "1", "output": "x"}, {"input": "2", "output": "y"}]
    found = examples_of({"instruction": "q", "instances": instances}, "seeds:3")
    assert [(one.input, one.output) for one in found] == [("1", "x"), ("2", "y")]
    assert len({one.name for one in found}) == 2


@pytest.mark.parametrize(
    "row",
    [{}, {"text": "x"}, {"instruction": "q"}, {"instruction": 1, "output": "a"}, {"messages": []},
     {"messages": [{"role": "user", "content": "q"}]}, {"prompt": "q"}],
)  # fmt: skip
def test_a_row_without_an_answer_is_told_with_its_line(tmp_path, row):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "q", "completion": "a"}, row])
    found = read_examples(path)
    assert len(found.examples) == 1
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith(f"{path}:2:")


def test_gzip_arrays_and_run_directories_are_read_alike(tmp_path):
    rows = [{"prompt": "q", "completion": "a"}] * 2
    (tmp_path / "run" / "dataset").mkdir(parents=True)
    write(tmp_path / "run" / "dataset" / "alpaca.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for path in (write(tmp_path / "rows.jsonl.gz", rows, gzip.open), tmp_path / "rows.json", tmp_path / "run"):
        assert [one.turns for one in read_examples(path).examples] == [PAIR, PAIR]


def test_a_cut_gzip_stream_is_told(tmp_path):
    path = write(tmp_path / "rows.jsonl.gz", [{"prompt": f"q{n}", "completion": "a"} for n in range(999)], gzip.open)
    whole = (tmp_path / "rows.jsonl.gz").read_bytes()
    (tmp_path / "rows.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="damaged"):
        read_examples(path)


def test_nothing_to_train_on_is_an_error(tmp_path):
    for rows in ([], [{"text": "x"}]):
        with pytest.raises(UsageError, match="no row"):
            read_examples(write(tmp_path / "rows.jsonl", rows))
    with pytest.raises(UsageError, match="no file"):
        read_examples(str(tmp_path / "missing.jsonl"))

"""The suites IFEval and IFBench: reading the published files, the four metrics, and explanations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.errors import DataError, UsageError
from selfinstruct.suites import IFBench, IFEval
from selfinstruct.suites.instructions import loose_variants

ROW = {
    "key": 1000,
    "prompt": "Write a summary without commas.\n",
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{}, {"relation": "at least", "num_words": 4}],
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_published_row_is_read_unchanged_and_nulls_count_as_absent(tmp_path: Path) -> None:
    nulls = {"num_words": 4, "relation": "at least", "keywords": None, "N": None}
    copy = {**ROW, "key": "1001", "kwargs": [{"keywords": None}, nulls]}
    suite = IFEval.read(write(tmp_path / "a.jsonl", ROW, copy))
    first, second = suite.items
    assert (first.key, first.question, second.key) == ("1000", ROW["prompt"], "1001")
    assert first.reference == second.reference
    assert [metric.name for metric in suite.metrics] == [
        "prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose",
    ]  # fmt: skip
    assert all(metric.is_proportion for metric in suite.metrics)


def test_ifbench_gives_counts_as_floats(tmp_path: Path) -> None:
    row = {"key": "0", "prompt": "Use numbers.", "instruction_id_list": ["count:numbers"], "kwargs": [{"N": 2.0}]}
    suite = IFBench.read(write(tmp_path / "a.jsonl", row))
    assert suite.score(suite.items[0], "1 and 2")["prompt_strict"] == [1.0]
    assert suite.explain(suite.items[0], "1") == ["count:numbers: exactly 2 numbers, 1 counted"]


def test_the_metrics_count_prompts_and_instructions_strictly_and_loosely(tmp_path: Path) -> None:
    suite = IFEval.read(write(tmp_path / "a.jsonl", ROW))
    item = suite.items[0]
    assert suite.score(item, "One two three four") == {
        "prompt_strict": [1.0],
        "instruction_strict": [1.0, 1.0],
        "prompt_loose": [1.0],
        "instruction_loose": [1.0, 1.0],
    }
    assert suite.score(item, "Sure, here:\nOne two three four") == {
        "prompt_strict": [0.0],
        "instruction_strict": [0.0, 1.0],
        "prompt_loose": [1.0],
        "instruction_loose": [1.0, 1.0],
    }
    assert suite.score(item, "One, two")["instruction_loose"] == [0.0, 0.0]


def test_an_explanation_has_one_line_for_each_instruction_that_is_not_followed(tmp_path: Path) -> None:
    suite = IFEval.read(write(tmp_path / "a.jsonl", ROW))
    assert suite.explain(suite.items[0], "One, two") == [
        "punctuation:no_comma: no comma, 1 counted",
        "length_constraints:number_words: at least 4 words, 2 counted",
    ]
    assert suite.explain(suite.items[0], "One two three four") == []


@pytest.mark.parametrize("answer", ["", " \n", "\u3000"])
def test_an_empty_answer_follows_nothing_and_the_reason_is_given(answer: str, tmp_path: Path) -> None:
    suite = IFEval.read(write(tmp_path / "a.jsonl", ROW))
    scores = suite.score(suite.items[0], answer)
    assert set(map(tuple, scores.values())) == {(0.0,), (0.0, 0.0)}
    lines = suite.explain(suite.items[0], answer)
    assert len(lines) == 2
    assert all(line.endswith(", the answer is empty") for line in lines)


def test_an_answer_is_loosely_scored_by_eight_variants() -> None:
    assert loose_variants("*a*\nb\nc*") == [
        "*a*\nb\nc*", "b\nc*", "*a*\nb", "b", "a\nb\nc", "b\nc", "a\nb",
    ]  # fmt: skip
    assert loose_variants("a") == ["a", ""]


def test_each_line_of_a_hundred_is_scored_alike_twice(tmp_path: Path) -> None:
    suite = IFEval.read(write(tmp_path / "a.jsonl", *({**ROW, "key": key} for key in range(100))))
    assert len({json.dumps(suite.score(item, "Sure:\none two, *three* four")) for item in suite.items}) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON object is expected"),
        ({**ROW, "prompt": " "}, "'prompt' must be a text"),
        ({**ROW, "instruction_id_list": []}, "at least one id"),
        ({**ROW, "kwargs": [{}]}, "one object for each id"),
        ({**ROW, "kwargs": [{}, 5]}, "list of objects"),
        ({**ROW, "key": [1]}, "'key' must be"),
        ({**ROW, "instruction_id_list": ["punctuation:no_coma", "x"]}, 'unknown instruction "punctuation:no_coma"'),
        ({**ROW, "kwargs": [{}, {"relation": "at least"}]}, "number_words needs the argument 'num_words'"),
        ({**ROW, "kwargs": [{}, {"relation": "at least", "num_words": "4"}]}, "'num_words' must be a whole number"),
        ({**ROW, "key": 999}, "the key '999' occurs in line 1, too"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_with_file_line_and_reason(row: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {**ROW, "key": 999}, row)
    with pytest.raises(DataError, match=message) as caught:
        IFEval.read(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_a_file_without_prompts_or_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prompt; give the file of IFEval \(input_data.jsonl\)"):
        IFEval.read(write(tmp_path / "a.jsonl", ""))
    with pytest.raises(UsageError, match="can't read"):
        IFBench.read(tmp_path / "missing.jsonl")

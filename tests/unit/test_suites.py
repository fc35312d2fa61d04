"""Suites: files are read as they are published, wrong rows are named, and answers are scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.errors import DataError
from selfinstruct.suites import Item, Suite, suite_registry
from selfinstruct.suites.files import SuiteFile, SuiteItem, choose_items, read_items, read_suite, read_suite_text
from selfinstruct.suites.rouge import Rouge
from selfinstruct.suites.verified import Verified

NUMBER = {"kind": "number", "value": 4}
TASK = {
    "Contributors": ["x"],
    "Categories": ["Textual Entailment"],
    "Definition": ["Decide.", "Answer yes or no."],
    "Positive Examples": [{"input": f"in {n}", "output": f"out {n}", "explanation": ""} for n in range(3)],
    "Negative Examples": [],
    "Instances": [{"id": "task9-a", "input": "A cat.", "output": ["Yes", "yes, it is"]},
                  {"id": "task9-b", "input": "A dog.", "output": ["No"]}],
}  # fmt: skip


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row) if not isinstance(row, str) else row}\n" for row in rows))
    return path


def test_a_task_of_super_natural_instructions_is_read_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "task9.json"
    path.write_text(json.dumps(TASK, indent=4))
    suite = Rouge.read(path)
    assert [(item.key, item.cluster) for item in suite.items] == [("task9-a", "task9"), ("task9-b", "task9")]
    question = suite.items[0].question
    assert question.startswith("Decide.\n\nAnswer yes or no.\n\nExample 1\nInput: in 0\nOutput: out 0")
    assert "in 1" in question
    assert "in 2" not in question
    assert question.endswith("Input: A cat.\nOutput:")
    assert suite.score(suite.items[0], "yes, it is!") == {"rouge_l": (1.0,), "exact_match": (1.0,)}
    assert suite.score(suite.items[1], "Yes")["exact_match"] == (0.0,)


def test_rouge_is_the_best_of_the_references_with_stemming(tmp_path: Path) -> None:
    row = {"id": "u1", "motivation_app": "x", "instruction": "Say it.", "instances": [
        {"input": "now", "output": ["running dogs", "something else"]}]}  # fmt: skip
    suite = Rouge.read(write(tmp_path / "user.jsonl", row))
    (item,) = suite.items
    assert item.question == "Say it.\n\nnow"
    assert suite.score(item, "the dog runs") == {"rouge_l": (pytest.approx(0.4),), "exact_match": ()}
    assert suite.explain(item, "the dog runs") == ("ROUGE-L 0.400 with the nearest reference: running dogs",)
    assert suite.explain(item, "Running dogs.") == ()
    assert suite.score(item, "")["rouge_l"] == (0.0,)


def test_the_user_oriented_tasks_form_one_cluster_each(tmp_path: Path) -> None:
    rows = [{"id": f"user_oriented_task_{n}", "instruction": "Do.", "instances": [{"input": "", "output": "x"}] * n}
            for n in (1, 2)]  # fmt: skip
    items = Rouge.read(write(tmp_path / "user.jsonl", *rows)).items
    assert [item.key for item in items] == [
        "user_oriented_task_1", "user_oriented_task_2.1", "user_oriented_task_2.2"
    ]  # fmt: skip
    assert [item.cluster for item in items] == ["user_oriented_task_1", *["user_oriented_task_2"] * 2]


def test_a_verified_row_is_asked_with_its_input_and_scored_by_its_verifier(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "instruction": "Add.", "input": "1 3", "verifier": NUMBER},
        {"instruction": "Add.", "instances": [{"input": "2 2", "output": "4"}, {"input": "0 4", "output": "4"}],
         "verifier": NUMBER, "system": "Be brief."},
        {"instruction": "Write.", "verifier": {"kind": "all", "of": [{"kind": "lowercase"}, {"kind": "no_commas"}]},
         "cluster": "form"},
    ]  # fmt: skip
    suite = Verified.read(write(tmp_path / "rows.jsonl", *rows))
    assert [(item.key, item.question, item.cluster, item.system) for item in suite.items] == [
        ("a", "Add.\n\n1 3", "", ""),
        ("row_2.1", "Add.\n\n2 2", "row_2", "Be brief."),
        ("row_2.2", "Add.\n\n0 4", "row_2", "Be brief."),
        ("row_3", "Write.", "form", ""),
    ]
    assert suite.score(suite.items[0], "It is 4.") == {"verified": (1.0,)}
    assert suite.score(suite.items[3], "") == {"verified": (0.0,)}
    lines = suite.explain(suite.items[3], "A, b")
    assert [line.split(":")[0] for line in lines] == ["lowercase", "no_commas"]
    assert suite.explain(suite.items[3], "a b") == ()


@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [
        (Verified, {"instruction": "Add."}, "'verifier' is missing"),
        (Verified, {"instruction": "Add.", "verifier": {"kind": "numbr"}}, "numbr"),
        (Verified, {"instruction": " ", "verifier": NUMBER}, "instruction"),
        (Verified, {"instruction": "Add.", "verifier": NUMBER, "id": [1]}, "'id' must be"),
        (Verified, "{", "JSON"),
        (Rouge, {"instruction": "Add."}, "'instances' is missing"),
        (Rouge, {"instruction": "Add.", "instances": [{"input": "x"}]}, "output of instance 1"),
        (Rouge, {"instances": [{"input": "x", "output": "y"}]}, "'instruction'"),
        (Rouge, "[1]", "JSON object"),
    ],
)
def test_a_wrong_row_is_named_by_file_line_and_reason(kind: type[Suite], row: Any, says: str, tmp_path: Path) -> None:
    good = {"instruction": "Do.", "instances": [{"input": "", "output": "x"}], "verifier": NUMBER}
    path = write(tmp_path / "rows.jsonl", good, good, row)
    with pytest.raises(DataError, match=says) as error:
        kind.read(path)
    assert str(error.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize(
    ("change", "line"),
    [({"Definition": []}, "Definition"), ({"Positive Examples": [{"input": 1}]}, "Positive Examples"),
     ({"Instances": []}, "Instances"), ({"Instances": [{"input": "x", "output": "y"}]}, "Instances")],
)  # fmt: skip
def test_a_wrong_field_of_a_task_file_is_named_by_its_line(change: dict[str, Any], line: str, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text(json.dumps({**TASK, **change}, indent=1))
    number = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if f'"{line}"' in text)
    with pytest.raises(DataError) as error:
        Rouge.read(path)
    assert str(error.value).startswith(f"{path}:{number}: ")


def test_a_file_without_items_and_a_key_used_twice_are_refused(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="no item for the suite verified"):
        read_suite(SuiteFile("verified", empty))
    row = {"id": "a", "instruction": "Add.", "verifier": NUMBER}
    files = [SuiteFile("verified", write(tmp_path / name, row)) for name in ("x.jsonl", "y.jsonl")]
    with pytest.raises(DataError, match=r"y.jsonl and .*x.jsonl: the key 'a' is used twice"):
        read_items((file, read_suite(file)) for file in files)


def test_the_text_of_a_file_gives_the_same_suite(tmp_path: Path) -> None:
    path = tmp_path / "task9.json"
    path.write_text(json.dumps(TASK))
    file = SuiteFile("rouge", path)
    assert read_suite_text(file, path.read_text()).items == read_suite(file).items


@pytest.mark.parametrize(
    ("text", "says"),
    [("verified", "NAME=FILE"), ("verified=", "NAME=FILE"), ("verifid=x.jsonl", "did you mean 'verified'")],
)
def test_a_wrong_suite_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        list(SuiteFile.parse(text))


def test_a_folder_names_its_files(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "note.txt"):
        (tmp_path / name).write_text("{}")
    assert [file.path.name for file in SuiteFile.parse(f"rouge={tmp_path}")] == ["a.json", "b.json"]


def items(count: int, name: str = "verified") -> list[SuiteItem]:
    return [SuiteItem(f"{name}/{n}", Verified(()), Item(str(n), "q")) for n in range(count)]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 3))
def test_a_larger_limit_keeps_the_items_of_a_smaller_one(small: int, large: int, seed: int) -> None:
    all_ = [*items(20), *items(5, "rouge")]
    small, large = sorted((small, large))
    chosen = choose_items(all_, small, seed)
    assert [each for each in choose_items(all_, large, seed) if each in chosen] == chosen
    assert len(chosen) == min(small, 20) + min(small, 5)
    assert [each for each in all_ if each in chosen] == chosen


def test_every_built_in_suite_has_a_name_and_metrics() -> None:
    for name in suite_registry.builtins:
        kind = suite_registry.get(name)
        assert kind.name == name
        assert kind.version >= 1
        assert len({metric.name for metric in kind.metrics}) == len(kind.metrics) > 0

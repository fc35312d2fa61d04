from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from selfinstruct.common.resources import builtin_seeds
from selfinstruct.errors import DataError, UsageError
from selfinstruct.filters import rouge_l
from selfinstruct.records import Instance
from selfinstruct.seeds import check_seeds, load_seeds, load_tasks, seeds_from_json, seeds_to_json
from tests.cli import run_cli


def test_the_builtin_seeds_have_no_warnings() -> None:
    report = check_seeds(builtin_seeds())
    assert report.errors == report.warnings == ()
    assert report.tasks >= 175
    assert report.classification >= 25
    assert report.with_input >= 0.4 * report.tasks
    assert len(report.domains) >= 15
    assert report.closest[0] < 0.7


def test_both_layouts_load(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    public = {
        "id": "seed_task_0",
        "name": "breakfast",
        "instruction": " Suggest a breakfast. ",
        "instances": [{"input": "", "output": "Porridge."}],
        "is_classification": False,
    }
    plain = {"instruction": "Add the numbers.", "input": "1 2", "output": "3"}
    path.write_text(f"{json.dumps(public)}\n\n{json.dumps(plain)}\n")
    first, second = load_seeds(path)
    assert (first.id, first.instruction, first.is_classification) == ("seed_task_0", "Suggest a breakfast.", False)
    assert (second.id, second.instances, second.is_classification) == ("seed_3", (Instance("1 2", "3"),), None)
    assert seeds_from_json(json.loads(json.dumps(seeds_to_json([first, second])))) == [first, second]


def test_every_bad_line_is_listed_in_one_error(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    lines = [
        '{"instruction": "Good.", "output": "x", "id": "a"}',
        '{"instruction": "", "output": "x"}',
        '{"instruction": "No output."}',
        '{"instruction": "x", "instances": []}',
        '{"instruction": "x", "instances": ["y"]}',
        '{"instruction": 5, "output": "x"}',
        '{"instruction": "x", "output": "x", "is_classification": "maybe"}',
        '{"instruction": "x", "output": "x", "is_classification": 1}',
        '{"instruction": "x", "output": "x", "is_classification": 0.0}',
        '{"instruction": "x", "output": "x", "id": "a"}',
        "nonsense",
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        load_seeds(path)
    errors = str(caught.value).splitlines()
    assert [error.split(":")[1] for error in errors] == ["2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]
    for error, says in zip(errors, ("'instruction' is missing", "'instances' or 'output'", "at least one",
                                    "instance 1", "must be a string, not int",
                                    "true or false", "found 1", "found 0.0",
                                    "already used on line 1", "not JSON"), strict=True):  # fmt: skip
        assert says in error


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match="no seed task"):
        load_seeds(path)
    with pytest.raises(UsageError, match="no seed task"):
        check_seeds(path)


def test_warnings_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    seeds = [
        {"instruction": "Name three rivers of France.", "output": "Seine, Loire, Rhone"},
        {"instruction": "Name three rivers of Spain.", "output": "Ebro, Tagus, Douro"},
        {"instruction": "Sort these words:", "input": "b a", "output": "b a"},
        {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "1 1", "output": "3"}]},
        {"instruction": "word " * 151, "output": "x"},
    ]
    path.write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    report = check_seeds(path)
    assert report.closest == (rouge_l(seeds[0]["instruction"], seeds[1]["instruction"]), 2, 1)
    for line, says in ((2, "resembles the one on line 1"), (3, "ends with a colon"), (3, "repeats its input"),
                       (4, "different outputs"), (5, "151 words")):  # fmt: skip
        assert any(w.startswith(f"{path}:{line}: ") and says in w for w in report.warnings), (says, report.warnings)
    assert not report.ok


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7])
def test_similar_pairs_equal_a_plain_double_loop(tmp_path: Path, seed: int, threshold: float) -> None:
    draw = random.Random(seed)
    words = ["a", "B", "c7", "\u00fcber", "\u6c34", "!", "?!", "\u0645\u0627"][: draw.randint(2, 8)]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(40)]
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps({"instruction": text, "output": "x"}) + "\n\n" for text in texts))
    closest, similar = (0.0, 0, 0), []
    for index, text in enumerate(texts):
        for earlier, other in enumerate(texts[:index]):
            score = rouge_l(text, other, tokenizer="auto")
            closest = max(closest, (score, 2 * index + 1, 2 * earlier + 1))
            if score >= threshold:
                warning = f"{path}:{2 * index + 1}: the instruction resembles the one on line {2 * earlier + 1}"
                similar.append(f"{warning} (ROUGE-L {score:.2f})")
    report = check_seeds(path, threshold=threshold)
    assert report.closest == closest
    assert list(report.warnings) == similar


def test_one_task_has_no_closest_pair(tmp_path: Path) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"instruction": "Alone here.", "output": "x"}\n')
    assert check_seeds(path).closest == (0.0, 0, 0)


def test_verifiers_of_many_kinds_in_a_column(tmp_path: Path) -> None:
    """Arrow gives every verifier the fields of all, with nulls in them."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    five, short = {"kind": "number", "value": 5}, {"kind": "words", "max": 3}
    verifiers = [five, short, {"kind": "all", "of": [{"kind": "all", "of": [short]}, five]}, None]
    rows = [{"instruction": f"Say five, {number}", "verifier": verifier} for number, verifier in enumerate(verifiers)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    assert [task.verifier for task in load_tasks(tmp_path / "in.parquet").tasks] == verifiers
    (tmp_path / "in.jsonl").write_text('{"instruction": "Say five", "verifier": {"kind": null, "value": 5}}\n')
    with pytest.raises(DataError, match=r"in\.jsonl:1: 'verifier' must be an object with a 'kind'"):
        load_tasks(tmp_path / "in.jsonl")


@pytest.mark.parametrize("threshold", ["7", "-1", "nan", "1.01"])
def test_a_threshold_outside_its_range_is_refused(tmp_path: Path, threshold: str) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"instruction": "Name a river.", "output": "The Loire."}\n')
    assert "not in the range 0<=x<=1" in run_cli("seeds", "check", path, "--threshold", threshold, code=2)
    with pytest.raises(UsageError, match="not between 0 and 1"):
        check_seeds(path, threshold=float(threshold))

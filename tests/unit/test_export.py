"""Exports hold what their readers need; exports that would be empty are refused, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import export, generate, open_run
from selfinstruct.common.formats import FORMATS
from selfinstruct.runs.export import CANDIDATES, export_formats
from selfinstruct.runs.partial_formats import PARTIAL_FORMATS
from selfinstruct.verifiers import compute_score, reward
from tests.cli import dataset, run_cli
from tests.golden.make import GOLDEN
from tests.loopback import Loopback

REMEDIES = {"preference": "quality.pairs=true", "rl": "the field 'verifier'"}


def run_of(folder: Path, answer: str, **settings: Any) -> Path:
    path = folder / "tasks.txt"
    path.write_text("Name a river of France.\n")

    def model(body: Mapping[str, Any]) -> str:
        return answer

    with Loopback(model) as server:
        section = {"model": "m", "base_url": server.url, "api": "chat"}
        given = {"strategy": "respond", "seeds": str(path), "backend": "openai", "openai": section}
        generate(folder / "run", {**given, **settings})
    return folder / "run"


@pytest.mark.parametrize("name", PARTIAL_FORMATS)
def test_a_format_that_no_row_has_the_part_for_is_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    run, out = run_of(tmp_path, "The Loire."), tmp_path / "out.jsonl"
    said = run_cli("export", run, "--format", name, "-o", out, code=2)
    assert f"none of the 1 row has a {PARTIAL_FORMATS[name].part}, so there is nothing to export" in said
    assert REMEDIES[name] in said
    run_cli("export", run, "--format", name, code=2)
    assert not out.exists()
    assert not (run / "dataset" / f"{name}.jsonl").exists()


@pytest.mark.parametrize("name", sorted([*FORMATS, *PARTIAL_FORMATS]))
def test_a_run_without_rows_is_not_exported(name: str, tmp_path: Path) -> None:
    run, out = run_of(tmp_path, ""), tmp_path / "out.jsonl"
    out.write_text("mine")
    said = run_cli("export", run, "--format", name, "-o", out, code=2)
    assert f"{run} has no rows yet, so there is nothing to export" in said
    assert out.read_text() == "mine"
    run_cli("export", run, "--format", CANDIDATES, "-o", out)
    assert set(export_formats()) == {*FORMATS, *PARTIAL_FORMATS, CANDIDATES}


def test_a_run_without_candidates_has_none_to_export(tmp_path: Path) -> None:
    answer = "There is no list here"
    run, out = run_of(tmp_path, answer, strategy="alpaca", seeds="builtin", patience=2), tmp_path / "out.jsonl"
    said = run_cli("export", run, "--format", CANDIDATES, "-o", out, code=2)
    assert "no answer of this run holds a candidate" in said
    assert not out.exists()


# Prompts with verifiers.


def rl_rows(folder: Path, tasks: list[dict[str, Any]], answer: str) -> list[dict[str, Any]]:
    """Let a model answer tasks, and return the rows of the run's export."""
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    with Loopback(lambda _: answer) as server:
        section = {"model": "m", "base_url": server.url, "api": "chat"}
        seeds = {"strategy": "respond", "seeds": str(folder / "tasks.jsonl")}
        generate(folder / "run", {**seeds, "backend": "openai", "openai": section, "filters": {"near_duplicate": None}})
    export(folder / "run", "rl")
    return [json.loads(line) for line in dataset(folder / "run", "rl").splitlines()]


def test_rows_without_a_verifier_are_left_out_by_number_and_the_manifest_covers_the_file(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "personas", tmp_path / "run")
    rows = open_run(tmp_path / "run").rows()
    without = [number for number, row in enumerate(rows, start=1) if row.candidate.verifier is None]
    said = run_cli("export", tmp_path / "run", "--format", "rl")
    assert f"{len(without)} rows without a verifier left out ({', '.join(map(str, without))})" in said
    lines = [json.loads(line) for line in dataset(tmp_path / "run", "rl").splitlines()]
    kept = [row for row in rows if row.candidate.verifier is not None]
    assert len(lines) == len(kept) == len(rows) - len(without) > 1
    assert [line["extra_info"]["id"] for line in lines] == [row.id for row in kept]
    assert [line["extra_info"]["index"] for line in lines] == list(range(len(kept)))
    printed = json.loads(run_cli("export", tmp_path / "run", "--format", "rl", "--json"))
    assert (printed["left_out"], printed["left_out_rows"]) == (len(without), without)
    manifest = json.loads((tmp_path / "run" / "dataset" / "manifest.json").read_text())
    assert manifest["files"]["rl.jsonl"] == {"rows": len(kept), "sha256": printed["sha256"]}


def test_a_prompt_with_a_verifier_has_the_columns_that_trl_and_verl_read(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Loire."},
        {"role": "user", "content": "How many letters has its name?"},
    ]
    (row,) = rl_rows(tmp_path, [{"messages": messages, "verifier": {"kind": "number", "value": 5}}], "It has 5.")
    assert row["prompt"] == messages
    assert json.loads(row["verifier"]) == {"kind": "number", "value": 5}
    assert row["ground_truth"] == "5"
    assert (row["data_source"], row["ability"]) == ("selfinstruct", "number")
    assert row["reward_model"] == {"style": "rule", "ground_truth": "5"}
    assert row["extra_info"] == {"index": 0, "id": "0.0", "verifier": row["verifier"]}
    assert reward([messages], ["5 letters"], verifier=[row["verifier"]]) == [1.0]
    assert compute_score(row["data_source"], "5 letters", row["ground_truth"], row["extra_info"]) == 1.0


def test_the_ground_truth_is_the_value_of_the_verifier_or_the_answer(tmp_path: Path) -> None:
    answer = "[1, 4]"
    verifiers = {
        "text": ({"kind": "text", "value": "[1, 4]."}, "[1, 4]."),
        "python": ({"kind": "python", "value": [1, 4]}, "[1,4]"),
        "number": ({"kind": "number", "value": 4.0}, "4.0"),
        "texts": ({"kind": "text", "values": ["[1, 4]", "no"]}, answer),
        "regex": ({"kind": "regex", "pattern": "1.*4"}, answer),
    }
    tasks = [{"instruction": f"List {name}.", "verifier": verifier} for name, (verifier, _) in verifiers.items()]
    rows = rl_rows(tmp_path, tasks, answer)
    assert [row["ground_truth"] for row in rows] == [truth for _, truth in verifiers.values()]


def test_datasets_loads_verifiers_whose_values_have_different_types(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    values = {"number": 4, "python": [1, 4], "text": "[1, 4]"}
    tasks = [{"instruction": f"A {kind}", "verifier": {"kind": kind, "value": value}} for kind, value in values.items()]
    rows = rl_rows(tmp_path, tasks, "[1, 4]")
    path = str(tmp_path / "run" / "dataset" / "rl.jsonl")
    loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == rows
    assert reward(loaded["prompt"], ["[1, 4]"] * 3, verifier=loaded["verifier"]) == [1.0] * 3

"""Names are never used as paths, and a file is written only where the user asks for it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.errors import SelfInstructError, UsageError
from selfinstruct.prompts import Prompts
from selfinstruct.runs.export import export, export_formats
from selfinstruct.strategies import STRATEGIES
from tests.abuse.hostile import ROOT, finetune, selfinstruct
from tests.conftest import Promise

PATHS = ("../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\x00b", "~root", "$HOME", "con", "x" * 300)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "run"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "golden" / "alpaca" / "run.sqlite", folder)
    return folder


def test_a_name_that_is_a_path_is_refused_everywhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: Promise
) -> None:
    monkeypatch.chdir(run.parent)
    before = listing(tmp_path)
    refused = 0
    for name in PATHS:
        with pytest.raises(UsageError, match="no format"):
            export(run, name)
        if "\x00" in name:
            continue  # no argument of a process can hold it
        for args in (
            ("export", run, "--format", name),
            ("generate", "new", "--dry-run", "--strategy", name),
            ("generate", "new", "--dry-run", "--backend", name),
            ("generate", "new", "--dry-run", "--set", f"{name}=1"),
            ("generate", "new", "--dry-run", "--set", f"filters.{name}.x=1"),
            ("generate", "new", "--dry-run", "--set", f"filters.novelty.tokenizer={name}"),
            ("filter", run / "run.sqlite", "-o", "out.jsonl", "--tokenizer", name),
            ("explain", run, name or "x"),
        ):
            said = selfinstruct(*args)
            assert said.code == 2, (args, said.output)
            refused += 1
        said = finetune("train", "--data", "none.jsonl", "-o", "out", "--recipe", name)
        assert said.code == 2
        refused += 1
    assert listing(tmp_path) == before, "nothing was written anywhere"
    promise("abuse: names", f"{refused} of {refused} paths in the place of names are refused, 0 files written")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_template_names_begin_with_the_strategy(strategy: str) -> None:
    for name in STRATEGIES[strategy].templates:
        assert all(part.replace("-", "").isalnum() for part in name.split("/"))
        assert (ROOT / "prompts" / f"{name}.txt").is_file()


def test_a_prompts_folder_without_templates_of_the_strategy_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("not for a model: $count")
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "list.txt").write_text("not where it belongs")
    for given in (folder, "../../../../etc", "/etc", secret, ""):
        said = selfinstruct("generate", tmp_path / "run", "--dry-run", "--strategy", "alpaca", "--prompts", given)
        assert "not for a model" not in said.output
        assert "not where it belongs" not in said.output
        assert said.code == (0 if given == "" else 2), said.output  # none given: the built-in ones
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"$count $tasks $next ${count.__class__}", "without a variable"),
        (b"$count $tasks $next $HOME", r"unknown \$HOME"),
        (b"$count $tasks", r"missing \$next"),
        (b"$count $tasks $next 5$ ", "without a variable"),
        (b"$count $tasks $next \xff", "not UTF-8"),
        (b"", "missing"),
    ],
)
def test_a_bad_template_is_reported_with_its_file(text: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts" / "alpaca" / "list.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    said = selfinstruct(
        "generate", tmp_path / "run", "--dry-run", "--strategy", "alpaca", "--prompts", tmp_path / "prompts"
    )
    assert said.code == 2
    assert str(path) in said.output
    with pytest.raises(SelfInstructError, match=says):
        Prompts.load(STRATEGIES["alpaca"].templates, "chat", tmp_path / "prompts", ROOT / "prompts")


def test_an_export_writes_only_its_file(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-o`` is its user's own: what matters is that a refusal leaves everything as it was."""
    monkeypatch.chdir(run.parent)
    outside = tmp_path / "outside.jsonl"
    assert selfinstruct("export", run, "-o", "../outside.jsonl").code == 0
    assert outside.read_bytes() == (ROOT / "tests" / "golden" / "alpaca" / "alpaca.jsonl").read_bytes()
    outside.chmod(0o600)
    before = (run / "run.sqlite").read_bytes()
    (run / "dataset").mkdir()
    (run.parent / "other").symlink_to(run)
    os.mkfifo("pipe")  # as root, a device would be replaced by a file just so
    own = (run, run / "dataset" / "..", run.parent / "other")
    targets = [folder / name for folder in own for name in ("run.sqlite", "run.sqlite-wal", "run.lock", "config.yaml")]
    for target in (*targets, run, "pipe", "x" * 300):
        said = selfinstruct("export", run, "-o", target)
        assert said.code in (1, 2), (target, said.output)
        assert len(said.output) < 1000
        assert (run / "run.sqlite").read_bytes() == before, target
    assert Path("pipe").is_fifo()
    os.symlink(run / "run.sqlite", "link.jsonl")
    selfinstruct("export", run, "-o", "link.jsonl")
    assert (run / "run.sqlite").read_bytes() == before, "a link is not followed into the ledger"
    assert [name for name in listing(tmp_path) if ".part" in name] == []


def test_ids_of_seeds_and_rows_are_not_used_as_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows: list[dict[str, Any]] = [
        {"id": name or "empty", "instruction": f"Name {place} rivers of France now", "output": name or "x"}
        for place, name in enumerate(PATHS)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert selfinstruct("generate", "run", "--dry-run", "--strategy", "alpaca", "--seeds", "rows.jsonl").code == 0
    assert selfinstruct("filter", "rows.jsonl", "-o", "out.jsonl", "--report", "why.jsonl", "--quiet").code == 0
    assert listing(tmp_path) == ["out.jsonl", "rows.jsonl", "why.jsonl"]


def test_no_spreadsheet_is_written(tmp_path: Path, promise: Promise) -> None:
    """A cell that begins with = + - or @ is a formula to a spreadsheet. There is no CSV, so there is no cell."""
    (tmp_path / "in.jsonl").write_text('{"instruction": "=1+1", "output": "@x"}\n')
    for ending in ("csv", "tsv", "xlsx", "html"):
        said = selfinstruct("filter", tmp_path / "in.jsonl", "-o", tmp_path / f"out.{ending}")
        assert said.code == 2
        assert not (tmp_path / f"out.{ending}").exists()
        assert selfinstruct("export", tmp_path, "--format", ending).code == 2
    assert not {"csv", "tsv", "xlsx"} & set(export_formats())
    promise("abuse: formula cells", f"0 of {len(export_formats())} export formats are spreadsheets")

"""Exports that would be empty are refused, and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.common.formats import FORMATS
from selfinstruct.runs.export import CANDIDATES, PREFERENCE, export_formats
from tests.cli import run_cli
from tests.loopback import Loopback


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


def test_preferences_without_a_pair_are_refused(tmp_path: Path) -> None:
    run, out = run_of(tmp_path, "The Loire."), tmp_path / "out.jsonl"
    said = run_cli("export", run, "--format", PREFERENCE, "-o", out, code=2)
    assert "none of the 1 row has a preference pair, so there is nothing to export" in said
    assert "quality.pairs=true" in said
    run_cli("export", run, "--format", PREFERENCE, code=2)
    assert not out.exists()
    assert not (run / "dataset" / "preference.jsonl").exists()


@pytest.mark.parametrize("name", sorted([*FORMATS, PREFERENCE]))
def test_a_run_without_rows_is_not_exported(name: str, tmp_path: Path) -> None:
    run, out = run_of(tmp_path, ""), tmp_path / "out.jsonl"
    out.write_text("mine")
    said = run_cli("export", run, "--format", name, "-o", out, code=2)
    assert f"{run} has no rows yet, so there is nothing to export" in said
    assert out.read_text() == "mine"
    run_cli("export", run, "--format", CANDIDATES, "-o", out)
    assert set(export_formats()) == {*FORMATS, PREFERENCE, CANDIDATES}


def test_a_run_without_candidates_has_none_to_export(tmp_path: Path) -> None:
    answer = "There is no list here"
    run, out = run_of(tmp_path, answer, strategy="alpaca", seeds="builtin", patience=2), tmp_path / "out.jsonl"
    said = run_cli("export", run, "--format", CANDIDATES, "-o", out, code=2)
    assert "no answer of this run holds a candidate" in said
    assert not out.exists()

"""The same ledger gives the same bytes, in this version as in the one that made it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from selfinstruct import generate
from selfinstruct.runs.status import export_run, status
from tests.golden.make import GOLDEN, RUNS

HELP = "a ledger is read differently: raise SEMANTICS and run `python -m tests.golden.make`, or mend the change"


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_ledger_gives_its_golden_bytes(name: str, tmp_path: Path) -> None:
    shutil.copy(GOLDEN / name / "run.sqlite", tmp_path)
    for kind in ("alpaca", "candidates"):
        export_run(tmp_path, kind)
        assert (tmp_path / "dataset" / f"{kind}.jsonl").read_bytes() == (
            GOLDEN / name / f"{kind}.jsonl"
        ).read_bytes(), HELP
    assert (tmp_path / "dataset" / "manifest.json").read_bytes() == (GOLDEN / name / "manifest.json").read_bytes(), HELP
    assert status(tmp_path).complete


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_ledger_can_be_replayed(name: str, tmp_path: Path) -> None:
    """Every prompt is rebuilt as it was sent, from the seeds and templates of this tree."""
    result = generate(tmp_path / "again", {"backend": "replay", "replay": {"source": str(GOLDEN / name)}})
    assert result.exported.path.read_bytes() == (GOLDEN / name / "alpaca.jsonl").read_bytes()

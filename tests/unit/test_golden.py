"""The same ledger yields the same bytes in this version as in the version that wrote it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfinstruct import generate
from selfinstruct.runs.export import export
from selfinstruct.runs.status import status
from selfinstruct.strategies import STRATEGIES
from tests.golden.make import APIS, GOLDEN, exports

HELP = "a ledger is read differently: fix the change, or raise SEMANTICS and run `python -m tests.golden.make`"


@pytest.mark.parametrize("name", APIS)
def test_a_golden_ledger_gives_its_golden_bytes(name: str, tmp_path: Path) -> None:
    shutil.copy(GOLDEN / name / "run.sqlite", tmp_path)
    for kind in exports(name):
        export(tmp_path, kind)
        golden = (GOLDEN / name / f"{kind}.jsonl").read_bytes()
        assert (tmp_path / "dataset" / f"{kind}.jsonl").read_bytes() == golden, HELP
    assert (tmp_path / "dataset" / "manifest.json").read_bytes() == (GOLDEN / name / "manifest.json").read_bytes(), HELP
    assert status(tmp_path).complete


@pytest.mark.parametrize("name", APIS)
def test_a_golden_ledger_can_be_replayed(name: str, tmp_path: Path) -> None:
    """Every prompt is rebuilt exactly as it was sent, from the seeds and templates of this tree."""
    result = generate(tmp_path / "again", {"backend": "replay", "replay": {"source": str(GOLDEN / name)}})
    assert result.exported.path.read_bytes() == (GOLDEN / name / f"{exports(name)[0]}.jsonl").read_bytes()


def test_every_strategy_has_a_golden_run() -> None:
    assert set(APIS) == {*STRATEGIES, "mix", "quality"}


@pytest.mark.parametrize("name", APIS)
def test_a_golden_run_covers_kept_rows_and_rejected_candidates(name: str) -> None:
    lines = (GOLDEN / name / "candidates.jsonl").read_text().splitlines()
    assert len({json.loads(line)["kept"] for line in lines}) == 2

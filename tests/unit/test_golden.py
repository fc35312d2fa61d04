"""The same ledger yields the same bytes in this version as in the version that wrote it."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from selfinstruct import generate, refilter
from selfinstruct.ledger.schema import SEALED, seal
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


def test_an_old_ledger_with_other_endings_keeps_its_rows(tmp_path: Path) -> None:
    """Before semantics 2 every ending but ``length`` marked a complete answer; a fork reads by the current rules."""
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(GOLDEN / "self-instruct" / "run.sqlite", old)
    with contextlib.closing(sqlite3.connect(old / "run.sqlite")) as ledger, ledger:
        columns = SEALED["outcomes"]
        for row in ledger.execute(f"SELECT {', '.join(columns)} FROM outcomes").fetchall():
            values = dict(zip(columns, row, strict=True))
            values["body"] = bytes(values["body"]).replace(b',"stop"]', b',"model_length"]')
            changed = (values["body"], seal(*values.values()), values["k"])
            ledger.execute("UPDATE outcomes SET body = ?, seal = ? WHERE k = ?", changed)
    export(old)
    assert (old / "dataset" / "alpaca.jsonl").read_bytes() == (GOLDEN / "self-instruct" / "alpaca.jsonl").read_bytes()
    forked = refilter(old, tmp_path / "new")
    assert forked.rows < 12
    assert forked.stats.discarded["ended_model_length"] > 0


def test_every_strategy_has_a_golden_run() -> None:
    assert set(APIS) == {*STRATEGIES, "mix", "quality"}


@pytest.mark.parametrize("name", APIS)
def test_a_golden_run_covers_kept_rows_and_rejected_candidates(name: str) -> None:
    lines = (GOLDEN / name / "candidates.jsonl").read_text().splitlines()
    assert len({json.loads(line)["kept"] for line in lines}) == 2

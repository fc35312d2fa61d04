"""The public interface: its names, their documentation, and what the functions return."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import pytest

import selfinstruct
from selfinstruct import api
from selfinstruct.errors import LedgerError, UsageError
from tests.cli import ROOT
from tests.golden.make import GOLDEN

PAGE = (ROOT / "docs" / "api.md").read_text()


def test_all_lists_the_documented_names_sorted() -> None:
    documented = set(re.findall(r"^### (\w+)$", PAGE, re.M)) | set(re.findall(r"^- `(\w+)`: version", PAGE, re.M))
    assert set(selfinstruct.__all__) == documented
    constants_first = sorted(selfinstruct.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert constants_first == selfinstruct.__all__
    assert set(selfinstruct.__all__) <= set(dir(selfinstruct))


def test_every_name_has_a_docstring() -> None:
    for name in selfinstruct.__all__:
        value = getattr(selfinstruct, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            assert value.__name__ == name


def test_the_table_of_modules_covers_every_name_that_is_imported_lazily() -> None:
    assert set(selfinstruct._MODULE_OF) == set(selfinstruct.__all__) - {"SEMANTICS", "__version__"}
    assert selfinstruct.generate is api.generate
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = selfinstruct.nothing


@pytest.fixture
def run(tmp_path: Path) -> selfinstruct.Run:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(GOLDEN / "alpaca" / "run.sqlite", folder)
    return selfinstruct.open_run(str(folder))


def test_a_run_lists_its_rows_and_its_rejected_candidates(run: selfinstruct.Run) -> None:
    rows, rejects = run.rows(), run.rejects()
    assert len(rows) == run.status().rows > 0
    assert all(isinstance(row, selfinstruct.AcceptedRow) for row in rows)
    assert {candidate.reason for candidate in rejects} == set(run.status().stats.rejected)
    assert run.explain(1).id == rows[0].id
    assert run.explain(rejects[0].id).candidate.reason == rejects[0].reason


def test_a_run_exports_its_rows(run: selfinstruct.Run, tmp_path: Path) -> None:
    exported = run.export("messages", str(tmp_path / "rows.jsonl"))
    assert exported.rows == len(run.rows())
    assert exported.path.read_text().count("\n") == exported.rows
    with pytest.raises(UsageError, match="no format 'xml'"):
        run.export("xml")


def test_opening_a_directory_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no run"):
        selfinstruct.open_run(tmp_path)


def test_runs_are_listed_and_an_unreadable_one_has_its_error(run: selfinstruct.Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.sqlite").write_bytes(b"not a database")
    listed = {listing.folder.name: listing for listing in selfinstruct.list_runs(tmp_path)}
    assert listed["run"].status is not None
    assert listed["broken"].status is None
    assert "broken" in listed["broken"].error
    with pytest.raises(UsageError, match="no directory"):
        selfinstruct.list_runs(tmp_path / "nowhere")


def test_refilter_tune_and_diff_agree(run: selfinstruct.Run, tmp_path: Path) -> None:
    threshold = 0.3
    stricter = selfinstruct.refilter(run.folder, tmp_path / "new", {"filters": {"novelty": {"threshold": threshold}}})
    (tried,) = selfinstruct.tune(run.folder, {"filters.novelty.threshold": [threshold]})
    assert stricter.rows <= tried.rows
    comparison = selfinstruct.diff(run.folder, tmp_path / "new")
    assert comparison.common + len(comparison.lost) == len(run.rows())
    assert comparison.common + len(comparison.gained) == stricter.rows

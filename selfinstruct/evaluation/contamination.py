"""What a model's training data reveals of the items that it is evaluated on.

The rules are the ones of the decontamination filter (``filters/decontaminate.py``). The result is stored with the run,
so that a comparison can warn long after the training data is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import canonical, loads
from selfinstruct.common.files import read_text, write_atomic
from selfinstruct.common.row_texts import texts_of
from selfinstruct.common.sources import open_rows
from selfinstruct.errors import DataError, LedgerError
from selfinstruct.filters.decontaminate import Decontaminator
from selfinstruct.records import Task

__all__ = ["CONTAMINATION_FILE", "Contamination", "measure_contamination", "read_contamination", "write_contamination"]

CONTAMINATION_FILE = "contamination.json"

_BATCH = 1024  # rows compared at once


@dataclass(frozen=True)
class Contamination:
    """The training rows that reveal items of an evaluation.

    Attributes:
        rows: Number of training rows.
        overlapping: Number of rows that reveal an item.
        items: Ids of the items that are revealed, in the order of the run.
    """

    rows: int
    overlapping: int
    items: tuple[str, ...]


def measure_contamination(tasks: Sequence[Task], dataset: str | Path) -> Contamination:
    """Compare training rows with the items of an evaluation.

    Args:
        tasks: The items of the run.
        dataset: The training data in any layout; see ``open_rows``.

    Raises:
        UsageError: The data can't be read.
        DataError: A row is invalid; the message begins with its file and line.
    """
    filter_ = Decontaminator(tuple(task.instruction for task in tasks), tuple(task.id for task in tasks))
    source = open_rows(dataset)
    rows = overlapping = 0
    revealed: set[str] = set()
    batch: list[str] = []

    def compare() -> None:
        nonlocal overlapping
        for verdict in filter_.decide(batch):
            if not verdict.kept:
                overlapping += 1
                revealed.add(str(verdict.nearest))
        batch.clear()

    for row in source.rows:
        if isinstance(row, DataError):
            raise row
        try:
            texts = texts_of(row.value)
        except ValueError as error:
            raise DataError(f"{source.where(row.number)}: {error}") from None
        batch.append("\n".join(filter(None, (texts.scope, texts.body))))
        rows += 1
        if len(batch) == _BATCH:
            compare()
    compare()
    return Contamination(rows, overlapping, tuple(task.id for task in tasks if task.id in revealed))


def write_contamination(folder: Path, measured: Contamination) -> None:
    """Store the result with a run."""
    write_atomic(folder / CONTAMINATION_FILE, [canonical(asdict(measured)), b"\n"])


def read_contamination(folder: Path) -> Contamination | None:
    """Return the stored result of a run; None if its training data was never compared.

    Raises:
        LedgerError: The file is damaged.
    """
    path = folder / CONTAMINATION_FILE
    if not path.exists():
        return None
    try:
        value: Any = loads(read_text(path))
        return Contamination(int(value["rows"]), int(value["overlapping"]), tuple(map(str, value["items"])))
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path}: can't be read ({error}); repeat evaluate with --trained-on") from None

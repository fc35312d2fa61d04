"""Comparison of two runs: the rows that both have, and the reasons why other rows are missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.engine.near_duplicates import row_text
from selfinstruct.engine.plan import recorded_plan
from selfinstruct.engine.row_filters import FilterOutcome
from selfinstruct.engine.run_state import RunState
from selfinstruct.ledger import Reader
from selfinstruct.pool import AcceptedRow
from selfinstruct.records import Candidate

__all__ = ["BEYOND", "UNSEEN", "Comparison", "UnmatchedRow", "compare"]

UNSEEN = "never offered"
BEYOND = "kept, beyond the rows asked for"

_RowKey = tuple[str, str, str]


@dataclass(frozen=True)
class UnmatchedRow:
    """A row of one run that is not in the dataset of the other.

    Attributes:
        position: Position of the row in its dataset, from 1.
        row: The row.
        reason: Why the other run lacks it: a reject reason, ``UNSEEN`` or ``BEYOND``.
        candidate: Id of the candidate with the same text in the other run; None if no candidate has it.
    """

    position: int
    row: AcceptedRow
    reason: str
    candidate: str | None


@dataclass(frozen=True)
class Comparison:
    """The differences between two datasets.

    Two rows are the same if instruction, input and output are equal; for conversations, if all messages are.

    Attributes:
        common: Number of rows that both datasets have.
        lost: Rows of the first dataset only.
        gained: Rows of the second dataset only.
    """

    common: int
    lost: tuple[UnmatchedRow, ...]
    gained: tuple[UnmatchedRow, ...]

    @staticmethod
    def reasons(rows: tuple[UnmatchedRow, ...]) -> list[tuple[str, int]]:
        """Return the reasons of ``rows`` and how often each occurs, most frequent first."""
        return Counter(row.reason for row in rows).most_common()


@dataclass(frozen=True)
class _Dataset:
    rows: list[AcceptedRow]
    verdicts: dict[_RowKey, tuple[str, str]]  # candidate id and reject reason of every text that was filtered as a row


def compare(first: Path, second: Path) -> Comparison:
    """Compare the datasets of two runs.

    Args:
        first: A run directory.
        second: Another run directory.

    Returns:
        The common rows and the differences. ``first`` and ``second`` may be at work.

    Raises:
        LedgerError: If one of the directories holds no readable run.
        RunChangedError: If this version of selfinstruct reads one of the ledgers differently.
    """
    datasets = _load(first), _load(second)
    first_keys, second_keys = ({_row_key(row.candidate) for row in dataset.rows} for dataset in datasets)
    lost = _unmatched(datasets[0], datasets[1], second_keys)
    gained = _unmatched(datasets[1], datasets[0], first_keys)
    return Comparison(len(first_keys & second_keys), lost, gained)


def _load(folder: Path) -> _Dataset:
    verdicts: dict[_RowKey, tuple[str, str]] = {}

    def collect(filtered: FilterOutcome, _: object) -> None:
        for decided in filtered.candidates:
            key = _row_key(decided.candidate)
            # If a text was offered several times, the accepted candidate counts, or else the first one.
            if decided.candidate.kind == "row" and (decided.kept or key not in verdicts):
                verdicts[key] = decided.id, decided.reason

    with Reader(folder) as reader:
        reader.freeze()
        state = RunState.from_ledger(recorded_plan(reader), reader, collect)
        return _Dataset(state.rows, verdicts)


def _unmatched(dataset: _Dataset, other: _Dataset, other_keys: set[_RowKey]) -> tuple[UnmatchedRow, ...]:
    rows = []
    for position, row in enumerate(dataset.rows, start=1):
        key = _row_key(row.candidate)
        if key not in other_keys:
            candidate, reason = other.verdicts.get(key, (None, UNSEEN))
            rows.append(UnmatchedRow(position, row, reason or BEYOND, candidate))
    return tuple(rows)


def _row_key(candidate: Candidate) -> _RowKey:
    text = row_text(candidate) if candidate.messages else candidate.output  # conversations may share their last answer
    return candidate.instruction, candidate.input, text

"""Two runs beside each other: which rows both have, and what became of the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.engine.plan import recorded_plan
from selfinstruct.engine.row_filters import FilterOutcome, row_text
from selfinstruct.engine.run_state import RunState
from selfinstruct.ledger import Reader
from selfinstruct.pool import AcceptedRow
from selfinstruct.records import Candidate

__all__ = ["BEYOND", "UNSEEN", "Comparison", "Missing", "compare"]

UNSEEN = "never offered"
BEYOND = "kept, beyond the rows asked for"

_Key = tuple[str, str, str]


@dataclass(frozen=True)
class Missing:
    """A row of one run that the other has not.

    Attributes:
        place: In the dataset of the one, from 1.
        reason: What the other made of the same text: a reason of rejection, ``UNSEEN`` or ``BEYOND``.
        candidate: Its id in the other; None where that never saw it.
    """

    place: int
    row: AcceptedRow
    reason: str
    candidate: str | None


@dataclass(frozen=True)
class Comparison:
    """Two datasets.

    Attributes:
        common: Rows that both have, by instruction, input and output; conversations by all that is said.
        lost: Rows of the first alone.
        gained: Rows of the second alone.
    """

    common: int
    lost: tuple[Missing, ...]
    gained: tuple[Missing, ...]

    @staticmethod
    def reasons(missing: tuple[Missing, ...]) -> list[tuple[str, int]]:
        """How often each reason, the commonest first."""
        return Counter(one.reason for one in missing).most_common()


@dataclass(frozen=True)
class _Side:
    rows: list[AcceptedRow]
    verdicts: dict[_Key, tuple[str, str]]  # of every text that was judged as a row: id of the candidate, and the reason


def compare(first: Path, second: Path) -> Comparison:
    """Compare the datasets of two runs.

    Raises:
        LedgerError: There is no readable run in one of the folders.
    """
    one, other = _side(first), _side(second)
    ours, theirs = ({_key(row.candidate) for row in side.rows} for side in (one, other))
    return Comparison(len(ours & theirs), _missing(one, other, theirs), _missing(other, one, ours))


def _side(folder: Path) -> _Side:
    verdicts: dict[_Key, tuple[str, str]] = {}

    def take(judged: FilterOutcome, _: object) -> None:
        for one in judged.candidates:
            # Of a text that came several times, the time that it was kept counts; else the first.
            if one.candidate.kind == "row" and (one.kept or _key(one.candidate) not in verdicts):
                verdicts[_key(one.candidate)] = one.id, one.reason

    with Reader(folder) as reader:
        reader.freeze()
        course = RunState.of(recorded_plan(reader), reader, take)
        return _Side(course.rows, verdicts)


def _missing(one: _Side, other: _Side, theirs: set[_Key]) -> tuple[Missing, ...]:
    found = []
    for place, row in enumerate(one.rows, start=1):
        key = _key(row.candidate)
        if key in theirs:
            continue
        name, reason = other.verdicts.get(key, (None, UNSEEN))
        found.append(Missing(place, row, reason or BEYOND, name))
    return tuple(found)


def _key(candidate: Candidate) -> _Key:
    said = row_text(candidate) if candidate.messages else candidate.output  # conversations may end alike
    return candidate.instruction, candidate.input, said

"""What the line has accepted so far: append-only, and all that a strategy may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfinstruct.records import Candidate, Task

__all__ = ["Pool", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One accepted row: one line of the dataset.

    Attributes:
        id: Id of the candidate it was.
        task: Id of the task it belongs to (its own id where it brought its instruction with it).
    """

    id: str
    task: str
    candidate: Candidate


class Pool:
    """Seeds, the machine's own tasks, and the accepted rows, each in the order in which they came."""

    def __init__(self, seeds: Sequence[Task]) -> None:
        self.seeds: Sequence[Task] = tuple(seeds)
        self.tasks: list[Task] = []
        self.rows: list[Row] = []

"""The pool of accepted tasks and rows: append-only, and everything that a strategy may see."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfinstruct.common.codec import Json
from selfinstruct.records import Candidate, Task

__all__ = ["AcceptedRow", "MethodProgress", "Pool"]

_RECENT = 256  # requests from which a method's yield is estimated: yields fall as the pool fills


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """One accepted row: one line of the dataset.

    Attributes:
        id: Id of its candidate.
        task: Id of its task (``id`` if the candidate brought its own instruction).
    """

    id: str
    task: str
    candidate: Candidate


class MethodProgress:
    """The progress of one method of a run: the seed tasks it has started, and its yield.

    Strategies that begin with tasks work through the seeds in order; ``Request.item`` is the index of the seed.

    Attributes:
        next_item: The lowest item that was not requested.
        recent: Rows and tokens of the most recent processed requests, oldest first; in mixed runs only.
        rows, tokens: Sums over ``recent``.
    """

    def __init__(self) -> None:
        self.next_item = 0
        self.recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)
        self.rows = self.tokens = 0
        self._later_items: set[int] = set()  # requested before ``next_item``, as in a fork whose source lacks answers

    def take(self, item: int) -> None:
        """Record that an item was requested."""
        self._later_items.add(item)
        while self.next_item in self._later_items:
            self._later_items.discard(self.next_item)
            self.next_item += 1

    def add(self, rows: int, tokens: int) -> None:
        """Record the rows and tokens of a processed request."""
        if len(self.recent) == self.recent.maxlen:
            self.rows -= self.recent[0][0]
            self.tokens -= self.recent[0][1]
        self.recent.append((rows, tokens))
        self.rows += rows
        self.tokens += tokens

    def to_json(self) -> Json:
        """Return the progress as JSON."""
        return [self.next_item, sorted(self._later_items), [list(entry) for entry in self.recent]]

    @classmethod
    def from_json(cls, value: Any) -> MethodProgress:
        """Rebuild the progress from ``to_json``."""
        progress = cls()
        progress.next_item, progress._later_items = value[0], set(value[1])
        for rows, tokens in value[2]:
            progress.add(rows, tokens)
        return progress


class Pool:
    """Seeds, machine-written tasks and accepted rows, each in the order of acceptance.

    Attributes:
        others: Kept texts that are not tasks (``Candidate.is_task``); only the filters know them.
        progress_by_method: Progress by the label of the method; "" in a run of one method.
    """

    def __init__(self, seeds: Sequence[Task]) -> None:
        self.seeds: Sequence[Task] = tuple(seeds)
        self.tasks: list[Task] = []
        self.others: list[Task] = []
        self.rows: list[AcceptedRow] = []
        self.progress_by_method: defaultdict[str, MethodProgress] = defaultdict(MethodProgress)

    @property
    def progress(self) -> MethodProgress:
        """Progress of the only method of a run."""
        return self.progress_by_method[""]

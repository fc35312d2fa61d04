"""What the line has accepted so far: append-only, and all that a strategy may see."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfinstruct.common.codec import Json
from selfinstruct.records import Candidate, Task

__all__ = ["AcceptedRow", "MethodProgress", "Pool"]

_RECENT = 256  # judged requests of a method that tell what it brings: the pool fills, and what was new no longer is


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """One accepted row: one line of the dataset.

    Attributes:
        id: Id of the candidate it was.
        task: Id of the task it belongs to (its own id where it brought its instruction with it).
    """

    id: str
    task: str
    candidate: Candidate


class MethodProgress:
    """What one method of a run was asked to begin with, and what it brings.

    Some methods begin with what they are given, one after the other: such a request says which by ``item`` in its
    context, a number from 0 on.

    Attributes:
        next_item: The lowest item that was not asked for.
        recent: Rows and tokens of the last judged requests, oldest first; kept for mixed runs only.
        rows, tokens: Their sums.
    """

    def __init__(self) -> None:
        self.next_item = 0
        self.recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)
        self.rows = self.tokens = 0
        self._beyond: set[int] = set()  # asked for before a lower one: in a fork, whose source lacks some answers

    def take(self, item: int) -> None:
        """An item was asked for."""
        self._beyond.add(item)
        while self.next_item in self._beyond:
            self._beyond.discard(self.next_item)
            self.next_item += 1

    def add(self, rows: int, tokens: int) -> None:
        """A request was judged that took so many tokens, and so many rows came of it."""
        if len(self.recent) == self.recent.maxlen:
            self.rows -= self.recent[0][0]
            self.tokens -= self.recent[0][1]
        self.recent.append((rows, tokens))
        self.rows += rows
        self.tokens += tokens

    def to_json(self) -> Json:
        return [self.next_item, sorted(self._beyond), [list(one) for one in self.recent]]

    @classmethod
    def from_json(cls, value: Any) -> MethodProgress:
        account = cls()
        account.next_item, account._beyond = value[0], set(value[1])
        for rows, tokens in value[2]:
            account.add(rows, tokens)
        return account


class Pool:
    """Seeds, the machine's own tasks, and the accepted rows, each in the order in which they came.

    Attributes:
        others: Texts that were kept and are no tasks (``Candidate.is_task``): known to the filters alone.
        progress_by_method: By method; "" is the only one of a run that isn't mixed.
    """

    def __init__(self, seeds: Sequence[Task]) -> None:
        self.seeds: Sequence[Task] = tuple(seeds)
        self.tasks: list[Task] = []
        self.others: list[Task] = []
        self.rows: list[AcceptedRow] = []
        self.progress_by_method: defaultdict[str, MethodProgress] = defaultdict(MethodProgress)

    @property
    def progress(self) -> MethodProgress:
        """That of a run of one method."""
        return self.progress_by_method[""]

"""Which tasks a prompt shows: the parts that strategies share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import nsmallest

from selfinstruct.codec import Json
from selfinstruct.records import Request, Task

__all__ = ["ids", "longest_field", "named", "shortest"]


def shortest(tasks: Sequence[Task], count: int, size: Callable[[Task], int]) -> list[Task]:
    """The ``count`` smallest tasks, the smallest first; those of equal size in the given order."""
    order = nsmallest(count, range(len(tasks)), key=lambda place: (size(tasks[place]), place))
    return [tasks[place] for place in order]


def longest_field(task: Task) -> int:
    """Characters of the longest of the task's instruction, first input and first output."""
    return max(len(task.instruction), *(len(text) for one in task.instances[:1] for text in (one.input, one.output)))


def ids(tasks: Sequence[Task]) -> list[Json]:
    """What ``Request.context`` keeps of the tasks that a prompt shows."""
    return [task.id for task in tasks]


def named(tasks: Sequence[Task], request: Request) -> list[Task]:
    """Those of the tasks that the request's prompt shows, in the prompt's order."""
    wanted = request.context["demonstrations"]
    assert isinstance(wanted, Sequence), wanted
    places = {name: place for place, name in enumerate(wanted)}
    return sorted((task for task in tasks if task.id in places), key=lambda task: places[task.id])

"""Which tasks a prompt shows: the parts that strategies share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import nsmallest

from selfinstruct.common.codec import Json
from selfinstruct.records import Request, Task

__all__ = [
    "has_instances",
    "ids",
    "instruction_length",
    "interleaved",
    "is_alone",
    "is_label",
    "is_other",
    "is_paired",
    "longest_field",
    "named",
    "preferred",
    "shortest",
]


def has_instances(task: Task) -> bool:
    """True when there is an instance to show."""
    return bool(task.instances)


def is_alone(task: Task) -> bool:
    """True for a task that needs no input."""
    return not any(one.input for one in task.instances)


def is_paired(task: Task) -> bool:
    """True for a task that needs an input."""
    return not is_alone(task)


def is_label(task: Task) -> bool:
    """True for a classification task."""
    return task.is_classification is True


def is_other(task: Task) -> bool:
    """True for a task that isn't known as one of classification."""
    return not is_label(task)


def instruction_length(task: Task) -> int:
    """Characters of the instruction."""
    return len(task.instruction)


def preferred(tasks: Sequence[Task], *wishes: Callable[[Task], bool]) -> list[Task]:
    """The tasks that meet every wish; a wish that would leave none is passed over (seeds without domains, say)."""
    chosen = list(tasks)
    for wish in wishes:
        chosen = [task for task in chosen if wish(task)] or chosen
    return chosen


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


def interleaved(first: Sequence[Task], second: Sequence[Task]) -> list[Task]:
    """Both kinds spread evenly over one list."""
    keyed = [
        ((place + 0.5) / len(kind), order, task)
        for order, kind in enumerate((first, second))
        for place, task in enumerate(kind)
    ]
    return [task for _, _, task in sorted(keyed, key=lambda one: one[:2])]

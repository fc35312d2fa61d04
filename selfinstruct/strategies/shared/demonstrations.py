"""How strategies choose the tasks that a prompt shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import nsmallest

from selfinstruct.records import Request, Task

__all__ = [
    "demonstrated",
    "has_instances",
    "instruction_length",
    "interleaved",
    "is_classification_task",
    "is_other_task",
    "longest_field",
    "needs_input",
    "needs_no_input",
    "preferred",
    "shortest",
    "task_ids",
]


def has_instances(task: Task) -> bool:
    """Return True if the task has an instance to show."""
    return bool(task.instances)


def needs_no_input(task: Task) -> bool:
    """Return True for a task that needs no input."""
    return not any(instance.input for instance in task.instances)


def needs_input(task: Task) -> bool:
    """Return True for a task that needs an input."""
    return not needs_no_input(task)


def is_classification_task(task: Task) -> bool:
    """Return True for a classification task."""
    return task.is_classification is True


def is_other_task(task: Task) -> bool:
    """Return True for a task that is not known to be a classification task."""
    return not is_classification_task(task)


def instruction_length(task: Task) -> int:
    """Return the number of characters of the instruction."""
    return len(task.instruction)


def preferred(tasks: Sequence[Task], *wishes: Callable[[Task], bool]) -> list[Task]:
    """Return the tasks that meet every wish; a wish that no task meets is ignored (seeds without domains, say)."""
    chosen = list(tasks)
    for wish in wishes:
        chosen = [task for task in chosen if wish(task)] or chosen
    return chosen


def shortest(tasks: Sequence[Task], count: int, size: Callable[[Task], int]) -> list[Task]:
    """Return the ``count`` smallest tasks, the smallest first; tasks of equal size keep their order."""
    order = nsmallest(count, range(len(tasks)), key=lambda index: (size(tasks[index]), index))
    return [tasks[index] for index in order]


def longest_field(task: Task) -> int:
    """Return the number of characters of the longest of instruction, first input and first output."""
    texts = (text for instance in task.instances[:1] for text in (instance.input, instance.output))
    return max(map(len, (task.instruction, *texts)))


def task_ids(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Return the ids of the tasks that a prompt shows, for ``Request.demonstrations``."""
    return tuple(task.id for task in tasks)


def demonstrated(tasks: Sequence[Task], request: Request) -> list[Task]:
    """Return the tasks that the request's prompt shows, in the prompt's order."""
    order = {task_id: index for index, task_id in enumerate(request.demonstrations or ())}
    return sorted((task for task in tasks if task.id in order), key=lambda task: order[task.id])


def interleaved(first: Sequence[Task], second: Sequence[Task]) -> list[Task]:
    """Return both kinds of tasks spread evenly over one list."""
    keyed = [
        ((index + 0.5) / len(kind), order, task)
        for order, kind in enumerate((first, second))
        for index, task in enumerate(kind)
    ]
    return [task for _, _, task in sorted(keyed, key=lambda entry: entry[:2])]

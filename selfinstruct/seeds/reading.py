"""Reading of seed tasks, and of tasks in any dataset.

``load_seeds`` reads demonstrations: tasks with answers, of which the public layout of 175 tasks (``id``, ``name``,
``instruction``, ``instances``, ``is_classification``; Wang et al. 2023, arXiv:2212.10560) and plain ``instruction``,
``input``, ``output`` are the usual ones. ``load_tasks`` reads the tasks of any dataset or finished run. Both read every
layout of ``common.rows``. A task may have a ``verifier``, by which code checks its answers (``verifiers/``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.messages import Turn, is_absent, plain_name
from selfinstruct.common.rows import Exchange, ParsedRow, parse_row
from selfinstruct.common.sources import open_rows
from selfinstruct.common.unread import unread_notices
from selfinstruct.errors import DataError
from selfinstruct.records import Instance, Message, Task
from selfinstruct.verifiers import check_verifier, without_nulls

__all__ = [
    "NO_SEED",
    "LoadedTasks",
    "SeedFile",
    "load_demonstrations",
    "load_seeds",
    "load_tasks",
    "read_seed_file",
    "seeds_from_json",
    "seeds_to_json",
]

_MAX_ERRORS = 20  # errors listed in one message

_USE = "sent to the model"
_MEDIA = ("image", "images", "imagepath", "imageurl", "audio", "audios", "video", "videos")
_CANDIDATE = re.compile(r"\d+\.\d+")  # the form of candidate ids


@dataclass(frozen=True)
class LoadedTasks:
    """The tasks of a file.

    Attributes:
        tasks: The tasks, in the order of the file.
        notices: What was left out or joined, one sentence for each kind, with the number of rows.
    """

    tasks: list[Task]
    notices: tuple[str, ...] = ()


@dataclass
class SeedFile:
    """A seed file as read: valid tasks, with their row number by id, and an error for each invalid row."""

    where: Callable[[int], str]
    tasks: list[Task] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    empty_inputs: list[tuple[int, str]] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)

    @property
    def notices(self) -> tuple[str, ...]:
        """What is left out of the valid rows, one sentence for each field."""
        return tuple(unread_notices(self.unread, _USE))


def read_seed_file(path: Path) -> SeedFile:
    """Read all valid tasks of a seed file.

    Raises:
        UsageError: The file can't be read.
    """
    source = open_rows(path)
    seeds = SeedFile(source.where)
    for row in source.rows:
        if isinstance(row, DataError):
            seeds.errors.append(str(row))
            continue
        try:
            parsed = parse_row(row.value)
            task = _demonstration(row.value, parsed, row.number)
            if task.id in seeds.numbers:
                raise ValueError(f"id {task.id[:80]!r} is already used on line {seeds.numbers[task.id]}")
        except ValueError as error:
            seeds.errors.append(f"{source.where(row.number)}: {_with_remedy(str(error))}")
            continue
        seeds.numbers[task.id] = row.number
        seeds.tasks.append(task)
        seeds.empty_inputs += [(row.number, text) for text in parsed.empty_inputs]
        seeds.unread.update(parsed.unread)
    return seeds


def load_seeds(path: Path) -> list[Task]:
    """Load the tasks of a seed file.

    Raises:
        UsageError: The file can't be read.
        DataError: The file has invalid lines (one message lists all of them) or no tasks.
    """
    return load_demonstrations(path).tasks


def load_demonstrations(path: Path, *, skip_malformed: bool = False) -> LoadedTasks:
    """Load the tasks of a seed file, each with its answers.

    Args:
        path: A file of rows in any layout, see ``open_rows``.
        skip_malformed: Leave invalid rows out and count them in a notice.

    Raises:
        UsageError: The file can't be read.
        DataError: The file has invalid rows (one message lists all of them) or no tasks.
    """
    seeds = read_seed_file(path)
    if seeds.errors and not (skip_malformed and seeds.tasks):
        raise DataError(_listed(seeds.errors))
    if not seeds.tasks:
        raise DataError(f"{path}: {NO_SEED}")
    return LoadedTasks(seeds.tasks, (*_skipped(seeds.errors), *seeds.notices))


NO_SEED = "the file has no seed task; each row must be an object with an instruction and an output"


def _listed(errors: Sequence[str]) -> str:
    more = f"\n... and {len(errors) - _MAX_ERRORS} more" if len(errors) > _MAX_ERRORS else ""
    return "\n".join(errors[:_MAX_ERRORS]) + more


def _skipped(errors: Sequence[str]) -> tuple[str, ...]:
    return (f"{_rows(len(errors))} skipped as malformed, the first: {errors[0]}",) if errors else ()


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def load_tasks(path: Path, *, skip_malformed: bool = False, without_context: str = "") -> LoadedTasks:
    """Load tasks from any dataset whose rows contain instructions, prompts or questions.

    Args:
        path: A run, or a file of rows in any layout, with or without answers; see ``open_rows``. A text file has one
            task per line.
        skip_malformed: Leave invalid rows out and count them in a notice.
        without_context: Name of a strategy that can send neither system prompts nor earlier rounds: rows that have them
            are invalid then.

    Returns:
        One task per row: for a row with several inputs (``instances``) one per input. A conversation that ends with a
        question gives that question, after the earlier rounds; any other gives its first question. The output of an
        instance is "" if the row has no answer; a row without input and answer has no instance. A task keeps its row's
        id if the id is usable and unique; otherwise its id is ``row_12``, say.

    Raises:
        UsageError: The file can't be read.
        DataError: The file has invalid rows (one message lists all of them) or no rows.
        MissingExtraError: The format needs the extra ``data``.
    """
    source = open_rows(path)
    tasks: list[Task] = []
    errors: list[str] = []
    taken: set[str] = set()
    notices: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    for row in source.rows:
        if isinstance(row, DataError):
            errors.append(str(row))
            continue
        try:
            parsed = parse_row(row.value)
            row_tasks = _tasks(row.value, parsed)
            if without_context and (row_tasks[0].system or row_tasks[0].history):
                part = "a system prompt" if row_tasks[0].system else "earlier rounds"
                raise ValueError(f"the row has {part}, which the strategy {without_context} can't send; remove that "
                                 "field, or answer the rows by respond")  # fmt: skip
        except ValueError as error:
            errors.append(f"{source.where(row.number)}: {_with_remedy(str(error))}")
            continue
        notices.update(_reading(parsed))
        unread.update(parsed.unread)
        for task in row_tasks:
            name = _unused(task.id, f"row_{row.number}", taken)
            taken.add(name)
            tasks.append(replace(task, id=name))
    if errors and not (skip_malformed and tasks):
        raise DataError(
            f"{_listed(errors)}\nFix or remove these rows, then run the same command again; --skip-malformed leaves "
            "them out."
        )
    if not tasks:
        raise DataError(
            f"{path}: the file has no task; each row must be an object with an instruction, a prompt or messages"
        )
    readings = [f"{_rows(count)} {text}" for text, count in notices.items()]
    return LoadedTasks(tasks, (*_skipped(errors), *readings, *unread_notices(unread, _USE)))


def _with_remedy(error: str) -> str:
    return f"no task: {error}; name the task's field 'instruction'" if error.startswith("none of") else error


def _reading(parsed: ParsedRow) -> Iterator[str]:
    """Yield what a task takes of a row, where that isn't all of it."""
    if parsed.empty_inputs:
        yield f"with an input spelled as nothing ({parsed.empty_inputs[0].strip()}), which is read as no input"
    if parsed.unused_system:
        yield "with a system prompt in a field and another one in the messages, which takes precedence"
    if not parsed.is_conversation:
        return
    start, end = parsed.question_span()
    if end - start > 1:
        yield "with several user messages in a row, which are taken as one"
    if any(turn.role == "user" for turn in parsed.turns[end:]):
        yield "with several rounds, of which the first question is taken and the later rounds are not"


def _unused(task_id: str, fallback: str, taken: Collection[str]) -> str:
    """Return the task's id, or the fallback if the id is empty, reserved for candidates, or taken."""
    name = fallback if not task_id or _CANDIDATE.fullmatch(task_id) or task_id in taken else task_id
    number = 1
    while name in taken:  # an id may equal another row's fallback, and the tasks of one row share it
        number += 1
        name = f"{fallback}_{number}"
    return name


def _tasks(row: Mapping[str, Any], parsed: ParsedRow) -> list[Task]:
    """Return the tasks of a row, with the row's id or "" as their id.

    Raises:
        ValueError: The row has no task, or a part of it can't be sent to a model.
    """
    if image := _image_field(row):
        raise ValueError(f"the row has {image!r}, which can't be sent; remove that field to ask the task without it")
    if parsed.tools:
        raise ValueError("the row has tools, which can't be sent; remove that field to answer the task without them")
    if parsed.is_conversation:
        start, end = parsed.question_span()
        instruction = parsed.question((start, end)).strip()
        if not instruction:
            raise ValueError(f"the {'first message' if start == 0 else f'message {start + 1}'} of {parsed.layout!r} is "
                             "empty")  # fmt: skip
        following = parsed.turns[end : end + 1]
        answer = following[0].content.strip() if following and following[0].role == "assistant" else ""
        exchanges, history = {parsed.context.strip(): answer}, parsed.turns[:start]
    else:
        instruction, history = parsed.instruction.strip(), parsed.turns
        if not instruction:
            raise ValueError(f"{parsed.layout!r} is missing or empty")
        exchanges = {}
        for exchange in parsed.exchanges:
            exchanges.setdefault(exchange.input.strip(), exchange.outputs[0].strip() if exchange.outputs else "")
    task = Task(
        _row_id(row),
        instruction,
        is_classification=is_it if isinstance(is_it := row.get("is_classification"), bool) else None,
        name=name if isinstance(name := row.get("name"), str) else "",
        domain=domain if isinstance(domain := row.get("domain"), str) else "",
        verifier=_row_verifier(row),
        system=parsed.system.strip(),
        history=tuple(_earlier(parsed.layout, turn) for turn in history),
    )
    return [replace(task, instances=(Instance(*exchange),) if any(exchange) else ()) for exchange in exchanges.items()]


def _image_field(row: Mapping[str, Any]) -> str:
    """Return the name of the row's field with a picture, a sound or a film; "" if none has a value."""
    names = (str(name) for name, value in row.items() if value and not is_absent(value))
    return next((name for name in names if plain_name(name) in _MEDIA), "")


def _earlier(layout: str, turn: Turn) -> Message:
    """Return a message that precedes the question of a task."""
    if turn.role not in ("user", "assistant") or turn.calls or turn.other_parts:
        kind = "tool calls" if turn.calls else "more than text" if turn.other_parts else f"the role {turn.role!r}"
        raise ValueError(f"a message before the question (in {layout!r}) has {kind}, which can't be sent")
    return Message("user" if turn.role == "user" else "assistant", turn.content)


def _row_id(row: Mapping[str, Any]) -> str:
    value = row.get("id")
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _row_verifier(row: Mapping[str, Any]) -> Mapping[str, Json] | None:
    verifier = without_nulls(row.get("verifier"))
    try:
        dumps(verifier)
    except (TypeError, ValueError):  # a date, bytes or NaN, which columns can hold and JSON can't
        raise ValueError("'verifier' holds a value that JSON can't represent; use numbers and strings") from None
    return None if verifier is None else check_verifier(verifier)


def _demonstration(row: Mapping[str, Any], parsed: ParsedRow, number: int) -> Task:
    """Return a row as a seed task: an instruction with at least one answer, and nothing that a prompt can't show.

    Raises:
        ValueError: The row is no seed task.
    """
    if parsed.layout.casefold() == "text" and not parsed.is_conversation:
        raise ValueError("'instruction' is missing or empty: a seed task needs an instruction and an output")
    (task, *_) = _tasks(row, parsed)
    if task.system or task.history:
        part = "a system prompt" if task.system else "earlier rounds"
        raise ValueError(f"the row has {part}, which a demonstration can't show; remove that field")
    if parsed.is_conversation:
        if any(turn.role == "user" for turn in parsed.turns[parsed.question_span()[1] :]):
            raise ValueError("the row has several rounds; a seed task is one question with its answer")
        if parsed.answer_problem:
            raise ValueError(parsed.answer_problem)
        instances = task.instances
        if not instances or not instances[0].output:
            raise ValueError(f"{parsed.layout!r} holds no answer to its first question")
    else:
        instances = tuple(_instance(exchange) for exchange in parsed.exchanges)
    is_classification = row.get("is_classification")
    if not isinstance(is_classification, bool | None):  # 1 equals True, but is a number
        raise ValueError(f"'is_classification' must be true or false, found {repr(is_classification)[:80]}")
    name = task.id or f"seed_{number}"
    if _CANDIDATE.fullmatch(name):
        raise ValueError(f"id {name[:80]!r} has the form of a candidate id; use another one, for example s{name[:80]}")
    return replace(task, id=name, instances=instances)


def _instance(exchange: Exchange) -> Instance:
    output = exchange.output().strip()
    if not exchange.field:
        raise ValueError("'instances' or 'output' is required")
    if not output:
        raise ValueError(f"{exchange.field!r} is missing or empty")
    return Instance(exchange.input.strip(), output)


def seeds_to_json(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Convert tasks to plain JSON, the form that the ledger stores and digests."""
    return [
        {
            "id": task.id,
            "name": task.name,
            "domain": task.domain,
            "instruction": task.instruction,
            "instances": [[instance.input, instance.output] for instance in task.instances],
            "is_classification": task.is_classification,
            **({} if task.verifier is None else {"verifier": dict(task.verifier)}),
            **({"system": task.system} if task.system else {}),
            **({"history": [[turn.role, turn.content] for turn in task.history]} if task.history else {}),
        }
        for task in tasks
    ]


def seeds_from_json(values: Sequence[Mapping[str, Any]]) -> list[Task]:
    """Rebuild tasks from the JSON that ``seeds_to_json`` returned."""
    return [
        Task(
            value["id"],
            value["instruction"],
            tuple(Instance(*pair) for pair in value["instances"]),
            value["is_classification"],
            value["name"],
            value["domain"],
            value.get("verifier"),
            value.get("system", ""),
            tuple(Message(*message) for message in value.get("history", ())),
        )
        for value in values
    ]

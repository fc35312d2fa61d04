"""Reading of rows as training examples.

The layout of a row follows from the first of these fields that it has:

- ``instruction`` with ``output`` and optionally ``input`` (Alpaca), or with ``instances`` (seed tasks: each instance is
  a separate example);
- ``messages`` (role and content) or ``conversations`` (ShareGPT: from and value);
- ``prompt`` with ``completion``; ``question`` with ``answer``.

Any row except a seed task may have a ``system`` prompt. If its messages begin with a system message, that message
takes precedence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfinstruct.common.files import first_line
from selfinstruct.common.formats import user_text
from selfinstruct.common.rows import LAYOUTS, answer_field, describe_fields, layout_of, parse_message
from selfinstruct.common.sources import open_any
from selfinstruct.errors import DataError, MissingExtraError, UsageError

__all__ = ["ChatTurn", "Example", "Examples", "examples_of", "read_examples"]

_MAX_LISTED = 5  # unusable rows that an error message quotes
_KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_REQUIRED_ANSWER = {"instruction": "output", "prompt": "completion", "question": "answer"}


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One message of a conversation.

    Raises:
        ValueError: The role is unknown to chat templates. Templates write roles verbatim, some of them inside a special
            token, so that an arbitrary role would let a row write special tokens.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in _KNOWN_ROLES:
            raise ValueError(f"unknown role {self.role[:40]!r}; known: {', '.join(_KNOWN_ROLES)}")


@dataclass(frozen=True, slots=True)
class Example:
    """A row as a conversation, together with its original fields.

    Attributes:
        name: Origin of the row: ``file:line``, with ``#2`` for the second instance of a seed task.
        turns: The conversation. For an Alpaca row: its system prompt, the instruction with its input, and the output.
        instruction, input, output: Fields of an Alpaca row or a seed task; otherwise None.
        prompt, completion: Fields of a row with a prompt or a question; otherwise None.
    """

    name: str
    turns: tuple[ChatTurn, ...]
    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    prompt: str | None = None
    completion: str | None = None

    @property
    def prompt_text(self) -> str:
        """Text of the turn before the last response."""
        last = max((index for index, turn in enumerate(self.turns) if turn.role == "assistant"), default=0)
        return self.turns[last - 1].content if last else ""


@dataclass(frozen=True)
class Examples:
    """The examples of a dataset.

    Attributes:
        examples: In the order of the rows.
        skipped: A message for each row that can't be used, beginning with its origin.
    """

    examples: list[Example] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def read_examples(path_or_name: str | Path) -> Examples:
    """Read the rows of a dataset.

    Args:
        path_or_name: A file (``.jsonl``, optionally gzipped, ``.json`` with an array, ``.parquet``), a run directory or
            its ``dataset`` (``alpaca.jsonl``), a directory saved by ``datasets``, or the name of a dataset on the hub.

    Raises:
        UsageError: There is no such dataset, it can't be read, or none of its rows can be used.
        MissingExtraError: The file format needs the extra ``data``.
    """
    name = str(path_or_name)
    result = Examples()
    for where, row in _rows(name):
        if isinstance(row, DataError):
            result.skipped.append(str(row))
            continue
        try:
            result.examples.extend(examples_of(row, where))
        except ValueError as error:
            result.skipped.append(f"{where}: {error}")
    if not result.examples:
        listed = "".join(f"\n  {message}" for message in result.skipped[:_MAX_LISTED])
        raise UsageError(f"{name} holds no row to train on{':' if listed else ' (it is empty)'}{listed}")
    return result


def examples_of(row: Mapping[str, Any], name: str) -> list[Example]:
    """Return the examples of a row: one, or one per instance of a seed task.

    Raises:
        ValueError: The layout is unknown, or a field is missing or not a string; the message does not name the row.
    """
    layout = layout_of(row)
    if layout is None or layout == "text":
        layouts = ", ".join(LAYOUTS[:-1])
        raise ValueError(f"unknown layout: none of {layouts}; it has {describe_fields(row)}")
    if layout in ("messages", "conversations"):
        return [Example(name, _with_system(_optional(row, "system"), _conversation(layout, row[layout])))]
    question = _text(row, layout)
    if layout == "instruction" and row.get("instances") is not None:
        return _seed_task(question, row["instances"], name)
    answer = _text(row, answer_field(row, layout) or _REQUIRED_ANSWER[layout])
    system = _optional(row, "system")
    if layout == "instruction":
        return [_alpaca(name, question, _optional(row, "input"), answer, system)]
    return [Example(name, _exchange(question, answer, system), prompt=question, completion=answer)]


def _alpaca(name: str, instruction: str, input_text: str, output: str, system: str = "") -> Example:
    turns = _exchange(user_text(instruction, input_text), output, system)
    return Example(name, turns, instruction=instruction, input=input_text, output=output)


def _exchange(question: str, answer: str, system: str = "") -> tuple[ChatTurn, ...]:
    return _with_system(system, (ChatTurn("user", question), ChatTurn("assistant", answer)))


def _with_system(system: str, turns: tuple[ChatTurn, ...]) -> tuple[ChatTurn, ...]:
    """Prepend the system prompt of a row, unless the conversation begins with one."""
    return (ChatTurn("system", system), *turns) if system and turns[0].role not in ("system", "developer") else turns


def _seed_task(instruction: str, instances: Any, name: str) -> list[Example]:
    if not isinstance(instances, list) or not instances:
        raise ValueError("'instances' is not a list with at least one instance")
    if not all(isinstance(instance, Mapping) for instance in instances):
        raise ValueError("'instances' is not a list of objects")
    return [
        _alpaca(
            name if len(instances) == 1 else f"{name}#{number}",
            instruction,
            _optional(instance, "input"),
            _text(instance, "output"),
        )
        for number, instance in enumerate(instances, start=1)
    ]


def _conversation(layout: str, messages: Any) -> tuple[ChatTurn, ...]:
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{layout!r} is not a list with at least one message")
    turns = tuple(ChatTurn(*parse_message(layout, message, text_only=True)) for message in messages)
    if not any(turn.role == "assistant" for turn in turns):
        raise ValueError(f"{layout!r} has no assistant message")
    return turns


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        raise ValueError(f"no field {key!r}")
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is a {type(value).__name__}, not a string")
    return value


def _optional(row: Mapping[str, Any], key: str) -> str:
    return "" if row.get(key) is None else _text(row, key)


Rows = Iterator[tuple[str, "dict[str, Any] | DataError"]]


def _rows(name: str) -> Rows:
    """Yield each row with its origin, or the error of a line that can't be parsed."""
    path = Path(name)
    if not path.exists():
        in_existing_folder = path.parent.name != "" and path.parent.is_dir()
        # Hub names have the form owner/name, or name.
        if in_existing_folder or path.suffix or len(path.parts) > 2 or name.startswith((".", "~")):
            raise UsageError(f"there is no file {name}")
        return _hub_rows(name)
    source = open_any(path)
    return (("", row) if isinstance(row, DataError) else (source.where(row.number), row.value) for row in source.rows)


def _hub_rows(name: str) -> Rows:
    """Yield the rows of a dataset on the hub."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            f"{name} is not a local file, and datasets, which would look for it on the hub,", "data"
        ) from None
    try:
        dataset = datasets.load_dataset(name, split="train")
    except Exception as error:  # errors of many libraries: the hub's, Arrow's, the operating system's
        raise UsageError(
            f"there is no file {name}, and no dataset of that name could be loaded ({first_line(error)})"
        ) from None
    return ((f"{name}: row {number}", value) for number, value in enumerate(dataset, start=1))

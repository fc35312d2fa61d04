"""Rows of a file as examples: which layout each has, and what is asked and answered in it.

Layouts, told by the first of these fields that a row has:

- ``instruction`` with ``output`` and, where it has one, ``input`` (Alpaca), or with ``instances`` (seed tasks: each
  instance is an example of its own);
- ``messages`` (role and content) or ``conversations`` (ShareGPT: from and value);
- ``prompt`` with ``completion``; ``question`` with ``answer``.

Any row but a seed task may have a ``system``: the system prompt that it was answered under. Of messages that begin with
one of their own, that one counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfinstruct.common.formats import user_text
from selfinstruct.common.rows import ANSWERS, ROLES
from selfinstruct.common.sources import first_line, open_any
from selfinstruct.errors import DataError, MissingExtraError, UsageError

__all__ = ["ChatTurn", "Example", "Examples", "examples_of", "read_examples"]

_SHOWN = 5  # bad rows that a message quotes
_LAYOUTS = ("instruction", "messages", "conversations", "prompt", "question")


_KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One message: who speaks, and the text.

    Raises:
        ValueError: The role is none of those that chat templates know. Templates write roles as they are, some as a
            part of a special token, so that a free choice of words would let a row write its own special tokens.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in _KNOWN_ROLES:
            raise ValueError(f"unknown role {self.role[:40]!r}; known: {', '.join(_KNOWN_ROLES)}")


@dataclass(frozen=True, slots=True)
class Example:
    """One row, as a conversation and as it was laid out.

    Attributes:
        name: Where it came from: ``file:line``; with ``#2`` for the second instance of a seed task.
        turns: The conversation. Of an Alpaca row: its system prompt, the instruction with its input, and the output.
        instruction, input, output: Of an Alpaca row or a seed task; else None.
        prompt, completion: Of a row with a prompt or a question; else None.
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
        """What the last response answers: the text of the turn before it."""
        last = max((place for place, turn in enumerate(self.turns) if turn.role == "assistant"), default=0)
        return self.turns[last - 1].content if last else ""


@dataclass(frozen=True)
class Examples:
    """What was read.

    Attributes:
        examples: In the order of the file.
        skipped: A message for each row that couldn't be used, each beginning with its place.
    """

    examples: list[Example] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def read_examples(path_or_name: str | Path) -> Examples:
    """Read rows from wherever they are.

    Args:
        path_or_name: A file (``.jsonl``, gzipped or not, ``.json`` with an array, ``.parquet``), a run's directory or
            its ``dataset`` (``alpaca.jsonl``), a directory saved by ``datasets``, or the name of a dataset on the hub.

    Raises:
        UsageError: Nothing there, it can't be read, or none of its rows can be used.
        MissingExtraError: Its kind needs the extra ``data``.
    """
    name = str(path_or_name)
    found = Examples()
    for where, row in _rows(name):
        if isinstance(row, DataError):
            found.skipped.append(str(row))
            continue
        try:
            found.examples.extend(examples_of(row, where))
        except ValueError as error:
            found.skipped.append(f"{where}: {error}")
    if not found.examples:
        shown = "".join(f"\n  {message}" for message in found.skipped[:_SHOWN])
        raise UsageError(f"{name} holds no row to train on{':' if shown else ' (it is empty)'}{shown}")
    return found


def examples_of(row: Mapping[str, Any], name: str) -> list[Example]:
    """The examples of a row: one, or one for each instance of a seed task.

    Raises:
        ValueError: Its layout is unknown, or a field is missing or no text; without the row's name.
    """
    layout = next((key for key in _LAYOUTS if row.get(key) is not None), None)
    if layout is None:
        keys = ", ".join(repr(key)[:80] for key in list(row)[:8]) or "no field"
        raise ValueError(f"unknown layout: none of {', '.join(_LAYOUTS)}; it has {keys}")
    if layout in ("messages", "conversations"):
        return [Example(name, _with_system(_system(row), _turns(layout, row[layout])))]
    asked = _text(row, layout)
    if layout == "instruction":
        if row.get("instances") is not None:
            return _instances(asked, row["instances"], name)
        given = _text(row, "input") if row.get("input") is not None else ""
        return [_alpaca(name, asked, given, _answer(row, layout), _system(row))]
    answer = _answer(row, layout)
    return [Example(name, _exchange(asked, answer, _system(row)), prompt=asked, completion=answer)]


def _alpaca(name: str, instruction: str, given: str, output: str, system: str = "") -> Example:
    turns = _exchange(user_text(instruction, given), output, system)
    return Example(name, turns, instruction=instruction, input=given, output=output)


def _exchange(asked: str, answered: str, system: str = "") -> tuple[ChatTurn, ...]:
    opening = (ChatTurn("system", system),) if system else ()
    return *opening, ChatTurn("user", asked), ChatTurn("assistant", answered)


def _system(row: Mapping[str, Any]) -> str:
    """The system prompt of a row that has a field for it, as exports of selfinstruct do."""
    return _text(row, "system") if row.get("system") is not None else ""


def _with_system(system: str, turns: tuple[ChatTurn, ...]) -> tuple[ChatTurn, ...]:
    """A conversation under its row's system prompt, unless it begins with one of its own."""
    return (ChatTurn("system", system), *turns) if system and turns[0].role not in ("system", "developer") else turns


def _instances(instruction: str, instances: Any, name: str) -> list[Example]:
    if not isinstance(instances, list) or not instances:
        raise ValueError("'instances' is no list with an instance in it")
    found = []
    for number, instance in enumerate(instances, start=1):
        if not isinstance(instance, Mapping):
            raise ValueError("'instances' is no list of objects")
        given = _text(instance, "input") if instance.get("input") is not None else ""
        place = name if len(instances) == 1 else f"{name}#{number}"
        found.append(_alpaca(place, instruction, given, _text(instance, "output")))
    return found


def _turns(layout: str, messages: Any) -> tuple[ChatTurn, ...]:
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{layout!r} is no list with a message in it")
    turns = tuple(_turn(layout, message) for message in messages)
    if not any(turn.role == "assistant" for turn in turns):
        raise ValueError(f"{layout!r} has no message of an assistant")
    return turns


def _turn(layout: str, message: Any) -> ChatTurn:
    if not isinstance(message, Mapping):
        raise ValueError(f"{layout!r} is no list of messages")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if isinstance(content, list):  # parts, as the OpenAI API takes them
        kinds = {part.get("type") if isinstance(part, Mapping) else type(part).__name__ for part in content}
        if kinds - {"text"}:
            raise ValueError(f"a message of {layout!r} holds more than text: {', '.join(sorted(map(str, kinds)))}")
        content = "\n".join(_text(part, "text") for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(f"a message of {layout!r} has no role and content")
    if message.get("tool_calls"):
        raise ValueError(f"a message of {layout!r} holds tool calls, which can't be trained on")
    return ChatTurn(ROLES.get(role, role), content)


def _answer(row: Mapping[str, Any], layout: str) -> str:
    names = ANSWERS[layout]
    return _text(row, next((name for name in names if row.get(name) is not None), names[0]))


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        raise ValueError(f"no field {key!r}")
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is a {type(value).__name__}, not a string")
    return value


Rows = Iterator[tuple[str, "dict[str, Any] | DataError"]]


def _rows(name: str) -> Rows:
    path = Path(name)
    if not path.exists():
        here = path.parent.name != "" and path.parent.is_dir()
        if here or path.suffix or len(path.parts) > 2 or name.startswith((".", "~")):  # else: owner/name, or name
            raise UsageError(f"there is no file {name}")
        return _hub(name)
    source = open_any(path)
    return (("", row) if isinstance(row, DataError) else (source.where(row.number), row.value) for row in source.rows)


def _hub(name: str) -> Rows:
    """The rows of a dataset on the hub."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            f"{name} is no file here, and datasets, which would look for it on the hub,", "data"
        ) from None
    try:
        found = datasets.load_dataset(name, split="train")
    except Exception as error:  # of many libraries: the hub's, Arrow's, the operating system's
        raise UsageError(
            f"there is no file {name}, and no dataset of that name could be loaded ({first_line(error)})"
        ) from None
    return ((f"{name}: row {number}", value) for number, value in enumerate(found, start=1))

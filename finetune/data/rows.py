"""Reading of rows as training examples.

Every layout of ``selfinstruct.common.rows`` with an answer is read: instruction with output and optionally input, seed
tasks (each instance is a separate example), messages, prompt with completion, question with answer, preference pairs
(the chosen answer). If the messages of a row begin with a system message, it takes precedence over a ``system`` field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfinstruct.common.console import plural
from selfinstruct.common.files import first_line
from selfinstruct.common.formats import user_text
from selfinstruct.common.messages import Turn, plain_name
from selfinstruct.common.rows import Exchange, ParsedRow, describe_fields, parse_row
from selfinstruct.common.sources import open_rows
from selfinstruct.errors import DataError, MissingExtraError, UsageError

__all__ = ["ChatTurn", "Example", "Examples", "dataset_rows", "examples_of", "read_examples", "require_readable"]

_MAX_LISTED = 5  # unusable rows that an error message quotes
_KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_REQUIRED_ANSWER = {"instruction": "output", "prompt": "completion", "question": "answer"}


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One message of a conversation.

    Attributes:
        role: One of the roles that chat templates know.
        content: Its text.
        trained: Whether an assistant's message is supervised.

    Raises:
        ValueError: The role is unknown to chat templates. Templates write roles verbatim, some of them inside a special
            token, so that an arbitrary role would let a row write special tokens.
    """

    role: str
    content: str
    trained: bool = True

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
        notices: What is left out of the rows that are used, one sentence for each kind.
    """

    examples: list[Example] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def read_examples(path_or_name: str | Path) -> Examples:
    """Read the rows of a dataset.

    Args:
        path_or_name: A file, a run or a folder that ``open_rows`` opens, or the name of a dataset on the hub.

    Raises:
        UsageError: There is no such dataset, it can't be read, or none of its rows can be used.
        MissingExtraError: The file format needs the extra ``data``.
    """
    name = str(path_or_name)
    result = Examples()
    unused: Counter[str] = Counter()
    for where, row in dataset_rows(name):
        if isinstance(row, DataError):
            result.skipped.append(str(row))
            continue
        try:
            parsed = _parse(row)
            result.examples.extend(_examples(parsed, where))
            unused.update(_unused_parts(parsed))
        except ValueError as error:
            result.skipped.append(f"{where}: {error}")
    if not result.examples:
        listed = "".join(f"\n  {message}" for message in result.skipped[:_MAX_LISTED])
        raise UsageError(f"{name} holds no row to train on{':' if listed else ' (it is empty)'}{listed}")
    result.notices.extend(f"{plural(count, 'row')} {text}" for text, count in unused.items())
    return result


def require_readable(path_or_name: str | Path) -> None:
    """Refuse a dataset with rows that can't be used.

    Raises:
        UsageError: There are some; the message lists the first ones. Or as ``read_examples``.
    """
    if skipped := read_examples(path_or_name).skipped:
        listed = "".join(f"\n  {message}" for message in skipped[:_MAX_LISTED])
        raise UsageError(f"{path_or_name} holds {plural(len(skipped), 'row')} that can't be read:{listed}")


def examples_of(row: Mapping[str, Any], name: str) -> list[Example]:
    """Return the examples of a row: one, or one per instance of a seed task.

    Raises:
        ValueError: The layout is unknown, a field can't be read, or the row holds something that can't be trained on;
            the message does not name the row.
    """
    return _examples(_parse(row), name)


def _parse(row: Mapping[str, Any]) -> ParsedRow:
    try:
        parsed = parse_row(row)
    except ValueError as error:
        raise ValueError(f"unknown layout: {error}" if str(error).startswith("none of") else str(error)) from None
    if not parsed.is_conversation and plain_name(parsed.layout) == "text":
        raise ValueError(f"unknown layout: a text without an answer; it has {describe_fields(row)}")
    return parsed


def _examples(parsed: ParsedRow, name: str) -> list[Example]:
    if parsed.tools or any(turn.calls for turn in parsed.turns):
        raise ValueError(f"{parsed.layout!r} holds tools or tool calls, which can't be trained on")
    opening = (ChatTurn(parsed.system_role, parsed.system),) if parsed.system else ()
    earlier = tuple(_chat_turn(parsed.layout, turn) for turn in parsed.turns)
    if parsed.is_conversation:
        return [_conversation(parsed, name, (*opening, *earlier))]
    names = [name] if len(parsed.exchanges) == 1 else [f"{name}#{n}" for n, _ in enumerate(parsed.exchanges, start=1)]
    turns = (*opening, *earlier)
    return [_flat(parsed, each, turns, exchange) for each, exchange in zip(names, parsed.exchanges, strict=True)]


def _conversation(parsed: ParsedRow, name: str, turns: tuple[ChatTurn, ...]) -> Example:
    if parsed.answer_problem:
        raise ValueError(parsed.answer_problem)
    if parsed.context:
        raise ValueError(f"{parsed.context_field!r} is no part of the messages; put its text into one of them")
    if any(turn.role == "user" and not turn.content.strip() for turn in turns):
        raise ValueError(f"{parsed.layout!r} has an empty user message")
    answers = [turn for turn in turns if turn.role == "assistant"]
    if not answers:
        raise ValueError(f"{parsed.layout!r} has no assistant message")
    if not any(turn.trained for turn in answers):
        raise ValueError(f"{parsed.layout!r} has the weight 0 for every assistant message")
    return Example(name, turns)


def _flat(parsed: ParsedRow, name: str, opening: tuple[ChatTurn, ...], exchange: Exchange) -> Example:
    answer = exchange.output()
    if not exchange.field:
        required = _REQUIRED_ANSWER.get(plain_name(parsed.layout), "output")
        raise ValueError(f"no field {required!r} with an answer")
    question = user_text(parsed.instruction, exchange.input)
    turns = (*opening, ChatTurn("user", question), ChatTurn("assistant", answer))
    if plain_name(parsed.layout) not in ("instruction", "definition"):
        return Example(name, turns, prompt=question, completion=answer)
    return Example(name, turns, instruction=parsed.instruction, input=exchange.input, output=answer)


def _chat_turn(layout: str, turn: Turn) -> ChatTurn:
    """Return a message of a row as a turn, which must be text with a weight of 0 or 1."""
    if turn.other_parts:
        raise ValueError(f"a message of {layout!r} holds more than text: {', '.join(sorted(set(turn.other_parts)))}")
    if turn.weight not in (0, 1):
        raise ValueError(f"a message of {layout!r} has the weight {turn.weight:g}; only 0 and 1 are supported")
    return ChatTurn(turn.role, turn.content, trained=turn.weight == 1)


def _unused_parts(parsed: ParsedRow) -> Iterator[str]:
    """Yield what training leaves out of a row that it uses."""
    if parsed.unused_system:
        yield "with a system prompt in a field and another one in the messages, which takes precedence"
    if parsed.reasoning or any(turn.reasoning for turn in parsed.turns):
        yield "with reasoning in a separate field, which is not trained on"
    if parsed.rejected:
        yield "with rejected answers, which are not trained on"


Rows = Iterator[tuple[str, "dict[str, Any] | DataError"]]


def dataset_rows(name: str) -> Rows:
    """Yield each row with its origin, or the error of a line that can't be parsed."""
    path = Path(name)
    if not path.exists():
        in_existing_folder = path.parent.name != "" and path.parent.is_dir()
        # Hub names have the form owner/name, or name.
        if in_existing_folder or path.suffix or len(path.parts) > 2 or name.startswith((".", "~")):
            raise UsageError(f"there is no file {name}")
        return _hub_rows(name)
    source = open_rows(path)
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

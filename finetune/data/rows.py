"""Reading of rows as training examples.

Every layout of ``selfinstruct.common.rows`` with an answer is read: instruction with output and optionally input, seed
tasks (each instance is a separate example), messages, prompt with completion, question with answer, preference pairs
(the chosen answer). If the messages of a row begin with a system message, it takes precedence over a ``system`` field.

What changes the meaning of a row is followed, or the row is refused by name: marks that an answer is not to be learnt,
reasoning, tools and tool calls, and arguments of the chat template. A field that nothing reads is counted in a notice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from finetune.data.row_settings import check_media, find_unread, read_template_arguments
from finetune.data.tool_calls import read_calls, read_tools
from selfinstruct.common.console import plural
from selfinstruct.common.files import first_line
from selfinstruct.common.formats import user_text
from selfinstruct.common.marks import Mark, read_mark
from selfinstruct.common.messages import Turn, plain_fields, plain_name
from selfinstruct.common.nested import parse_nested
from selfinstruct.common.rows import Exchange, ParsedRow, describe_fields, parse_row
from selfinstruct.common.sources import open_rows
from selfinstruct.errors import DataError, MissingExtraError, UsageError

__all__ = [
    "ChatTurn", "Example", "Examples", "UnreadRow", "dataset_rows", "examples_of", "read_examples", "require_readable",
]  # fmt: skip

_MAX_LISTED = 5  # unusable rows that an error message quotes
_MAX_FIELDS = 20  # unread fields that are named
_KNOWN_ROLES = ("system", "developer", "user", "assistant", "tool")
_ORIGIN = re.compile(r"(.*?(?::\d+|: row \d+)): (.*)", re.DOTALL)  # of the error of a line
_REQUIRED_ANSWER = {"instruction": "output", "prompt": "completion", "question": "answer"}


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One message of a conversation.

    Attributes:
        role: One of the roles that chat templates know.
        content: Its text.
        trained: Whether an assistant's message is supervised.
        reasoning: The reasoning that precedes the content, where the row keeps it apart; "" for none.
        calls: Tool calls of an assistant's message, in OpenAI's form, with the arguments as an object.
        name: Name of the speaker, or of the tool whose result this is; "" for none.
        call_id: Id of the call whose result this is; "" for none.

    Raises:
        ValueError: The role is unknown to chat templates. Templates write roles verbatim, some of them inside a special
            token, so that an arbitrary role would let a row write special tokens.
    """

    role: str
    content: str
    trained: bool = True
    reasoning: str = ""
    calls: tuple[dict[str, Any], ...] = ()
    name: str = ""
    call_id: str = ""

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
        tools: Descriptions of the tools that the model may call, in OpenAI's form.
        template_arguments: Further arguments of the chat template, such as ``enable_thinking``.
    """

    name: str
    turns: tuple[ChatTurn, ...]
    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    prompt: str | None = None
    completion: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt_text(self) -> str:
        """Text of the turn before the last response."""
        last = max((index for index, turn in enumerate(self.turns) if turn.role == "assistant"), default=0)
        return self.turns[last - 1].content if last else ""


class UnreadRow(NamedTuple):
    """A row, or an answer of one, that is not trained on.

    Attributes:
        name: Origin of the row: ``file:line``.
        reason: A code for counting: ``unreadable``, or the reason of a ``RenderError``.
        detail: A description for people.
    """

    name: str
    reason: str
    detail: str

    @classmethod
    def of_error(cls, error: DataError) -> UnreadRow:
        """Return the row of a line that can't be parsed."""
        origin = _ORIGIN.match(str(error))
        name, detail = origin.groups() if origin else ("", str(error))
        return cls(name, "unreadable", detail)

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


@dataclass(frozen=True)
class Examples:
    """The examples of a dataset.

    Attributes:
        examples: In the order of the rows.
        skipped: The rows that can't be used.
        notices: What is left out of the rows that are used, one sentence for each kind.
    """

    examples: list[Example] = field(default_factory=list)
    skipped: list[UnreadRow] = field(default_factory=list)
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
    unread: Counter[str] = Counter()
    for where, row in dataset_rows(name):
        if isinstance(row, DataError):
            result.skipped.append(UnreadRow.of_error(row))
            continue
        try:
            parsed = _parse(row)
            result.examples.extend(_examples(row, parsed, where))
            unused.update(_unused_parts(parsed))
            unread.update(find_unread(row, parsed))
        except ValueError as error:
            result.skipped.append(UnreadRow(where, "unreadable", str(error)))
    if not result.examples:
        listed = "".join(f"\n  {message}" for message in result.skipped[:_MAX_LISTED])
        raise UsageError(f"{name} holds no row to train on{':' if listed else ' (it is empty)'}{listed}")
    fields = unread.most_common()
    unused |= Counter({f"with the field {field}, which is not read": count for field, count in fields[:_MAX_FIELDS]})
    result.notices.extend(f"{plural(count, 'row')} {text}" for text, count in unused.items())
    if len(fields) > _MAX_FIELDS:
        result.notices.append(f"{len(fields) - _MAX_FIELDS} more fields that are not read")
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
    return _examples(row, _parse(row), name)


def _parse(row: Mapping[str, Any]) -> ParsedRow:
    try:
        parsed = parse_row(row)
    except ValueError as error:
        raise ValueError(f"unknown layout: {error}" if str(error).startswith("none of") else str(error)) from None
    if not parsed.is_conversation and plain_name(parsed.layout) == "text":
        raise ValueError(f"unknown layout: a text without an answer; it has {describe_fields(row)}")
    return parsed


def _examples(row: Mapping[str, Any], parsed: ParsedRow, name: str) -> list[Example]:
    check_media(row)
    if not _is_learnt(read_mark(plain_fields(row), of_row=True), "the row"):
        raise ValueError("the row is marked as not to be learnt")
    opening = (ChatTurn(parsed.system_role, parsed.system),) if parsed.system else ()
    turns = (*opening, *_name_results(_chat_turn(parsed.layout, turn) for turn in parsed.turns))
    tools, arguments = read_tools(parsed.tools), read_template_arguments(row)
    if parsed.is_conversation:
        examples = [_conversation(parsed, name, turns)]
    else:
        count = len(parsed.exchanges)
        names = [f"{name}#{number}" for number in range(1, count + 1)] if count > 1 else [name]
        examples = [_flat(parsed, *each, turns, tools) for each in zip(names, parsed.exchanges, strict=True)]
    return [replace(example, tools=tools, template_arguments=arguments) for example in examples]


def _conversation(parsed: ParsedRow, name: str, turns: tuple[ChatTurn, ...]) -> Example:
    if parsed.answer_problem:
        raise ValueError(parsed.answer_problem)
    if parsed.context:
        raise ValueError(f"{parsed.context_field!r} is no part of the messages; put its text into one of them")
    if any(turn.role == "user" and not turn.content.strip() for turn in turns):
        raise ValueError(f"{parsed.layout!r} has an empty user message")
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise ValueError(f"{parsed.layout!r} has no assistant message")
    if not any(turns[index].trained for index in answers):
        raise ValueError(f"{parsed.layout!r} has the weight 0 for every assistant message")
    last = turns[answers[-1]]
    if parsed.reasoning and not last.reasoning:
        turns = (*turns[: answers[-1]], replace(last, reasoning=parsed.reasoning), *turns[answers[-1] + 1 :])
    return Example(name, turns)


def _flat(
    parsed: ParsedRow, name: str, exchange: Exchange, opening: tuple[ChatTurn, ...], tools: Sequence[dict[str, Any]]
) -> Example:
    answer = exchange.output()
    if not exchange.field:
        required = _REQUIRED_ANSWER.get(plain_name(parsed.layout), "output")
        raise ValueError(f"no field {required!r} with an answer")
    question = user_text(parsed.instruction, exchange.input)
    reasoning = parsed.reasoning if len(parsed.exchanges) == 1 else ""
    calls = _calls_of_answer(answer, tools)
    turns = (*opening, ChatTurn("user", question),
             ChatTurn("assistant", "" if calls else answer, reasoning=reasoning, calls=calls))  # fmt: skip
    if plain_name(parsed.layout) not in ("instruction", "definition"):
        return Example(name, turns, prompt=question, completion=answer)
    return Example(name, turns, instruction=parsed.instruction, input=exchange.input, output=answer)


def _calls_of_answer(answer: str, tools: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return the calls that an answer in JSON consists of, if all are of tools that the row describes."""
    if not tools or parse_nested(answer) is None:
        return ()
    try:
        calls = read_calls([answer])
    except ValueError:
        return ()
    names = {tool["function"]["name"] for tool in tools}
    return calls if all(call["function"]["name"] in names for call in calls) else ()


def _chat_turn(layout: str, turn: Turn) -> ChatTurn:
    """Return a message of a row as a turn, which must be text with a weight of 0 or 1."""
    if turn.other_parts:
        raise ValueError(f"a message of {layout!r} holds more than text: {', '.join(sorted(set(turn.other_parts)))}")
    if turn.calls and turn.role != "assistant":
        raise ValueError(f"a message of {layout!r} with the role {turn.role!r} holds tool calls")
    trained = turn.role != "assistant" or _is_learnt(turn.mark, f"a message of {layout!r}")
    try:
        calls = read_calls(turn.calls)
    except ValueError as error:
        raise ValueError(f"a message of {layout!r}: {error}") from None
    return ChatTurn(turn.role, turn.content, trained, turn.reasoning, calls, turn.name, turn.call_id)


def _is_learnt(mark: Mark, what: str) -> bool:
    """Return whether marks say that an answer is learnt.

    Raises:
        ValueError: They can't be followed.
    """
    if mark.problem:
        raise ValueError(mark.problem)
    weight = 1.0 if mark.weight is None else mark.weight
    if weight not in (0, 1):
        raise ValueError(f"{what} has the weight {weight:g}; only 0 and 1 are supported, for learnt or not")
    return weight == 1


def _name_results(turns: Iterable[ChatTurn]) -> Iterator[ChatTurn]:
    """Yield turns with the name of its tool in each tool result: by the id of the call, or by its position."""
    calls: list[dict[str, Any]] = []
    for turn in turns:
        if turn.role != "tool":
            calls = list(turn.calls)
            yield turn
            continue
        matching = (call for call in calls if turn.call_id and call.get("id") == turn.call_id)
        call = next(matching, calls[0] if calls and not turn.call_id else None)
        if call is not None:
            calls.remove(call)
        yield turn if turn.name or call is None else replace(turn, name=call["function"]["name"])


def _unused_parts(parsed: ParsedRow) -> Iterator[str]:
    """Yield what training leaves out of a row that it uses."""
    if parsed.unused_system:
        yield "with a system prompt in a field and another one in the messages, which takes precedence"
    if parsed.rejected:
        yield "with rejected answers, which are not trained on"
    if parsed.reasoning and len(parsed.exchanges) > 1:
        yield "with reasoning next to several answers, which is not trained on"
    if any(turn.role != "assistant" and turn.mark.weight for turn in parsed.turns):
        yield "with a mark that a message of another role is to be learnt; only answers are"
    if parsed.is_conversation and parsed.turns[-1].role != "assistant":
        yield "with messages after the last answer, which are not trained on"


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
    return (
        ("", row)
        if isinstance(row, DataError)
        else (source.where(row.number), row.value if row.origin is None else _of_columns(row.value))
        for row in source.rows
    )


def _of_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of columns without the null keys of its objects.

    A column gives all its objects the same keys, so that the null of another row's argument means nothing.
    """
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


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
    return ((f"{name}: row {number}", _of_columns(row)) for number, row in enumerate(dataset, start=1))

"""Parsing of rows in the common layouts of instruction data, shared by filters, strategies and the trainer.

``parse_row`` recognises a layout by the names of its fields, in any case and with any separator, and returns one typed
row. A field that can't be read is an error that names it, never an empty text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct.common.codec import dumps
from selfinstruct.common.messages import (
    Turn,
    parse_nested,
    plain_fields,
    read_messages,
    read_transcript,
)

__all__ = ["LAYOUTS", "Exchange", "ParsedRow", "describe_fields", "paragraphs", "parse_row"]

_CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
_MESSAGE_LISTS = (*_CONVERSATIONS, "data")  # UltraChat's list of strings
LAYOUTS = (
    "instruction", *_CONVERSATIONS, "prompt", "question", "query", "problem", "definition", "data", "text", "chosen",
)  # fmt: skip
"""Plain names of the fields that identify the layout of a row, in order of precedence."""

_SYSTEM = ("system", "systemprompt", "systemmessage", "systeminstruction", "sysprompt")
_HISTORY = ("history", "chathistory", "conversationhistory", "dialoguehistory", "dialoghistory")
_INPUT = (
    "input", "inputs", "inputtext", "context", "contexts", "passage", "passages", "questioncontext", "background",
    "document", "documents", "article", "paragraph", "evidence", "dialogue", "dialog",
)  # fmt: skip
_TASK_INPUT = ("input", "inputs", "inputtext")  # may hold the task itself where the instruction is blank
_TOOLS = ("tools", "functions", "availabletools")
_REASONING = ("reasoning", "reasoningcontent", "thinking", "thought", "rationale")
_ANSWERS = {
    "prompt": ("completion", "response"),
    "question": ("answer", "response"),
    "query": ("answer", "response"),
    "problem": ("solution", "answer"),
}
"""Fields that are tried first for the answer, by layout."""
_ANY_ANSWER = ("output", "response", "completion", "answer", "solution", "target", "reply", "chosen", "outputs",
               "answers", "responses", "completions")  # fmt: skip
_ANSWER_TEXTS = ("response", "output", "text", "content", "value", "completion", "answer")

_EMPTY_INPUT = re.compile(
    r"[\[(<{\"'\s#]*(?:(?i:nan|null|none|n/a|n\.a|no[ _-]?input)|NA)[\])>}\"'\s.]*"  # "Na" may be sodium
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """An input of a task with its answers.

    Attributes:
        input: The input; "" for none.
        outputs: The answers; usually one.
        field: Name of the field with the answers; "" if there is none.
        problem: Why the answers can't be read; "" if they can.
        loose_text: The answers as text, also where they are not strings (numbers, objects).
    """

    input: str = ""
    outputs: tuple[str, ...] = ()
    field: str = ""
    problem: str = ""
    loose_text: str = ""

    def output(self) -> str:
        """Return the answer; "" if there is none.

        Raises:
            ValueError: The answer is not a string, or there are several.
        """
        if self.problem:
            raise ValueError(self.problem)
        if len(self.outputs) > 1:
            raise ValueError(f"{self.field!r} holds {len(self.outputs)} answers; keep one of them in 'output'")
        return self.outputs[0] if self.outputs else ""


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A row in any layout.

    Attributes:
        layout: Name of the field that identified the layout, as the row spells it.
        instruction: The instruction; "" in a conversation.
        exchanges: The inputs with their answers: one, or one for each instance of a seed task; () in a conversation.
        turns: The messages of a conversation without its system prompt; otherwise the earlier rounds (``history``).
        system: The system prompt of the row or the first message; "" for none.
        system_role: Role of the system prompt: ``system`` or ``developer``.
        unused_system: Whether a field holds another system prompt than the messages, which take precedence.
        context: An input next to a conversation that none of its messages contains; "" for none.
        context_field: Name of the field with the context.
        tools: Descriptions of tools as JSON; "" for none.
        reasoning: The reasoning of the answer, where a separate field holds it.
        rejected: Answers that the row marks as the worse ones.
        empty_inputs: Inputs that are spelled as nothing (``nan``, ``<noinput>``) and were read as "".
    """

    layout: str
    instruction: str = ""
    exchanges: tuple[Exchange, ...] = ()
    turns: tuple[Turn, ...] = ()
    system: str = ""
    system_role: str = "system"
    unused_system: bool = False
    context: str = ""
    context_field: str = ""
    tools: str = ""
    reasoning: str = ""
    rejected: tuple[str, ...] = ()
    empty_inputs: tuple[str, ...] = ()

    @property
    def is_conversation(self) -> bool:
        """Whether the row is a list of messages."""
        return not self.exchanges

    def question_span(self, *, of_first_round: bool = False) -> tuple[int, int]:
        """Return start and end of the user messages that are answered: consecutive turns count as one question.

        Args:
            of_first_round: Take the first question even if the conversation ends with an unanswered one.

        Raises:
            ValueError: No message is from a user.
        """
        roles = [turn.role for turn in self.turns]
        if "user" not in roles:
            raise ValueError(f"{self.layout!r} has no user message")
        if roles[-1] == "user" and not of_first_round:
            start = next((i + 1 for i in reversed(range(len(roles))) if roles[i] != "user"), 0)
            return start, len(roles)
        start = roles.index("user")
        return start, next((i for i in range(start, len(roles)) if roles[i] != "user"), len(roles))

    def question(self, span: tuple[int, int]) -> str:
        """Return the user messages of a span as one text.

        Raises:
            ValueError: They hold no text, or something besides text.
        """
        turns = self.turns[slice(*span)]
        if parts := [part for turn in turns for part in turn.other_parts]:
            raise ValueError(f"message {span[0] + 1} of {self.layout!r} holds more than text: {', '.join(parts)}")
        return paragraphs(turn.content for turn in turns)


def parse_row(row: Mapping[str, Any]) -> ParsedRow:
    """Parse a row.

    Raises:
        ValueError: The row has no field of ``LAYOUTS``, or a field can't be read; the message does not name the row.
    """
    fields = plain_fields(row)
    layout = _layout(row, fields)
    name, value = fields[layout]
    conversation = _conversation(layout, name, value)
    parsed = _parse_conversation(layout, fields, conversation) if conversation else _parse_flat(layout, fields)
    system = paragraphs(dict.fromkeys(_strings(fields, _SYSTEM)))
    if parsed.system:
        parsed = replace(parsed, unused_system=bool(system) and system != parsed.system)
    else:
        parsed = replace(parsed, system=system)
    reasoning = next((fields[key][1] for key in _REASONING if key in fields), "")
    return replace(parsed, tools=_tools(fields), reasoning=reasoning if isinstance(reasoning, str) else "")


def _layout(row: Mapping[str, Any], fields: Mapping[str, tuple[str, Any]]) -> str:
    """Return the plain name of the field that identifies the layout: the first that isn't blank.

    A blank instruction identifies it if the row has an input, which is the task then.
    """
    names = [name for name in LAYOUTS if name in fields]
    if "instances" not in fields and "definition" in names:
        names.remove("definition")
    if "data" in names and not _is_dialogue(fields["data"][1]):
        names.remove("data")
    if not names or names == ["text"]:
        role = next((fields[key] for key in ("role", "from", "speaker") if key in fields), None)
        if role is not None and ("text" in fields or "content" in fields or "value" in fields):
            raise ValueError(
                f"the row is a single message ({role[0]} {str(role[1])[:40]!r}); join the messages of a conversation "
                "into one row with 'messages'"
            )
    if not names:
        rows = next((name for name, value in fields.values() if isinstance(value, list) and value
                     and all(isinstance(item, Mapping) for item in value)), "")  # fmt: skip
        hint = f"; if {rows!r} holds the rows, write one a line, as by: jq -c '.{rows}[]'" if rows else ""
        raise ValueError(f"none of {', '.join(LAYOUTS)}; it has {describe_fields(row)}{hint}")
    if "instruction" in names and any(_strings(fields, _TASK_INPUT)):
        return "instruction"
    return next((name for name in names if not _is_blank(fields[name][1])), names[0])


def _is_dialogue(value: object) -> bool:
    """Return whether a list holds messages, or the strings of alternating speakers."""
    return isinstance(value, list | tuple) and (
        all(isinstance(item, str) for item in value) or all(_is_message(item) for item in value)
    )


def _is_blank(value: object) -> bool:
    return not value.strip() if isinstance(value, str) else value in ([], {})


def _conversation(layout: str, name: str, value: object) -> tuple[Turn, ...]:
    """Return the messages of a conversation; () if the field holds a plain text.

    Raises:
        ValueError: The field must hold messages and doesn't, or a message can't be read.
    """
    if isinstance(value, Mapping) and "replies" in value:
        raise ValueError(f"{name!r} is a tree of messages; choose one reply to each and write them as 'messages'")
    if layout in _MESSAGE_LISTS:
        if _is_blank(value):
            raise ValueError(f"{name!r} is not a list with at least one message")
        return read_messages(name, value)
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return read_messages(name, value)
    if isinstance(value, Mapping) and {"role", "from"} & {*value}:
        return read_messages(name, value)
    if isinstance(value, str):
        nested = parse_nested(value)
        if isinstance(nested, list) and nested and all(_is_message(item) for item in nested):
            return read_messages(name, nested)
        if layout in ("text", "prompt", "chosen"):
            return read_transcript(value)
    return ()


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and bool({"role", "from"} & {*value})


def _parse_conversation(layout: str, fields: Mapping[str, tuple[str, Any]], turns: tuple[Turn, ...]) -> ParsedRow:
    name = fields[layout][0]
    count = next((i for i, turn in enumerate(turns) if turn.role not in ("system", "developer")), len(turns))
    system, role = paragraphs(turn.content for turn in turns[:count]), turns[0].role if count else "system"
    turns = turns[count:]
    rejected = _rejected(fields)
    answers = _answer_turns(layout, fields, is_open=True)
    if turns and turns[-1].role == "user" and answers:
        if any(turn.role == "user" for turn in answers):  # the chosen conversation repeats the prompt
            turns = tuple(turn for turn in answers if turn.role not in ("system", "developer"))
        elif _is_wrong(fields):
            rejected += tuple(turn.content for turn in answers)
        else:
            turns = (*turns, *answers)
    turns = (*_history(fields), *turns)
    context, empty = _input(fields, skip=(layout, *_TASK_INPUT))
    if any(context in turn.content for turn in turns):
        context = ""
    context_field = next((fields[key][0] for key in _INPUT if key in fields), "") if context else ""
    return ParsedRow(name, turns=turns, system=system, system_role=role, context=context, context_field=context_field,
                     rejected=rejected, empty_inputs=empty)  # fmt: skip


def _parse_flat(layout: str, fields: Mapping[str, tuple[str, Any]]) -> ParsedRow:
    name, value = fields[layout]
    if layout == "definition" and isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        value = paragraphs(value)  # Natural Instructions
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is a {type(value).__name__}, not a string")
    if layout == "text":
        return ParsedRow(name, value, (Exchange(),))
    history = _history(fields)
    rejected = _rejected(fields)
    if "instances" in fields and layout in ("instruction", "definition"):
        exchanges, empty = _instances(fields["instances"][1])
        return ParsedRow(name, value, exchanges, history, rejected=rejected, empty_inputs=empty)
    input_text, empty = _input(fields)
    if layout == "instruction" and not value.strip() and any(_strings(fields, _TASK_INPUT)):
        value, input_text = input_text, ""
    answers = _answer_turns(layout, fields)
    if any(turn.role == "user" for turn in answers):  # the chosen conversation repeats the prompt
        system = next((turn.content for turn in answers if turn.role == "system"), "")
        turns = tuple(turn for turn in answers if turn.role not in ("system", "developer"))
        return ParsedRow(name, turns=(*history, *turns), system=system, rejected=rejected, empty_inputs=empty)
    exchange = replace(_exchange(layout, fields), input=input_text)
    if _is_wrong(fields):
        rejected += exchange.outputs
        wrong = f"'label' is false: {exchange.field!r} holds a rejected answer"
        exchange = replace(exchange, outputs=(), problem=wrong, loose_text="")
    return ParsedRow(name, value, (exchange,), history, rejected=rejected, empty_inputs=empty)


def _history(fields: Mapping[str, tuple[str, Any]]) -> tuple[Turn, ...]:
    """Return the earlier rounds that a separate field holds."""
    return tuple(
        turn
        for name, value in (fields[key] for key in _HISTORY if key in fields)
        if not _is_blank(value) and not (isinstance(value, str) and _spells_nothing(value))
        for turn in read_messages(name, value)
    )


def _is_wrong(fields: Mapping[str, tuple[str, Any]]) -> bool:
    """Return whether the row marks its answer as a rejected one (KTO)."""
    return "label" in fields and fields["label"][1] is False


def _answer_field(layout: str, fields: Mapping[str, tuple[str, Any]]) -> str | None:
    names = [key for key in (*_ANSWERS.get(layout, ()), *_ANY_ANSWER) if key in fields and key != layout]
    return next((key for key in names if not _is_blank(fields[key][1])), names[0] if names else None)


def _answer_turns(layout: str, fields: Mapping[str, tuple[str, Any]], *, is_open: bool = False) -> tuple[Turn, ...]:
    """Return the answer of a row as messages; () if it is none or no message.

    Args:
        is_open: Whether the answer follows messages. Only then, and in preference rows, may its text hold messages.
    """
    key = _answer_field(layout, fields)
    if key is None:
        return ()
    name, value = fields[key]
    if isinstance(value, str):
        nested = parse_nested(value) if is_open or key == "chosen" else None
        if isinstance(nested, list) and nested and all(_is_message(item) for item in nested):
            return read_messages(name, nested)
        if key == "chosen" and (turns := read_transcript(value)) and _repeats(turns, fields[layout][1]):
            return turns
        return (Turn("assistant", value),) if is_open else ()
    items = value if isinstance(value, list | tuple) else [value]
    return read_messages(name, value) if items and all(_is_message(item) for item in items) else ()


def _repeats(turns: Sequence[Turn], prompt: object) -> bool:
    """Return whether a transcript begins with the prompt, so that it is no answer that is written as a dialogue."""
    question = next(turn.content for turn in turns if turn.role == "user")
    return not isinstance(prompt, str) or question in prompt


def _exchange(layout: str, fields: Mapping[str, tuple[str, Any]]) -> Exchange:
    """Return the answers of a row without messages."""
    key = _answer_field(layout, fields)
    if key is None:
        return Exchange()
    if layout in fields and (turns := _answer_turns(layout, fields)):
        return Exchange("", (turns[-1].content,), fields[key][0], "", turns[-1].content)
    return _outputs(*fields[key])


def _outputs(name: str, value: Any) -> Exchange:
    """Return the answers that a field holds: a string, a list of strings, or objects that hold one each."""
    if isinstance(value, str):
        return Exchange("", (value,), name, "", value)
    texts = _answer_texts(value)
    loose = "\n".join(texts) if texts is not None else value if isinstance(value, str) else _as_text(value)
    if texts is None:
        return Exchange("", (), name, f"{name!r} is a {type(value).__name__}, not a string", loose)
    return Exchange("", texts, name, "", loose)


def _answer_texts(value: Any) -> tuple[str, ...] | None:
    """Return the answers in a list or an object; None if it holds anything else."""
    if isinstance(value, Mapping):
        fields = plain_fields(value)
        texts = next((fields[key][1] for key in _ANSWER_TEXTS if key in fields), None)
        return (texts,) if isinstance(texts, str) else _answer_texts(texts) if isinstance(texts, list) else None
    if not isinstance(value, list | tuple):
        return None
    answers = [(item,) if isinstance(item, str) else _answer_texts(item) for item in value]
    if not answers or any(texts is None for texts in answers):
        return None
    return tuple(dict.fromkeys(text for texts in answers if texts is not None for text in texts))


def _as_text(value: Any) -> str:
    try:
        return dumps(value)
    except (TypeError, ValueError):
        return str(value)


def _rejected(fields: Mapping[str, tuple[str, Any]]) -> tuple[str, ...]:
    """Return the rejected answers of a preference row, as far as they can be read."""
    if "rejected" not in fields:
        return ()
    name, value = fields["rejected"]
    if isinstance(value, str):
        turns = read_transcript(value)
        return (turns[-1].content if turns else value,)
    items = value if isinstance(value, list | tuple) else [value]
    if items and all(_is_message(item) for item in items):
        return (read_messages(name, value)[-1].content,)
    return _answer_texts(value) or (_as_text(value),)


def _instances(value: Any) -> tuple[tuple[Exchange, ...], tuple[str, ...]]:
    """Return the instances of a seed task, and the inputs that are spelled as nothing."""
    if not isinstance(value, list | tuple):
        raise ValueError("'instances' is not a list of objects with 'input' and 'output'")
    exchanges: list[Exchange] = []
    empty: list[str] = []
    for number, instance in enumerate(value, start=1):
        if not isinstance(instance, Mapping):
            raise ValueError(f"instance {number} is not an object with 'input' and 'output': 'instances' is not a "
                             "list of objects")  # fmt: skip
        fields = plain_fields(instance)
        text, words = _input(fields)
        exchanges.append(replace(_exchange("instruction", fields), input=text))
        empty += words
    return tuple(exchanges) or (Exchange(problem="'instances' is not a list with at least one instance"),), tuple(empty)


def _input(fields: Mapping[str, tuple[str, Any]], skip: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Return the input of a row, and the texts in it that are spelled as nothing.

    Contexts that are lists or objects are written as JSON.

    Raises:
        ValueError: An input is not a string.
    """
    texts, empty = [], []
    for key in _INPUT:
        if key not in fields or key in skip:
            continue
        name, value = fields[key]
        if key not in _TASK_INPUT and isinstance(value, list | tuple | Mapping):
            is_texts = not isinstance(value, Mapping) and all(isinstance(text, str) for text in value)
            value = paragraphs(value) if is_texts else _as_text(value)
        if not isinstance(value, str):
            raise ValueError(f"{name!r} is a {type(value).__name__}, not a string")
        if not _spells_nothing(value):
            texts.append(value)
        elif value:
            empty.append(value)
    return (texts[0] if len(texts) == 1 else paragraphs(texts)), tuple(empty)


def _spells_nothing(text: str) -> bool:
    return not text or (len(text) < 40 and _EMPTY_INPUT.fullmatch(text) is not None)


def _strings(fields: Mapping[str, tuple[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the texts of some fields, without the blank ones and the ones that are spelled as nothing.

    Raises:
        ValueError: A field is not a string.
    """
    texts = []
    for name, value in (fields[key] for key in names if key in fields):
        if not isinstance(value, str):
            raise ValueError(f"{name!r} is a {type(value).__name__}, not a string")
        if value.strip() and not _spells_nothing(value):
            texts.append(value)
    return texts


def _tools(fields: Mapping[str, tuple[str, Any]]) -> str:
    value = next((fields[key][1] for key in _TOOLS if key in fields), None)
    if value is None or _is_blank(value) or (isinstance(value, str) and parse_nested(value) in ([], {})):
        return ""
    if isinstance(value, str):
        return "" if _spells_nothing(value) else value
    return _as_text(value)


def describe_fields(row: Mapping[str, Any]) -> str:
    """Return the field names of a row as a list for an error message."""
    names = [repr(name)[:80] for name in row]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no field"


def paragraphs(texts: Iterable[str]) -> str:
    """Return the texts that aren't blank, with an empty line between them."""
    return "\n\n".join(text for text in texts if text.strip())

"""Parsing of rows in the common layouts of instruction data, shared by filters, strategies and the trainer.

``parse_row`` recognises a layout by the names of its fields, in any case and with any separator, and returns one typed
row. A field that can't be read is an error that names it, never an empty text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct.common.formats import user_text
from selfinstruct.common.marks import NO_MARK, Mark
from selfinstruct.common.messages import (
    Turn,
    is_absent,
    is_message,
    plain_fields,
    plain_name,
    read_messages,
    read_transcript,
)
from selfinstruct.common.nested import parse_nested
from selfinstruct.common.row_answers import (
    ANSWERS,
    Exchange,
    answer_field,
    answer_turns,
    is_wrong,
    read_exchange,
    read_instances,
    read_rejected,
)
from selfinstruct.common.row_fields import (
    INPUT,
    TASK_INPUT,
    WITHOUT_TASK,
    Fields,
    describe_fields,
    is_blank,
    paragraphs,
    read_history,
    read_input,
    read_reasoning,
    read_system,
    read_tools,
    spells_nothing,
    strings_of,
)
from selfinstruct.common.unread import unread_fields

__all__ = ["LAYOUTS", "Exchange", "ParsedRow", "describe_fields", "paragraphs", "parse_row"]

_CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
_MESSAGE_LISTS = (*_CONVERSATIONS, "data")  # UltraChat's list of strings
LAYOUTS = (
    "instruction", *_CONVERSATIONS, "prompt", "userprompt", "question", "query", "problem", "definition", "data",
    "text", "user", "human", "input", "inputs", "chosen",
)  # fmt: skip
"""Plain names of the fields that identify the layout of a row, in order of precedence."""
_PROMPTS = ("prompt", "userprompt")
_QUESTIONS = ("question", "query", "problem")
_SPEAKERS = ("assistant", "gpt", "bot", "response", "output")  # with which ``user`` is a message and not a name
_SYSTEM_ROLES = ("system", "developer")
_WRONG = "the label of the row is false"


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
        answer_field: Name of the field with the answer, if it is not the one with the messages.
        answer_problem: Why the last answer of a conversation can't be used; "" if it can.
        context: An input next to a conversation that none of its messages contains; "" for none.
        context_field: Name of the field with the context, or with an input that is one (a passage, say).
        tools: Descriptions of tools as JSON; "" for none.
        reasoning: The reasoning of the answer, where a separate field holds it.
        rejected: Answers that the row marks as the worse ones.
        empty_inputs: Inputs that are spelled as nothing (``nan``, ``<noinput>``) and were read as "".
        unread: Names of fields with texts that were not read and may belong to the task (``hint``, say).
    """

    layout: str
    instruction: str = ""
    exchanges: tuple[Exchange, ...] = ()
    turns: tuple[Turn, ...] = ()
    system: str = ""
    system_role: str = "system"
    unused_system: bool = False
    answer_field: str = ""
    answer_problem: str = ""
    context: str = ""
    context_field: str = ""
    tools: str = ""
    reasoning: str = ""
    rejected: tuple[str, ...] = ()
    empty_inputs: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

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
    turns = _conversation(layout, *fields[layout])
    parsed = _parse_conversation(layout, fields, turns) if turns else _parse_flat(layout, fields)
    exchanges = (exchange.input for exchange in parsed.exchanges)
    contents = (turn.content for turn in parsed.turns)
    texts = (parsed.instruction, parsed.system, parsed.context, *exchanges, *contents)
    unread = unread_fields(fields, _read_names(layout, fields, parsed), texts)
    return replace(parsed, unread=unread) if unread else parsed


def _read_names(layout: str, fields: Fields, parsed: ParsedRow) -> set[str]:
    """Return the plain names of the fields that the layout of a row reads."""
    names = {layout, *WITHOUT_TASK, *ANSWERS, "rejected", "label", "ktotag", "instances"}
    if parsed.is_conversation:
        return names | (set(INPUT) - set(TASK_INPUT))
    if "instances" in fields and layout in ("instruction", "definition"):
        return names
    return names.union(INPUT, _QUESTIONS if layout == "instruction" else ())


def _layout(row: Mapping[str, Any], fields: Fields) -> str:
    """Return the plain name of the field that identifies the layout: the first that isn't blank.

    A blank instruction identifies it if the row has an input, which is the task then.
    """
    names = [name for name in LAYOUTS if name in fields]
    if "instances" not in fields and "definition" in names:
        names.remove("definition")
    if not any(key in fields for key in _SPEAKERS):
        names = [name for name in names if name not in ("user", "human")]
    if "data" in names and not _is_dialogue(fields["data"][1]):
        names.remove("data")
    if not set(names) - {"text", "user"}:
        role = next((fields[key] for key in ("role", "from", "speaker") if key in fields), None)
        if role is not None and ("text" in fields or "content" in fields or "value" in fields):
            raise ValueError(
                f"the row is a single message ({role[0]} {str(role[1])[:40]!r}); join the messages of a conversation "
                "into one row with 'messages'"
            )
    if not names:
        if empty := next((name for name in row if plain_name(str(name)) in LAYOUTS and is_absent(row[name])), ""):
            raise ValueError(f"{empty!r} has no value, and no other field holds a task; it has {describe_fields(row)}")
        if messages := next((name for name, value in fields.values() if isinstance(value, list) and value
                             and all(map(is_message, value))), ""):  # fmt: skip
            raise ValueError(f"no field with a usual name holds a task; if {messages!r} is the conversation, rename it "
                             "to 'messages'")  # fmt: skip
        rows = next((name for name, value in fields.values() if isinstance(value, list) and value
                     and all(isinstance(item, Mapping) for item in value)), "")  # fmt: skip
        hint = f"; if {rows!r} holds the rows, write one a line, as by: jq -c '.{rows}[]'" if rows else ""
        raise ValueError(f"none of {', '.join(LAYOUTS)}; it has {describe_fields(row)}{hint}")
    if "instruction" in names and any(strings_of(fields, TASK_INPUT)):
        return "instruction"
    return next((name for name in names if not is_blank(fields[name][1])), names[0])


def _is_dialogue(value: object) -> bool:
    """Return whether a list holds messages, or the strings of alternating speakers."""
    return isinstance(value, list | tuple) and (
        all(isinstance(item, str) for item in value) or all(is_message(item) for item in value)
    )


def _conversation(layout: str, name: str, value: object) -> tuple[Turn, ...]:
    """Return the messages of a conversation; () if the field holds a plain text.

    Raises:
        ValueError: The field must hold messages and doesn't, or a message can't be read.
    """
    if isinstance(value, Mapping) and "replies" in value:
        raise ValueError(f"{name!r} is a tree of messages; choose one reply to each and write them as 'messages'")
    if layout in _MESSAGE_LISTS:
        if is_blank(value):
            raise ValueError(f"{name!r} is not a list with at least one message")
        return read_messages(name, value)
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return read_messages(name, value)
    if is_message(value):
        return read_messages(name, value)
    if isinstance(value, str):
        nested = parse_nested(value)
        if isinstance(nested, list) and nested and all(is_message(item) for item in nested):
            return read_messages(name, nested)
        if layout in ("text", "prompt", "chosen"):
            return read_transcript(value)
    return ()


def _parse_conversation(layout: str, fields: Fields, turns: tuple[Turn, ...]) -> ParsedRow:
    count = next((i for i, turn in enumerate(turns) if turn.role not in _SYSTEM_ROLES), len(turns))
    system, role = paragraphs(turn.content for turn in turns[:count]), turns[0].role if count else "system"
    described = next((turn.tools for turn in turns if turn.tools), "")
    turns = turns[count:]
    rejected = read_rejected(fields)
    turns, answer, problem = _with_answer(layout, fields, turns)
    if is_wrong(layout, fields) and turns and turns[-1].role == "assistant":
        rejected, turns = (*rejected, turns[-1].content), turns[:-1]
        problem = f"{_WRONG}: its last answer is a rejected one; rename the label if it is a class"
    turns = (*read_history(fields), *turns)
    context, empty = read_input(fields, skip=(layout, *TASK_INPUT))
    if any(context in turn.content for turn in turns):
        context = ""
    return ParsedRow(
        fields[layout][0],
        turns=turns,
        system=system or read_system(fields),
        system_role=role,
        unused_system=bool(system) and read_system(fields) not in ("", system),
        answer_field=answer,
        answer_problem=problem,
        context=context,
        context_field=next((fields[key][0] for key in INPUT if key in fields), "") if context else "",
        tools=read_tools(fields) or described,
        reasoning=read_reasoning(fields),
        rejected=rejected,
        empty_inputs=empty,
    )


def _with_answer(layout: str, fields: Fields, turns: tuple[Turn, ...]) -> tuple[tuple[Turn, ...], str, str]:
    """Return the messages with the answer that a separate field holds.

    The answers within a prompt are given, not learnt, if a separate field holds the answer to it.

    Returns:
        The messages; the name of the field with the answer, or ""; why the answer can't be used, or "".
    """
    key, answers = answer_field(layout, fields), answer_turns(layout, fields, is_open=True)
    if key is None or not answers:
        return turns, "", ""
    name, is_answered = fields[key][0], bool(turns) and turns[-1].role == "assistant"
    if is_answered and layout not in _PROMPTS:
        return turns, "", ""
    questions = {turn.content for turn in turns if turn.role == "user"}
    if any(turn.role == "user" and turn.content in questions for turn in answers):  # the answer repeats the prompt
        return tuple(turn for turn in answers if turn.role not in _SYSTEM_ROLES), name, ""
    if is_answered:
        problem = f"{fields[layout][0]!r} ends with an answer, which {name!r} would continue; join the two"
        return turns, name, problem
    if layout in _PROMPTS:
        turns = tuple(replace(turn, mark=Mark(0.0)) if turn.role == "assistant" else turn for turn in turns)
    return (*turns, *answers), name, ""


def _is_missing(instruction: str) -> bool:
    return not instruction.strip() or spells_nothing(instruction)


def _parse_flat(layout: str, fields: Fields) -> ParsedRow:
    name, value = fields[layout]
    if layout == "definition" and isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        value = paragraphs(value)  # Natural Instructions
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be a string, not {type(value).__name__}")
    if layout == "chosen":
        raise ValueError(f"{name!r} holds an answer but no question, and the row has no prompt")
    answers = answer_turns(layout, fields)
    if any(turn.role == "user" for turn in answers):
        return _parse_conversation(layout, fields, answers)  # the chosen conversation repeats the prompt
    if len(answers) > 1 or any(turn.calls or turn.reasoning or turn.mark != NO_MARK for turn in answers):
        question = Turn("user", user_text(value, read_input(fields, skip=(layout,))[0]))
        return _parse_conversation(layout, fields, (question,))
    rejected, context_field = read_rejected(fields), ""
    if "instances" in fields and layout in ("instruction", "definition"):
        exchanges, empty = read_instances(fields["instances"][1])
    else:
        input_text, empty = read_input(fields, skip=(layout,))
        if layout == "instruction":  # a general instruction, and the question that it is about
            asked = [text for text in strings_of(fields, _QUESTIONS) if text not in value and value not in text]
            input_text = paragraphs([input_text, *asked]) if asked else input_text
        context_field = next((fields[key][0] for key in INPUT if key in fields and key not in TASK_INPUT), "")
        if layout == "instruction" and _is_missing(value) and any(strings_of(fields, TASK_INPUT)):
            value, input_text = input_text, ""
        exchange = Exchange(input_text) if layout == "text" else read_exchange(layout, fields, input_text)
        if exchange.field and is_wrong(layout, fields):
            rejected += exchange.outputs
            wrong = f"{_WRONG}: {exchange.field!r} holds a rejected answer; rename the label if it is a class"
            exchange = Exchange(input_text, (), exchange.field, wrong)
        exchanges = (exchange,)
    return ParsedRow(
        name,
        value,
        exchanges,
        turns=read_history(fields),
        system=read_system(fields),
        context_field=context_field if exchanges and exchanges[0].input else "",
        tools=read_tools(fields),
        reasoning=read_reasoning(fields),
        rejected=rejected,
        empty_inputs=empty,
    )

"""Messages of conversations, in the spellings that published datasets use.

A message is read by the names of its fields and by its role, in any case and with any separator: OpenAI (``role``,
``content``), ShareGPT (``from``, ``value``), content parts, rounds (``human``, ``assistant``), pairs, alternating
strings, and transcripts (``Human: ...``, ``### Human: ...``, ChatML).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle
from typing import Any

from selfinstruct.common.marks import MARKS, NO_MARK, Mark, combine_marks, read_mark
from selfinstruct.common.nested import as_text, parse_nested

__all__ = ["ROLES", "Turn", "is_absent", "is_message", "plain_fields", "plain_name", "read_messages",
           "read_transcript"]  # fmt: skip

_TOOL_ROLES = ("tool", "toolresponse", "toolresult", "function", "functionresponse", "functionresult", "observation",
               "ipython")  # fmt: skip
ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "client"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "agent", "llm"), "assistant"),
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(_TOOL_ROLES, "tool"),
    **dict.fromkeys(("functioncall", "toolcall", "toolcalls"), "tool calls"),
}
"""Role names of published collections (see ``plain_name``), with the names that chat templates use for them."""

_ROUND_ROLES = {
    **ROLES,
    **dict.fromkeys(("instruction", "input", "prompt", "question", "query"), "user"),
    **dict.fromkeys(("output", "response", "answer", "completion", "reply"), "assistant"),
}
_ROLE_FIELDS = ("role", "from", "speaker", "author", "sender")
_CONTENT_FIELDS = ("content", "value", "text", "message", "utterance", "parts")
_REASONING_FIELDS = ("reasoningcontent", "reasoning", "reasoningdetails", "thinking", "thought", "thoughts")
_CALL_FIELDS = ("toolcalls", "functioncall", "toolcall", "functioncalls")
_TOOL_FIELDS = ("tools", "functions")
_NAME_FIELDS = ("name", "toolname", "functionname")
_CALL_ID_FIELDS = ("toolcallid", "callid", "tooluseid")
_TEXT_PARTS = ("", "text", "inputtext", "outputtext")
_PART_FIELDS = ("text", "value", "content", "inputtext", "outputtext", *_REASONING_FIELDS)
_REASONING_PARTS = ("thinking", "reasoning", "thought")
_CALL_PARTS = ("tooluse", "toolcall", "functioncall")
_RESULT_PARTS = ("toolresult", "functionresponse")
_LEADING_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)

_SPEAKERS = "Human|User|Prompter|Assistant|ChatGPT|GPT|Bot|AI|System"
_TRANSCRIPTS = (
    re.compile(rf"###[ \t]*({_SPEAKERS}|Instruction|Input|Prompt|Question|Response|Answer|Output)[ \t]*:", re.I),
    re.compile(rf"^[ \t]*({_SPEAKERS})[ \t]*:", re.I | re.M),
    re.compile(r"<\|im_start\|>[ \t]*(\w+)[ \t]*\n"),
    re.compile(r"<\|start_header_id\|>[ \t]*(\w+)[ \t]*<\|end_header_id\|>"),  # Llama 3
    re.compile(r"<start_of_turn>[ \t]*(\w+)[ \t]*\n"),  # Gemma
    re.compile(r"<\|(user|assistant|system)\|>"),  # Zephyr, Phi
    re.compile(r"(\[/?INST\]|<</?SYS>>)"),  # Llama 2
)
_MARK_ROLES = {"[INST]": "user", "[/INST]": "assistant", "<<SYS>>": "system", "<</SYS>>": "user"}
_OPENING = re.compile(r"(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>|\s)*")
_CLOSING = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "</s>", "<s>",
            "<eos>")  # fmt: skip
_PREAMBLE = "Below is an instruction that describes a task"  # of Stanford Alpaca's prompt


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: ``system``, ``developer``, ``user``, ``assistant`` or ``tool``.
        content: Its text.
        reasoning: The reasoning that precedes the content, where the row keeps it apart.
        calls: Tool calls, or lists of them, as JSON.
        other_parts: Types of content parts that are not text, such as ``image_url``.
        mark: What the message says about its weight in training.
        name: Name of the speaker, or of the tool whose result this is.
        call_id: Id of the call whose result this is.
        tools: Descriptions of tools as JSON, which some collections keep in the system message.
        unread: Names of the fields that are not read.
    """

    role: str
    content: str
    reasoning: str = ""
    calls: tuple[str, ...] = ()
    other_parts: tuple[str, ...] = ()
    mark: Mark = NO_MARK
    name: str = ""
    call_id: str = ""
    tools: str = ""
    unread: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """Return a field or role name without case, spaces and separators: ``systemprompt`` for ``System_Prompt``."""
    return re.sub(r"[\W_]+", "", name).casefold()


def is_absent(value: object) -> bool:
    """Return whether a value stands for a missing one: null, or the NaN that columns hold in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def plain_fields(row: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return name and value of each field that has a value, by its plain name; exact lower-case names win."""
    fields: dict[str, tuple[str, Any]] = {}
    for name, value in row.items():
        plain = plain_name(str(name))
        if not is_absent(value) and (plain not in fields or name == plain):
            fields[plain] = (str(name), value)
    return fields


def is_message(value: object) -> bool:
    """Return whether a value is an object with a role, and with a content or tool calls."""
    if not isinstance(value, Mapping):
        return False
    names = {plain_name(str(name)) for name in value}
    return not names.isdisjoint(_ROLE_FIELDS) and not names.isdisjoint((*_CONTENT_FIELDS, *_CALL_FIELDS))


def read_messages(name: str, value: object) -> tuple[Turn, ...]:
    """Return the messages that a field holds, in order.

    Args:
        name: Name of the field, for error messages.
        value: A list of messages, rounds, pairs or alternating strings; columns of messages; one message; or a string
            that holds one of these as JSON, as Python literals or as a transcript.

    Raises:
        ValueError: A message can't be read; the message names the field and the position.
    """
    if isinstance(value, str):
        nested = parse_nested(value)
        if nested is None:
            if turns := read_transcript(value):
                return turns
            raise ValueError(f"{name!r} is not a list of messages: it is a string that holds no conversation")
        value = nested
    if isinstance(value, Mapping):
        columns = list(value.values())
        if columns and all(isinstance(column, list) for column in columns) and len({*map(len, columns)}) == 1:
            value = [dict(zip(value, items, strict=True)) for items in zip(*columns, strict=True)]
        else:
            value = [value]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name!r} is not a list of messages: it is {type(value).__name__}")
    if value and all(isinstance(item, str) and is_message(parse_nested(item)) for item in value):
        value = [parse_nested(item) for item in value]
    if len(value) > 1 and all(isinstance(item, str) for item in value):
        return tuple(Turn(role, text) for role, text in zip(cycle(("user", "assistant")), value, strict=False))
    turns = tuple(turn for number, message in enumerate(value, start=1) for turn in _turns(name, number, message))
    for number, turn in enumerate(turns, start=1):
        if turn.other_parts and not turn.content.strip() and not turn.calls:
            raise ValueError(f"message {number} of {name!r} holds no text, only {', '.join(turn.other_parts)}")
    return turns


def _turns(name: str, number: int, message: object) -> Iterator[Turn]:
    """Yield the message, or the messages of a round: an object or a pair with one text for each speaker."""
    where = f"message {number} of {name!r}"
    if isinstance(message, list | tuple) and len(message) == 2 and all(isinstance(text, str) for text in message):
        yield from (Turn("user", message[0]), Turn("assistant", message[1]))
        return
    if not isinstance(message, Mapping):
        raise ValueError(f"{name!r} is not a list of messages: item {number} is {type(message).__name__}")
    fields = plain_fields(message)
    role = next((fields[key][1] for key in _ROLE_FIELDS if key in fields), None)
    if isinstance(role, Mapping):  # {"author": {"role": "user"}}
        role = role.get("role")
    if role is None:
        speakers = [(_ROUND_ROLES[key], text) for key, (_, text) in fields.items() if key in _ROUND_ROLES]
        speakers = [(speaker, text) for speaker, text in speakers if isinstance(text, str)]
        if len(speakers) < 2:
            raise ValueError(f"{where} lacks a role or content")
        order = ("system", "user", "assistant")
        speakers.sort(key=lambda item: order.index(item[0]) if item[0] in order else len(order))
        yield from (Turn(speaker, text) for speaker, text in speakers if text or speaker != "system")
        return
    yield from _messages(where, role, fields)


def _messages(where: str, role: object, fields: Mapping[str, tuple[str, Any]]) -> Iterator[Turn]:
    """Yield a message, after the tool results in its parts."""
    if not isinstance(role, str):
        raise ValueError(f"{where} lacks a role or content: its role is {type(role).__name__}")
    speaker = ROLES.get(plain_name(role))
    if speaker is None:
        raise ValueError(
            f"{where} has the unknown role {role[:40]!r}; known: {', '.join(dict.fromkeys(ROLES.values()))}"
        )
    content = _Content(where)
    calls = [fields[key][1] for key in _CALL_FIELDS if key in fields and fields[key][1] not in ("", [], {}, "[]")]
    reasoning = [key for key in _REASONING_FIELDS if key in fields and content.add_reasoning(fields[key][1])]
    values = [key for key in _CONTENT_FIELDS if key in fields]
    if not values and not calls and not content.reasoning:
        raise ValueError(f"{where} lacks a role or content: none of {', '.join(_CONTENT_FIELDS[:4])} has a value")
    if values:
        name, value = fields[values[0]]
        content.add(name, as_text(value) if speaker == "tool" and not _is_content(value) else value)
    yield from content.results
    if content.results and not content.texts and not calls:
        return
    calls += content.calls
    text = "\n".join(content.texts)
    if speaker == "tool calls":
        if thought := _LEADING_THOUGHT.match(text):
            content.reasoning.append(thought[1].strip("\n"))
            text = text[thought.end() :]
        speaker, text, calls = "assistant", "", [*calls, text]
    read = {
        *_ROLE_FIELDS,
        *values[:1],
        *reasoning,
        *_CALL_FIELDS,
        *_NAME_FIELDS,
        *_CALL_ID_FIELDS,
        *_TOOL_FIELDS,
        *MARKS,
    }
    yield Turn(
        speaker,
        text,
        "\n".join(dict.fromkeys(content.reasoning)),
        tuple(call if isinstance(call, str) else as_text(call) for call in calls),
        tuple(content.other),
        combine_marks((read_mark(fields, text), content.mark())),
        _string(fields, _NAME_FIELDS),
        _string(fields, (*_CALL_ID_FIELDS, *(("id",) if speaker == "tool" else ()))),
        next((as_text(fields[key][1]) for key in _TOOL_FIELDS if key in fields and fields[key][1]), ""),
        tuple(name for key, (name, _) in fields.items() if key not in read),
    )


def _is_content(value: object) -> bool:
    """Return whether a value is a text, a part of a content, or a list of them, and not the result of a tool."""
    if isinstance(value, list | tuple):
        return all(isinstance(part, str) or _is_content(part) for part in value)
    return isinstance(value, str) or (isinstance(value, Mapping) and isinstance(value.get("type"), str))


def _string(fields: Mapping[str, tuple[str, Any]], names: Sequence[str]) -> str:
    return next((value for key in names if key in fields and isinstance(value := fields[key][1], str)), "")


@dataclass(slots=True)
class _Content:
    """The content of one message, collected from its parts."""

    where: str
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    results: list[Turn] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)  # of each part with a text

    def mark(self) -> Mark:
        """Return the mark that all parts have."""
        if len(set(self.marks)) > 1:
            return Mark(problem=f"the parts of {self.where} have different marks; split it, or mark it as a whole with "
                        "a 'weight' of 0 or 1")  # fmt: skip
        return self.marks[0] if self.marks else NO_MARK

    def add_reasoning(self, value: Any) -> bool:
        """Add the value of a reasoning field: a string, a part, or a list of them; return False for anything else."""
        if isinstance(value, list | tuple):
            return all(tuple(map(self.add_reasoning, value)))  # adds all, also after one that can't be read
        if isinstance(value, Mapping):
            fields = plain_fields(value)
            value = next((fields[key][1] for key in _PART_FIELDS if key in fields), None)
        if isinstance(value, str):
            self.reasoning.append(value)
        return isinstance(value, str)

    def add(self, name: str, value: Any) -> None:
        """Add the value of a content field: a string, a part, or a list of them."""
        if isinstance(value, str):
            parts = parse_nested(value) if value.startswith(("[{", "[ {")) else None
            if isinstance(parts, list) and all(_is_stored_part(part) for part in parts):
                self.add(name, parts)
            else:
                self.texts.append(value)
        elif isinstance(value, Mapping) and isinstance(value.get("parts"), list):  # ChatGPT's export
            self.add(name, value["parts"])
        elif isinstance(value, Mapping):
            self._add_part(name, value)
        elif isinstance(value, Sequence) and not isinstance(value, bytes):
            for part in value:
                self.add(name, part)
        else:
            raise ValueError(f"{self.where} lacks a role or content: {name!r} must be text, not {type(value).__name__}")

    def _add_part(self, name: str, part: Mapping[str, Any]) -> None:
        kind = str(part.get("type") or "")
        plain = plain_name(kind)
        if plain in _CALL_PARTS:
            self.calls.append(part["value"] if isinstance(part.get("value"), str) else part)
        elif plain in _RESULT_PARTS:
            fields = plain_fields(part)
            result = _Content(self.where)
            result.add(name, next((fields[key][1] for key in ("content", "output", "response") if key in fields), ""))
            tool, call_id = _string(fields, _NAME_FIELDS), _string(fields, _CALL_ID_FIELDS)
            self.results.append(Turn("tool", "\n".join(result.texts), name=tool, call_id=call_id))
        elif plain in _TEXT_PARTS or plain in _REASONING_PARTS:
            fields = plain_fields(part)
            text = next((fields[key][1] for key in _PART_FIELDS if key in fields), None)
            if isinstance(text, Mapping):  # {"type": "text", "text": {"value": "...", "annotations": []}}
                text = next((text[key] for key in ("value", "text", "content") if isinstance(text.get(key), str)), None)
            if not isinstance(text, str):
                names = ", ".join(map(repr, part))
                raise ValueError(
                    f"{self.where}: a part of type {kind or 'text'} in {name!r} holds no text that can be read; "
                    f"it has {names}"
                )
            if plain in _REASONING_PARTS:
                self.reasoning.append(text)
                return
            self.texts.append(text)
            self.marks.append(read_mark(fields, text))
        else:
            self.other.append(kind)


def _is_stored_part(part: object) -> bool:
    """Return whether a part of a JSON string is one of OpenAI's, so that an answer in JSON remains a text."""
    return isinstance(part, Mapping) and (
        plain_name(str(part.get("type"))) in ("text", "inputtext", "outputtext", "imageurl", "image", "inputimage")
    )


def read_transcript(text: str) -> tuple[Turn, ...]:
    """Return the messages of a conversation written as one text; () if the text is no transcript.

    A transcript begins with the name of a speaker, or with the introduction of Alpaca's prompt, and names a user and an
    assistant. The speakers of chat templates (ChatML, Llama, Gemma, Zephyr) count as names.
    """
    for pattern in _TRANSCRIPTS:
        marks = list(pattern.finditer(text))
        lead = _OPENING.sub("", text[: marks[0].start()], count=1).strip() if marks else text
        if not marks or (lead and not lead.startswith(_PREAMBLE)):
            continue
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        roles = [_MARK_ROLES.get(mark[1]) or _ROUND_ROLES.get(plain_name(mark[1]), "") for mark in marks]
        contents = [_without_closing(text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]
        turns = [Turn(role, content) for role, content in zip(roles, contents, strict=True)]
        if roles[:2] == ["user", "system"] and not contents[0]:  # Llama 2 writes its system prompt in the first message
            del turns[0]
        if turns[-1] == Turn("assistant", ""):  # the prompt of an answer that is to be written
            turns.pop()
        if {"user", "assistant"} <= {*roles} <= {"system", "user", "assistant"}:
            return tuple(turns)
    return ()


def _without_closing(text: str) -> str:
    text = text.strip()
    while mark := next((mark for mark in _CLOSING if text.endswith(mark)), ""):
        text = text.removesuffix(mark).rstrip()
    return text

"""Parsing of rows in the common layouts of instruction data, shared by filters, strategies and the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfinstruct.common.formats import user_text

__all__ = [
    "LAYOUTS",
    "ROLES",
    "RowTexts",
    "answer_field",
    "describe_fields",
    "first_exchange",
    "layout_of",
    "parse_message",
    "texts_of",
]  # fmt: skip

LAYOUTS = ("instruction", "messages", "conversations", "prompt", "question", "text")
"""Fields that identify the layout of a row, in order of precedence."""

ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}
"""Role names of published collections, with the names that chat templates use for them."""

_ANSWERS = {
    "instruction": ("output", "response", "completion"),
    "prompt": ("completion", "response", "output"),
    "question": ("answer", "response", "output"),
}
"""Fields that may hold the answer, by layout, in order of precedence."""


@dataclass(frozen=True, slots=True)
class RowTexts:
    """The texts of a row.

    Attributes:
        field: The field that identified the layout.
        question: The instruction without its input; in a conversation, the first user message.
        prompt: The instruction with its input; in a conversation, the first user message.
        answer: The answer; in a conversation, the last one. In a row with only a ``text``, that text. "" if there is
            no answer.
        full_text: All texts except system messages, which many rows share.
    """

    field: str
    question: str
    prompt: str
    answer: str
    full_text: str


def layout_of(row: Mapping[str, Any]) -> str | None:
    """Return the first field of ``LAYOUTS`` that the row has a value for; None if it has none of them."""
    return next((field for field in LAYOUTS if row.get(field) is not None), None)


def answer_field(row: Mapping[str, Any], layout: str) -> str | None:
    """Return the field that holds the answer in a row of this layout; None if the row has no answer."""
    return next((field for field in _ANSWERS.get(layout, ()) if row.get(field) is not None), None)


def texts_of(row: Mapping[str, Any], column: str | None = None, output_column: str | None = None) -> RowTexts:
    """Extract the texts of a row.

    Args:
        column: The field to filter; None detects the layout.
        output_column: The field with the answer; None detects it.

    Raises:
        ValueError: The row has no such field, or the field is not a string; the message does not name the row.
    """
    if column is None:
        texts = _detect_texts(row)
    else:
        text = _string(row, column)
        texts = RowTexts(column, text, text, text, text)
    if output_column is None:
        return texts
    answer = _string(row, output_column)
    full_text = _join(texts.prompt, answer) if column is None else texts.full_text
    return RowTexts(texts.field, texts.question, texts.prompt, answer, full_text)


def _detect_texts(row: Mapping[str, Any]) -> RowTexts:
    layout = layout_of(row)
    if layout is None:
        raise ValueError(
            f"no text to filter: none of {', '.join(LAYOUTS)}; it has {describe_fields(row)}; use --column"
        )
    if isinstance(row[layout], list):
        return _conversation_texts(layout, row[layout])
    if layout in ("messages", "conversations"):
        raise ValueError(f"{layout!r} is not a list of messages")
    question = _string(row, layout)
    if layout == "text":
        return RowTexts(layout, question, question, question, question)
    input_text = _string(row, "input") if layout == "instruction" and row.get("input") is not None else ""
    prompt = user_text(question, input_text)
    answer = next((row[field] for field in _ANSWERS[layout] if isinstance(row.get(field), str)), "")
    return RowTexts(layout, question, prompt, answer, _join(question, input_text, answer))


def _conversation_texts(layout: str, messages: Sequence[Any]) -> RowTexts:
    turns = [parse_message(layout, message) for message in messages]
    first = _first_user_message(layout, turns)
    answer = next((text for role, text in reversed(turns) if role == "assistant"), "")
    full_text = _join(*(text for role, text in turns if role != "system"))
    return RowTexts(layout, turns[first][1], turns[first][1], answer, full_text)


def first_exchange(layout: str, messages: Sequence[Any]) -> tuple[str, str]:
    """Return the first user message of a conversation, and the answer to it ("" if there is none).

    Raises:
        ValueError: A message is invalid, or none is from a user.
    """
    turns = [parse_message(layout, message) for message in messages]
    first = _first_user_message(layout, turns)
    role, text = turns[first + 1] if first + 1 < len(turns) else ("", "")
    return turns[first][1], text if role == "assistant" else ""


def _first_user_message(layout: str, turns: Sequence[tuple[str, str]]) -> int:
    index = next((index for index, (role, _) in enumerate(turns) if role == "user"), None)
    if index is None:
        raise ValueError(f"{layout!r} has no user message")
    return index


def parse_message(layout: str, message: Any, *, text_only: bool = False) -> tuple[str, str]:
    """Return role and text of a message, with keys as in the OpenAI API (role, content) or ShareGPT (from, value).

    Args:
        layout: The field that holds the conversation, for error messages.
        text_only: Reject content that is not text, missing content and tool calls, instead of ignoring them.

    Raises:
        ValueError: The message is not an object with a role and content.
    """
    if not isinstance(message, Mapping):
        raise ValueError(f"{layout!r} is not a list of messages")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        if text_only:
            _require_text_parts(layout, content)
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "\n".join(text for text in texts if isinstance(text, str))
    elif content is None and not text_only:
        content = ""
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(f"a message of {layout!r} lacks a role or content")
    if text_only and message.get("tool_calls"):
        raise ValueError(f"a message of {layout!r} holds tool calls, which can't be trained on")
    return ROLES.get(role, role), content


def _require_text_parts(layout: str, parts: Sequence[Any]) -> None:
    """Reject content parts (as in the OpenAI API) that are not of type text."""
    types = {part.get("type") if isinstance(part, Mapping) else type(part).__name__ for part in parts}
    if types - {"text"}:
        raise ValueError(f"a message of {layout!r} holds more than text: {', '.join(sorted(map(str, types)))}")
    if not all(isinstance(part.get("text"), str) for part in parts):
        raise ValueError(f"a message of {layout!r} holds a part of type text whose 'text' is not a string")


def _string(row: Mapping[str, Any], field: str) -> str:
    if field not in row:
        raise ValueError(f"no field {field!r}; it has {describe_fields(row)}")
    text = row[field]
    if not isinstance(text, str):
        raise ValueError(f"{field!r} is a {type(text).__name__}, not a string")
    return text


def describe_fields(row: Mapping[str, Any]) -> str:
    """Return the field names of a row as a list for an error message."""
    names = [repr(name)[:80] for name in row]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no field"


def _join(*texts: str) -> str:
    return "\n".join(filter(None, texts))

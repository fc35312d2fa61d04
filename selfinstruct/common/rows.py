"""Which text of a row is what, for the layouts in which instruction data comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfinstruct.common.formats import user_text

__all__ = ["ANSWERS", "LAYOUTS", "ROLES", "RowTexts", "fields_of", "opening", "texts_of"]

LAYOUTS = ("instruction", "messages", "conversations", "prompt", "question", "text")
"""Fields that tell a row's layout, in the order in which they are looked for."""

ANSWERS = {
    "instruction": ("output", "response", "completion"),
    "prompt": ("completion", "response", "output"),
    "question": ("answer", "response", "output"),
}
"""The fields that may hold the answer, by the field that holds the question."""

ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}
"""The roles that collections name otherwise than chat templates do."""


@dataclass(frozen=True, slots=True)
class RowTexts:
    """The texts of a row.

    Attributes:
        field: The field that told the layout.
        asked: What is asked: the instruction without its input, the first message of the user.
        prompt: The same with its input.
        answered: The answer, or the last one; where nothing is asked, the text; "" if there is none.
        whole: All of it, but for system messages: they are the same in many rows.
    """

    field: str
    asked: str
    prompt: str
    answered: str
    whole: str


def texts_of(row: Mapping[str, Any], column: str | None = None, output_column: str | None = None) -> RowTexts:
    """Find the texts of a row.

    Args:
        column: The field to judge; None looks for a known layout.
        output_column: The field with the answer, likewise.

    Raises:
        ValueError: There is no such text.
    """
    if column is None:
        texts = _known(row)
    else:
        text = _string(row, column)
        texts = RowTexts(column, text, text, text, text)
    if output_column is None:
        return texts
    answered = _string(row, output_column)
    whole = _joined(texts.prompt, answered) if column is None else texts.whole
    return RowTexts(texts.field, texts.asked, texts.prompt, answered, whole)


def _known(row: Mapping[str, Any]) -> RowTexts:
    field = next((name for name in LAYOUTS if row.get(name) is not None), None)
    if field is None:
        raise ValueError(f"no text to judge: none of {', '.join(LAYOUTS)}; it has {fields_of(row)}; use --column")
    if isinstance(row[field], list):
        return _dialogue(field, row[field])
    asked = _string(row, field)
    if field == "text":
        return RowTexts(field, asked, asked, asked, asked)
    given = _string(row, "input") if field == "instruction" and row.get("input") is not None else ""
    prompt = user_text(asked, given)
    name = next((name for name in ANSWERS[field] if isinstance(row.get(name), str)), None)
    answered = "" if name is None else row[name]
    return RowTexts(field, asked, prompt, answered, _joined(asked, given, answered))


def opening(field: str, messages: list[Any]) -> tuple[str, str]:
    """The first message of a conversation's user, and the answer to it; "" if there is none.

    Raises:
        ValueError: It is no list of messages, or has none of a user.
    """
    turns = [_turn(field, message) for message in messages]
    first = next((place for place, (role, _) in enumerate(turns) if role == "user"), None)
    if first is None:
        raise ValueError(f"{field!r} has no message of a user")
    role, text = turns[first + 1] if first + 1 < len(turns) else ("", "")
    return turns[first][1], text if role == "assistant" else ""


def _dialogue(field: str, messages: list[Any]) -> RowTexts:
    turns = [_turn(field, message) for message in messages]
    asked = next((text for role, text in turns if role == "user"), None)
    if asked is None:
        raise ValueError(f"{field!r} has no message of a user")
    answered = next((text for role, text in reversed(turns) if role == "assistant"), "")
    return RowTexts(field, asked, asked, answered, _joined(*(text for role, text in turns if role != "system")))


def _turn(field: str, message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise ValueError(f"{field!r} is no list of messages")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if isinstance(content, list):  # parts, as the OpenAI API takes them
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    if not isinstance(role, str) or not isinstance(content, str | None):
        raise ValueError(f"a message of {field!r} has no role and content")
    return ROLES.get(role, role), content or ""


def _string(row: Mapping[str, Any], field: str) -> str:
    if field not in row:
        raise ValueError(f"no field {field!r}; it has {fields_of(row)}")
    if not isinstance(row[field], str):
        raise ValueError(f"{field!r} is a {type(row[field]).__name__}, not a string")
    text: str = row[field]
    return text


def fields_of(row: Mapping[str, Any]) -> str:
    """The names of a row's fields, for a message."""
    names = [repr(name)[:80] for name in row]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no field"


def _joined(*texts: str) -> str:
    return "\n".join(filter(None, texts))

"""Names of the fields of a row, and the reading of everything in it except the task and the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from selfinstruct.common.messages import Turn, read_messages
from selfinstruct.common.nested import as_text, parse_nested

__all__ = [
    "INPUT",
    "READ_BY_NAME",
    "TASK_INPUT",
    "WITHOUT_TASK",
    "Fields",
    "describe_fields",
    "is_blank",
    "paragraphs",
    "read_history",
    "read_input",
    "read_reasoning",
    "read_system",
    "read_tools",
    "spells_nothing",
    "strings_of",
]

Fields: TypeAlias = Mapping[str, tuple[str, Any]]
"""Name and value of each field that has a value, by its plain name (``plain_fields``)."""

_SYSTEM = ("system", "systemprompt", "systemmessage", "systeminstruction", "sysprompt")
_HISTORY = ("history", "chathistory", "conversationhistory", "dialoguehistory", "dialoghistory")
INPUT = (
    "input", "inputs", "inputtext", "context", "contexts", "passage", "passages", "questioncontext", "background",
    "document", "documents", "article", "paragraph", "evidence", "dialogue", "dialog", "story", "knowledge", "choices",
    "options",
)  # fmt: skip
TASK_INPUT = ("input", "inputs", "inputtext")  # may hold the task itself where the instruction is blank
_TOOLS = ("tools", "functions", "availabletools")
_REASONING = ("reasoning", "reasoningcontent", "thinking", "thought", "thoughts", "rationale", "cot", "complexcot",
              "chainofthought", "reasoningtrace", "thinkingtrace", "thinkingtrajectories")  # fmt: skip
WITHOUT_TASK = (*_SYSTEM, *_HISTORY, *_TOOLS, *_REASONING)
"""Names of the fields that are read in every layout, next to the task and the answer."""
READ_BY_NAME = frozenset((*_SYSTEM, *_HISTORY, *INPUT, *_TOOLS, "rejected", "instances", "ktotag", "isdesirable",
                          "desirable")) - {*TASK_INPUT}  # fmt: skip
"""Plain names of the fields that are read in every layout."""
_EMPTY_INPUT = re.compile(
    r"[\[(<{\"'\s#]*(?:(?i:nan|null|none|n/a|n\.a|no[ _-]?(?:additional )?input"
    r"(?: (?:is |was )?(?:needed|required|necessary|provided|given|available))?"
    r"|not (?:applicable|available|needed|required|provided|given))|NA)[\])>}\"'\s.]*"  # "Na" may be sodium
    r"|\s*[<\[(](?i:empty|blank|nothing|undefined|missing)[>\])]\s*"
)


def read_history(fields: Fields) -> tuple[Turn, ...]:
    """Return the earlier rounds that a separate field holds."""
    return tuple(
        turn
        for name, value in (fields[key] for key in _HISTORY if key in fields)
        if not is_blank(value) and not (isinstance(value, str) and spells_nothing(value))
        for turn in read_messages(name, value)
    )


def read_system(fields: Fields) -> str:
    """Return the system prompts that fields hold, each once."""
    return paragraphs(dict.fromkeys(strings_of(fields, _SYSTEM)))


def strings_of(fields: Fields, names: Sequence[str]) -> list[str]:
    """Return the texts of some fields, without the blank ones and the ones that are spelled as nothing.

    Raises:
        ValueError: A field is not a string.
    """
    texts = []
    for name, value in (fields[key] for key in names if key in fields):
        if not isinstance(value, str):
            raise ValueError(f"{name!r} must be a string, not {type(value).__name__}")
        if value.strip() and not spells_nothing(value):
            texts.append(value)
    return texts


def read_input(fields: Fields, skip: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Return the input of a row, and the texts in it that are spelled as nothing.

    Contexts that are lists or objects are written as JSON.

    Raises:
        ValueError: An input is not a string.
    """
    texts, empty = [], []
    for key in INPUT:
        if key not in fields or key in skip:
            continue
        name, value = fields[key]
        if key not in TASK_INPUT and isinstance(value, list | tuple | Mapping):
            is_texts = not isinstance(value, Mapping) and all(isinstance(text, str) for text in value)
            value = paragraphs(value) if is_texts else as_text(value)
        if not isinstance(value, str):
            raise ValueError(f"{name!r} must be a string, not {type(value).__name__}")
        if not spells_nothing(value):
            texts.append(value)
        elif value:
            empty.append(value)
    return (texts[0] if len(texts) == 1 else paragraphs(texts)), tuple(empty)


def read_tools(fields: Fields) -> str:
    """Return the descriptions of tools as JSON; "" for none."""
    value = next((fields[key][1] for key in _TOOLS if key in fields), None)
    if value is None or is_blank(value) or (isinstance(value, str) and parse_nested(value) in ([], {})):
        return ""
    if isinstance(value, str):
        return "" if spells_nothing(value) else value
    return as_text(value)


def read_reasoning(fields: Fields) -> str:
    """Return the reasoning that a separate field holds, as a text or a list of texts; "" for none."""
    for key in _REASONING:
        value = fields[key][1] if key in fields else ""
        texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
        if all(isinstance(text, str) for text in texts) and (reasoning := paragraphs(texts)):
            return reasoning
    return ""


def spells_nothing(text: str) -> bool:
    """Return whether a text is empty, or a usual spelling of a missing one, such as ``nan`` or ``<noinput>``."""
    return not text or (len(text) < 40 and _EMPTY_INPUT.fullmatch(text) is not None)


def is_blank(value: object) -> bool:
    """Return whether a value is a blank text, an empty list or an empty object."""
    return not value.strip() if isinstance(value, str) else value in ([], {})


def describe_fields(row: Mapping[str, Any]) -> str:
    """Return the field names of a row as a list for an error message."""
    names = [repr(name)[:80] for name in row]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no field"


def paragraphs(texts: Iterable[str]) -> str:
    """Return the texts that aren't blank, with an empty line between them."""
    return "\n\n".join(text for text in texts if text.strip())

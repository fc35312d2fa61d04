"""Definitions shared by all kinds of verifiers: their results, the checks of their fields, and text helpers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfinstruct.common.codec import Json, dumps
from selfinstruct.parse.text import fence_spans

__all__ = [
    "CodeBlock", "Finding", "Kind", "Spec", "check_any", "check_count", "check_flag", "check_number", "check_text",
    "check_texts", "check_tolerance", "code_blocks", "nearest_name", "short", "shorten",
]  # fmt: skip

Spec = Mapping[str, Any]

_SHOWN_CHARS = 100  # characters of an answer or an expectation that a verdict repeats


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of checking one answer.

    Attributes:
        kept: Whether the answer is right.
        expected: The expectation, in short.
        found: What the answer contains instead, in short.
        failed: For a verifier that combines several: the details of the ones that failed.
    """

    kept: bool
    expected: str
    found: str
    failed: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of verifier.

    Attributes:
        verify: Checks an answer against a specification that has passed the checks below.
        fields: The fields that a specification may have, each with a function that raises ValueError on a bad value.
            The message completes a sentence that begins with the field's name.
        required: Fields that a specification must have.
        one_of: Fields of which a specification must have at least one.
        check: Checks the specification as a whole, after its fields; raises ValueError.
        executes: Whether verifying runs code from the answer, so that the result may depend on a time limit. Such
            results are recorded in the run's journal and not computed again.
    """

    verify: Callable[[Spec, str], Finding]
    fields: Mapping[str, Callable[[Any], object]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    check: Callable[[Spec], object] | None = None
    executes: bool = False


def check_number(value: Any) -> None:
    """Raise ValueError unless `value` is a finite number. Integers may be too large for a float."""
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not finite:
        raise ValueError(f"must be a number, found {short(value)}")


def check_tolerance(value: Any) -> None:
    """Raise ValueError unless `value` is a number of at least 0."""
    check_number(value)
    if value < 0:
        raise ValueError(f"must be at least 0, found {short(value)}")


def check_count(value: Any) -> None:
    """Raise ValueError unless `value` is an integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"must be an integer of at least 0, found {short(value)}")


def check_flag(value: Any) -> None:
    """Raise ValueError unless `value` is a boolean."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, found {short(value)}")


def check_text(value: Any) -> None:
    """Raise ValueError unless `value` is a string that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be a text that is not blank, found {short(value)}")


def check_texts(value: Any) -> None:
    """Raise ValueError unless `value` is a list of strings that are not blank."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be a list of at least one text, found {short(value)}")
    for item in value:
        check_text(item)


def check_any(_: Any) -> None:
    """Accept any JSON value."""


def short(value: Any) -> str:
    """Return `value` as JSON, cut to a length that fits into a message."""
    try:
        text = dumps(value if not isinstance(value, str) else value[: 2 * _SHOWN_CHARS])
    except (TypeError, ValueError, RecursionError):
        text = ascii(value)[: 2 * _SHOWN_CHARS]
    return shorten(text)


def shorten(text: str, limit: int = _SHOWN_CHARS) -> str:
    """Return `text`, cut to `limit` characters and with an ellipsis at its end if it is longer."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def nearest_name(word: str, names: Iterable[str]) -> str:
    """Return the name most similar to `word` as a hint in brackets, or all names if none is similar."""
    from selfinstruct.common.config import suggest  # loads pydantic, which only a mistake needs

    return suggest(word, names)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A closed code fence of an answer, with its language in lower case ("" if it names none)."""

    language: str
    code: str


def code_blocks(answer: str) -> list[CodeBlock]:
    """Return the closed code fences of an answer, in order."""
    blocks = []
    for start, end in fence_spans(answer, 0):
        fence, _, rest = answer[start:end].partition("\n")
        info = fence.strip().lstrip("`~").split()
        blocks.append(CodeBlock(info[0].lower() if info else "", rest.rpartition("\n")[0]))
    return blocks

"""What the kinds of verifiers share: what they find, how their fields are checked, how an answer is cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfinstruct.common.codec import Json, dumps
from selfinstruct.parse.text import fenced

__all__ = [
    "Finding", "Kind", "Spec", "any_json", "code_blocks", "count", "flag", "near", "number", "short", "text", "texts",
]  # fmt: skip

Spec = Mapping[str, Any]

_SHOWN = 100  # characters of an answer, or of what is expected, in a verdict


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether an answer is right, with what was expected and what was found instead, in short.

    Attributes:
        failed: Of several demands, those that were not met.
    """

    kept: bool
    expected: str
    found: str
    failed: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True)
class Kind:
    """A kind of verifier.

    Attributes:
        verify: From a good specification and an answer to what was found.
        fields: The fields that a specification may have; each function raises ValueError, with the end of a sentence
            that begins with the field's name, on a value that is not good.
        required: Those that it must have.
        one_of: Of these it must have one, at least.
        check: Further demands on a specification whose fields are good; raises ValueError.
    """

    verify: Callable[[Spec, str], Finding]
    fields: Mapping[str, Callable[[Any], object]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    check: Callable[[Spec], object] | None = None


def number(value: Any) -> None:
    """A finite number; an integer may be beyond every float."""
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not finite:
        raise ValueError(f"is a number, found {short(value)}")


def count(value: Any) -> None:
    """A number of things."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"is a whole number of 0 or more, found {short(value)}")


def flag(value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"is true or false, found {short(value)}")


def text(value: Any) -> None:
    """A text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"is a text that is not blank, found {short(value)}")


def texts(value: Any) -> None:
    """A list of such."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"is a list of at least one text, found {short(value)}")
    for one in value:
        text(one)


def any_json(_: Any) -> None:
    """Any JSON."""


def short(value: Any) -> str:
    """A value as JSON, and of a long one its beginning."""
    try:
        said = dumps(value if not isinstance(value, str) else value[: 2 * _SHOWN])
    except (TypeError, ValueError, RecursionError):
        said = ascii(value)[: 2 * _SHOWN]
    return said if len(said) <= _SHOWN else f"{said[: _SHOWN - 3]}..."


def near(word: str, known: Iterable[str]) -> str:
    """The known word that is most like it, in brackets."""
    from selfinstruct.common.config import nearest  # loads pydantic, and only a mistake needs it

    return nearest(word, known)


def code_blocks(answer: str) -> list[str]:
    """The contents of the closed code fences of an answer."""
    return [answer[start:end].split("\n", 1)[-1].rsplit("\n", 1)[0] for start, end in fenced(answer, 0)]

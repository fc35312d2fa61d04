"""The strict JSON codec that all stored data goes through.

Parsing refuses what Python's ``json`` accepts and other parsers do not: NaN and infinities, duplicate keys,
lone surrogates, integers beyond 4,300 digits and nesting beyond ``MAX_DEPTH``. Writing is canonical (sorted keys, no
spaces, UTF-8, only the required escapes), so that equal values have equal digests.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

__all__ = ["MAX_DEPTH", "Json", "canonical", "digest", "dumps", "loads"]

Json: TypeAlias = "str | int | float | bool | None | Sequence[Json] | Mapping[str, Json]"

MAX_DEPTH = 200  # far above any real row, far below the C recursion limit of the parser
_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*"?|[\[{\]}]', re.DOTALL)  # possessive: a string may not end
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_MESSAGE = "a lone surrogate (half of a UTF-16 pair) is not text"


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Object hook that refuses duplicate keys."""
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {duplicate[:80]!r} is given twice")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"number {text[:40]} is out of range")
    return value


def _check_depth(text: str) -> None:
    depth = 0
    for match in _BRACKETS.finditer(text):
        bracket = match.group()
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        elif bracket in "]}":
            depth -= 1


def loads(text: str | bytes) -> Any:
    """Parse one JSON document.

    Raises:
        ValueError: The text is not strict JSON in UTF-8; the message can be shown to users.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start}") from None
    elif _SURROGATE.search(text):
        raise ValueError(_SURROGATE_MESSAGE)
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    if "\\u" in text and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError(_SURROGATE_MESSAGE)
    return value


def dumps(value: Any) -> str:
    """Serialize a value to one line of JSON, keys in their order and non-ASCII characters unescaped.

    Raises:
        ValueError: The value holds NaN, an infinity or a lone surrogate.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if _SURROGATE.search(text):
        raise ValueError(_SURROGATE_MESSAGE)
    return text


def canonical(value: Any) -> bytes:
    """Serialize a value to canonical UTF-8 bytes: sorted keys, no spaces."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8")


def digest(value: Any) -> str:
    """Return the hexadecimal SHA-256 of a value's canonical bytes, or of ``value`` itself if it is bytes."""
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value)).hexdigest()

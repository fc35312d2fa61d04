"""Lists and objects that are written as a string, and strings of them."""

from __future__ import annotations

import ast
from typing import Any

from selfinstruct.common.codec import dumps, loads

__all__ = ["as_text", "parse_nested"]

_MAX_LITERALS = 10_000  # brackets of Python literals that are parsed, since Python's parser recurses


def as_text(value: Any) -> str:
    """Return a value as JSON; values that JSON can't hold, as Python writes them."""
    try:
        return dumps(value)
    except (TypeError, ValueError):
        return str(value)


def parse_nested(text: str) -> Any:
    """Return the list or object that a string holds as JSON or as Python literals; None if it holds neither."""
    stripped = text.strip()
    if stripped[:2] in ('"[', '"{'):  # written as JSON twice
        try:
            stripped = str(loads(stripped)).strip()
        except ValueError:
            return None
    if stripped[:1] not in ("[", "{") or stripped[-1:] not in ("]", "}"):
        return None
    try:
        return loads(stripped)
    except ValueError:
        pass
    if stripped.count("[") + stripped.count("{") > _MAX_LITERALS:
        return None
    try:
        value = ast.literal_eval(stripped)
        dumps(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list | dict) else None

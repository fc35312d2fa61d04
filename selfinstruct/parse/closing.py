"""The sign by which a participant ends a conversation: prompts ask for it, so it works in every language."""

from __future__ import annotations

import re
from collections.abc import Iterator

from selfinstruct.parse.text import fence_spans, outside_fences

__all__ = ["CLOSING_SIGN", "closing_sign", "is_closing"]

CLOSING_SIGN = "[END]"

_SIGN = re.escape(CLOSING_SIGN) + r"[*_.!]{0,4}"
_AT_AN_END = re.compile(rf"{_SIGN}`?[ \t\r]*$|^[*_`]{{0,3}}{_SIGN}(?=\s)", re.MULTILINE | re.IGNORECASE)
_ALONE_OR_LAST = re.compile(
    rf"^[ \t]{{0,3}}[*_]{{0,3}}{_SIGN}[ \t\r]*$|[*_]{{0,3}}{_SIGN}\s*\Z", re.MULTILINE | re.IGNORECASE
)


def closing_sign(text: str, start: int, end: int, fences: list[tuple[int, int]] | None = None) -> int | None:
    """Return the position of the closing sign in an assistant's message; None without one.

    The sign counts alone on a line or at the end of the message, outside code fences.

    Args:
        start, end: Span of the message.
        fences: The code fences of the complete text, if they are known.
    """
    signs: Iterator[re.Match[str]] = _ALONE_OR_LAST.finditer(text, start, end)
    first = next(outside_fences(signs, fence_spans(text, 0) if fences is None else fences), None)
    return None if first is None else first.start()


def is_closing(text: str) -> bool:
    """Return True if a user's message ends the conversation: a line begins or ends with the closing sign."""
    return _AT_AN_END.search(text) is not None

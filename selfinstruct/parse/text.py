"""What lists and blocks share: line-anchored patterns, code fences, trimming, and the reading of single words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from selfinstruct.records import Discard

__all__ = [
    "BLANK_LINE",
    "FLAGS",
    "LEAD",
    "blank_input",
    "closing",
    "collapse",
    "discard",
    "fenced",
    "first_word",
    "separated",
    "strip",
    "stripped",
    "unfenced",
    "unwrap",
]

LEAD = r"^(?P<indent>[ \t]{0,3})(?:[#>-]{1,6}[ \t]{1,2}|\#{1,6})?[*_]{0,3}"
"""What may stand before a marker on its line: indentation, a heading or bullet sign, emphasis."""

FLAGS = re.MULTILINE | re.IGNORECASE | re.ASCII
"""Of marker patterns. Without ASCII, other letters than an i would match it: names are looked up by what matched."""

BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
"""What ends a paragraph."""

_FENCE = re.compile(r"^[ \t]{0,3}(?P<ticks>`{3,}|~{3,})(?P<info>[^\n]*)", re.MULTILINE)
_RULE = re.compile(r"[ \t]*(?:#{2,}|-{3,}|\*{3,}|={3,}|_{3,})[ \t\r]*")
_WORD = re.compile(r"[^\W\d_]+")
_SPACE = re.compile(r"\s+")
_BRACKETS = " \t\r\n<>()[]{}*_`\"'."
_NO_INPUT = re.compile(
    r"(?:noinput|no (?:additional )?input(?: needed| required| necessary)?|none|n/?a|null|nothing|empty"
    r"|not (?:applicable|needed|required))?",
    re.IGNORECASE,
)


class _Placed(Protocol):
    def start(self) -> int: ...


M = TypeVar("M", bound=_Placed)


def collapse(text: str) -> str:
    """The text on one line: each run of white space becomes one space."""
    return _SPACE.sub(" ", text).strip()


def blank_input(text: str) -> str:
    """The text of an input field, or "" where it says in one of the usual ways that there is none (``<noinput>``)."""
    return "" if len(text) < 40 and _NO_INPUT.fullmatch(collapse(text.strip(_BRACKETS))) else text


def first_word(text: str) -> str:
    """The first word of the text, in lower case and without marks: ``"**Yes**, it is"`` gives ``"yes"``."""
    found = _WORD.search(text)
    return found.group().casefold() if found else ""


def fenced(text: str, start: int) -> list[tuple[int, int]]:
    """Closed code fences from ``start`` on, in order; a fence that never closes protects nothing."""
    spans: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for mark in _FENCE.finditer(text, start):
        if opened is None or mark["info"].strip():  # a fence with a language opens: the one before it never closed
            opened = mark
        elif mark["ticks"].startswith(opened["ticks"]):
            spans.append((opened.start(), mark.end()))
            opened = None
    return spans


def unfenced(marks: Iterable[M], fences: Sequence[tuple[int, int]]) -> Iterator[M]:
    """The marks outside every fence; both come in order."""
    at = 0
    for mark in marks:
        while at < len(fences) and fences[at][1] <= mark.start():
            at += 1
        if at == len(fences) or mark.start() < fences[at][0]:
            yield mark


def strip(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space around it and the separator lines (``###``, ``---``) at its end."""
    while start < end and text[start].isspace():
        start += 1
    while True:
        while end > start and text[end - 1].isspace():
            end -= 1
        line = max(text.rfind("\n", start, end) + 1, start)
        if start < end and _RULE.fullmatch(text, line, end):
            end = line
        else:
            return start, end


def stripped(text: str) -> tuple[int, int]:
    """Where the text stands without the white space and separator lines around it."""
    return strip(text, 0, len(text))


def unwrap(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the emphasis or quotation marks that enclose all of it (``**text**``, ``"text"``)."""
    if text.endswith("**", start, end) and text.count("**", start, end) % 2:
        end -= 2  # its other half stood before the marker
    for left, right in (("**", "**"), ("__", "__"), ("*", "*"), ('"', '"'), ("“", "”")):
        inner_start, inner_end = start + len(left), end - len(right)
        if inner_start < inner_end and text.startswith(left, start) and text.endswith(right, start, end):
            inner = text[inner_start:inner_end]
            if left not in inner and right not in inner:
                start, end = inner_start, inner_end
            break
    return strip(text, start, end)


def closing(text: str, start: int) -> int:
    """Where the text ends: before a fence on its last line, when the answer from before ``start`` stood in one."""
    end = len(text.rstrip())
    line = text.rfind("\n", 0, end) + 1
    wrapped = _FENCE.search(text, 0, start) is not None and line >= start
    return line if wrapped and _FENCE.match(text, line, end) else len(text)


def separated(text: str, start: int) -> bool:
    """True when the line that begins at ``start`` is the first, or follows a blank or separator line."""
    if start == 0:
        return True
    line = text.rfind("\n", 0, start - 1) + 1
    return not text[line : start - 1].strip() or _RULE.fullmatch(text, line, start - 1) is not None


def discard(text: str, reason: str, start: int, end: int) -> tuple[Discard, ...]:
    """A discard for the piece, or nothing when it is blank."""
    span = strip(text, start, end)
    return (Discard(reason, span),) if span[0] < span[1] else ()

"""Shared helpers of the parsers: line-anchored patterns, code fences, trimming, and single words."""

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
    "collapse",
    "content_end",
    "content_span",
    "discard_span",
    "fence_spans",
    "first_word",
    "outside_fences",
    "starts_paragraph",
    "strip_emphasis",
    "strip_span",
]

LEAD = r"^(?P<indent>[ \t]{0,3})(?:[#>-]{1,6}[ \t]{1,2}|\#{1,6})?[*_]{0,3}"
"""Pattern of the text that may precede a marker on its line: indentation, a heading or bullet sign, emphasis."""

FLAGS = re.MULTILINE | re.IGNORECASE | re.ASCII
"""Flags of marker patterns. ASCII, since other letters case-fold to ``i`` and the matched text is looked up."""

BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
"""Pattern of the end of a paragraph."""

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
    """Return the text on one line, with each run of white space replaced by one space."""
    return _SPACE.sub(" ", text).strip()


def blank_input(text: str) -> str:
    """Return the text of an input field, or "" for the usual notations of an empty input (``<noinput>``)."""
    return "" if len(text) < 40 and _NO_INPUT.fullmatch(collapse(text.strip(_BRACKETS))) else text


def first_word(text: str) -> str:
    """Return the first word of the text in lower case, without markup: "yes" for ``"**Yes**, it is"``."""
    word = _WORD.search(text)
    return word.group().casefold() if word else ""


def fence_spans(text: str, start: int) -> list[tuple[int, int]]:
    """Return the spans of the closed code fences from ``start`` on; an unclosed fence has no effect."""
    spans: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for mark in _FENCE.finditer(text, start):
        if opened is None or mark["info"].strip():  # an info string opens a fence, so the previous one was never closed
            opened = mark
        elif mark["ticks"].startswith(opened["ticks"]):
            spans.append((opened.start(), mark.end()))
            opened = None
    return spans


def outside_fences(marks: Iterable[M], fences: Sequence[tuple[int, int]]) -> Iterator[M]:
    """Yield the marks outside of all fences; both arguments must be in order."""
    at = 0
    for mark in marks:
        while at < len(fences) and fences[at][1] <= mark.start():
            at += 1
        if at == len(fences) or mark.start() < fences[at][0]:
            yield mark


def strip_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without surrounding white space and without separator lines (``###``, ``---``) at its end."""
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


def content_span(text: str) -> tuple[int, int]:
    """Return the span of the text without surrounding white space and separator lines."""
    return strip_span(text, 0, len(text))


def strip_emphasis(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without emphasis or quotation marks that enclose all of it (``**text**``, ``"text"``)."""
    if text.endswith("**", start, end) and text.count("**", start, end) % 2:
        end -= 2  # the opening half precedes the marker
    for left, right in (("**", "**"), ("__", "__"), ("*", "*"), ('"', '"'), ("“", "”")):
        inner_start, inner_end = start + len(left), end - len(right)
        if inner_start < inner_end and text.startswith(left, start) and text.endswith(right, start, end):
            inner = text[inner_start:inner_end]
            if left not in inner and right not in inner:
                start, end = inner_start, inner_end
            break
    return strip_span(text, start, end)


def content_end(text: str, start: int) -> int:
    """Return the end of the content: before a fence on the last line if a fence was opened before ``start``."""
    end = len(text.rstrip())
    line = text.rfind("\n", 0, end) + 1
    wrapped = _FENCE.search(text, 0, start) is not None and line >= start
    return line if wrapped and _FENCE.match(text, line, end) else len(text)


def starts_paragraph(text: str, start: int) -> bool:
    """Return whether the line at ``start`` is the first line, or follows a blank or separator line."""
    if start == 0:
        return True
    line = text.rfind("\n", 0, start - 1) + 1
    return not text[line : start - 1].strip() or _RULE.fullmatch(text, line, start - 1) is not None


def discard_span(text: str, reason: str, start: int, end: int) -> tuple[Discard, ...]:
    """Return a discard for the span, or nothing if the span is blank."""
    span = strip_span(text, start, end)
    return (Discard(reason, span),) if span[0] < span[1] else ()

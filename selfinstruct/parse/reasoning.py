"""Separation of a model's reasoning from its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from selfinstruct.parse.text import FLAGS, fence_spans, outside_fences, strip_span

__all__ = ["ReasoningSplit", "answer_span", "split_reasoning"]

Span = tuple[int, int]

_NAMES = r"(?:think|thinking|thought|reasoning|reason)"
_OPEN = re.compile(rf"<{_NAMES}>", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_NAMES}>", re.IGNORECASE)
_ANSWER_OPEN, _ANSWER_CLOSE = (re.compile(rf"<{slash}answer>", re.IGNORECASE) for slash in ("", "/"))
_SIGNS = r"(?:#{1,6}[ \t]{0,2})?[*_]{0,3}"
_END = r"[*_]{0,3}(?::[*_]{0,3}|[ \t]*$)"
_HEADING = re.compile(rf"{_SIGNS}(?:the )?(?:final )?answer{_END}", FLAGS)
_LINE = re.compile(rf"^[ \t]{{0,3}}{_HEADING.pattern}", FLAGS)
_TITLE = re.compile(rf"{_SIGNS}(?:my )?(?:reasoning|thinking|thoughts?){_END}", FLAGS)


@dataclass(frozen=True, slots=True)
class ReasoningSplit:
    """The spans of the reasoning and the answer, without surrounding space and markup; empty if missing."""

    reasoning: Span
    answer: Span


def split_reasoning(text: str) -> ReasoningSplit:
    """Split a completion into its reasoning and its answer.

    The first closing tag (``</think>``) ends the reasoning, with or without an opening tag: some chat templates write
    the opening tag into the prompt. Without a closing tag, the answer starts at a line outside of code that begins
    with ``Answer:`` or is a heading ``Answer``. A text with neither is all reasoning, since nothing marks an answer.
    """
    if closed := _CLOSE.search(text):
        opened = _OPEN.search(text, 0, closed.start())
        return ReasoningSplit(
            strip_span(text, opened.end() if opened else 0, closed.start()), _answer(text, closed.end(), len(text))
        )
    if opened := _OPEN.search(text):
        return ReasoningSplit(strip_span(text, opened.end(), len(text)), (len(text), len(text)))
    for heading in outside_fences(_LINE.finditer(text), fence_spans(text, 0)):
        return ReasoningSplit(_untitled(text, heading.start()), strip_span(text, heading.end(), len(text)))
    return ReasoningSplit(_untitled(text, len(text)), (len(text), len(text)))


def answer_span(text: str) -> Span:
    """Return the span of a completion without reasoning in tags.

    An opening tag after the beginning of the text is part of the answer, which may be about such tags.
    """
    start, end = strip_span(text, 0, len(text))
    opened, closed = _OPEN.search(text, start, end), _CLOSE.search(text, start, end)
    first = min((tag for tag in (opened, closed) if tag is not None), key=re.Match.start, default=None)
    if first is None or (first is opened and first.start() != start):
        return start, end
    return split_reasoning(text).answer


def _untitled(text: str, end: int) -> Span:
    start, end = strip_span(text, 0, end)
    title = _TITLE.match(text, start, end)
    return strip_span(text, title.end(), end) if title else (start, end)


def _answer(text: str, start: int, end: int) -> Span:
    """Return the span of the answer after the reasoning, without its tags or heading."""
    start, end = strip_span(text, start, end)
    if tag := _ANSWER_OPEN.match(text, start, end):
        closed = _ANSWER_CLOSE.search(text, tag.end(), end)
        return strip_span(text, tag.end(), closed.start() if closed else end)
    heading = _HEADING.match(text, start, end)
    return strip_span(text, heading.end(), end) if heading else (start, end)

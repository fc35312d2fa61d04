"""Parsing of an answer that states one task, with or without a label."""

from __future__ import annotations

import re

from selfinstruct.parse.lists import Item, Listing
from selfinstruct.parse.preamble import skip_preamble
from selfinstruct.parse.text import BLANK_LINE, FLAGS, LEAD, content_end, discard_span, strip_emphasis, strip_span
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Discard

__all__ = ["read_task"]

_LABEL = re.compile(
    rf"{LEAD}(?:(?P<task>task|problem|math problem|request|instruction|question|(?:user )?prompt)"
    r"|(?P<end>person|persona|answer|solution|response))[*_]{0,3}[ \t]?:[*_]{0,3}[ \t]*",
    FLAGS,
)


def read_task(text: str, *, continued: bool, truncated: bool) -> Listing:
    """Read the task of an answer.

    The task follows the label ``Task:`` (or ``Problem:``, ``Question:``, ...). Without a label it is the whole text
    except a preamble ("Sure! Here's a task for this person:", or a first paragraph that ends with a colon). It ends
    before the next label.

    Args:
        text: The model's answer.
        continued: Whether the prompt ended with the label, so that the text begins inside the task, which is then one
            paragraph.
        truncated: Whether the text ends at the token limit.

    Returns:
        At most one item. Discards: ``preamble``, ``no_instruction``, ``trailing`` (text after the task), ``truncated``.
    """
    marks = list(_LABEL.finditer(text))
    opening = next((mark for mark in marks if mark["task"]), None)
    if opening is not None and not (continued and text[: opening.start()].strip()):
        start, discards = opening.end(), discard_span(text, RejectReason.PREAMBLE, 0, opening.start())
    else:
        start = 0 if continued else _after_preamble(text)
        discards = discard_span(text, RejectReason.PREAMBLE, 0, start)
    end = next((mark.start() for mark in marks if mark.start() >= start), content_end(text, start))
    if continued and (gap := BLANK_LINE.search(text, strip_span(text, start, end)[0], end)):
        end = gap.start()
    span = strip_emphasis(text, *strip_span(text, start, end))
    rest = discard_span(text, RejectReason.TRAILING, end, len(text))
    if span[0] == span[1]:
        return Listing((), (Discard(RejectReason.NO_INSTRUCTION, (0, len(text))),))
    if truncated and not rest:
        return Listing((), (*discards, Discard(RejectReason.TRUNCATED, span)))
    return Listing((Item(text[span[0] : span[1]], span),), (*discards, *rest))


def _after_preamble(text: str) -> int:
    """Return the start of the text after a preamble, or after a first paragraph that ends with a colon; else 0."""
    span = strip_span(text, 0, len(text))
    begin, _ = skip_preamble(text, *span)
    if begin > span[0]:
        return begin
    gap = BLANK_LINE.search(text, span[0])
    announced = gap is not None and text[: gap.start()].rstrip().endswith(":") and text[gap.end() :].strip()
    return gap.end() if gap is not None and announced else 0

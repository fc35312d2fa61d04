"""Parsing of numbered lists with one-paragraph items."""

from __future__ import annotations

import re
from dataclasses import dataclass

from selfinstruct.parse.text import (
    FLAGS,
    LEAD,
    content_end,
    discard_span,
    fence_spans,
    outside_fences,
    starts_paragraph,
    strip_emphasis,
    strip_span,
)
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Discard

__all__ = ["Item", "Listing", "read_numbered_list"]

_ITEM = re.compile(
    rf"{LEAD}(?:task[ \t]{{1,2}}\#?)?(?P<number>\d{{1,4}})[ \t]?[.):][*_]{{0,3}}(?=\s|\Z)",
    FLAGS,
)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


@dataclass(frozen=True, slots=True)
class Item:
    """One item: its verbatim text and its span."""

    text: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Listing:
    """The items of a text, and the discarded parts."""

    items: tuple[Item, ...] = ()
    discards: tuple[Discard, ...] = ()


def read_numbered_list(text: str, *, first: int, last: int, continued: bool, truncated: bool) -> Listing:
    """Read the items ``first`` to ``last`` of a numbered list.

    Args:
        text: The model's answer.
        first: Number of the first requested item; an answer may also start with the next number, or at 1.
        last: Number of the last requested item.
        continued: Whether the prompt ended with the first item's number, so that the text begins inside that item.
        truncated: Whether the text ends at the token limit, so that its last paragraph is incomplete.

    Returns:
        The items without surrounding emphasis, in order. Discards: ``preamble`` (before the list),
        ``no_list``, ``no_instruction`` (an item without text), ``out_of_order`` (from a number in range that isn't
        the next), ``trailing`` (paragraphs after an item's first), ``truncated``, ``over_count`` (after ``last``).
    """
    opening = _opening(text, first, continued)
    if opening is None:
        return Listing((), discard_span(text, RejectReason.NO_LIST, 0, len(text)))
    number, list_start, start, indent = opening
    end = content_end(text, start)
    items: list[Item] = []
    discards = list(discard_span(text, RejectReason.PREAMBLE, 0, list_start))
    stray: int | None = None
    for mark in outside_fences(_ITEM.finditer(text, start, end), fence_spans(text, start)):
        if mark["indent"] != indent:
            continue
        if int(mark["number"]) == number + 1:
            item = _read_item(text, start, mark.start(), stray, truncated=False)
            items += item.items
            discards += item.discards
            number, start, stray = number + 1, mark.end(), None
            if number > last:
                discards += discard_span(text, RejectReason.OVER_COUNT, mark.start(), end)
                return Listing(tuple(items), tuple(discards))
        elif stray is None and 1 <= int(mark["number"]) <= last:
            stray = mark.start()
    item = _read_item(text, start, end, stray, truncated)
    return Listing((*items, *item.items), (*discards, *item.discards))


def _opening(text: str, first: int, continued: bool) -> tuple[int, int, int, str] | None:
    """Find the first item; return its number, the start of its marker and of its text, and the list's indentation."""
    mark = next((mark for mark in _ITEM.finditer(text) if int(mark["number"]) in (first, first + 1, 1)), None)
    head = text if mark is None else text[: mark.start()]
    if mark is not None and int(mark["number"]) == first + 1 and not starts_paragraph(text, mark.start()):
        continued = True  # the chat model continued the item's text, as a raw completion does
    if head.strip() and continued:
        return first, 0, 0, ""
    return None if mark is None else (int(mark["number"]), mark.start(), mark.end(), mark["indent"])


def _read_item(text: str, start: int, end: int, stray: int | None, truncated: bool) -> Listing:
    """Read the item from ``start`` to ``end``; text after ``stray`` does not belong to it."""
    limit = end if stray is None else stray
    begin = strip_span(text, start, limit)[0]
    gap = _BLANK_LINE.search(text, begin, limit)
    stop = gap.start() if gap else limit
    span = strip_emphasis(text, *strip_span(text, begin, stop))
    items: tuple[Item, ...] = ()
    discards: tuple[Discard, ...] = ()
    if span[0] == span[1]:
        discards = (Discard(RejectReason.NO_INSTRUCTION, (start, stop)),)
    elif truncated and gap is None and stray is None:
        discards = (Discard(RejectReason.TRUNCATED, span),)
    else:
        items = (Item(text[span[0] : span[1]], span),)
    if gap:
        discards += discard_span(text, RejectReason.TRAILING, gap.end(), limit)
    if stray is not None:
        discards += discard_span(text, RejectReason.OUT_OF_ORDER, stray, end)
    return Listing(items, discards)

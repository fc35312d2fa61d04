"""Parsing of lists with one-paragraph items: numbered ones, and ones that go over to bullets or have nothing else.

Tables, JSON arrays and lists in HTML are read by ``list_forms``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfinstruct.parse.list_forms import read_other_form
from selfinstruct.parse.listing import Item, Listing
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

__all__ = ["Item", "Listing", "read_list", "read_numbered_list"]

_ITEM = re.compile(
    rf"{LEAD}(?:task[ \t]{{1,2}}\#?)?(?P<number>\d{{1,4}})[ \t]?[.):][*_]{{0,3}}(?=\s|\Z)",
    FLAGS,
)
_ANY_NUMBER = re.compile(
    rf"{LEAD}(?:(?:task|instruction|question|example|item|prompt|request|number|no\.?|q|person|idea)[ \t]{{0,2}})?"
    r"(?:[(\[](?P<enclosed>\d{1,4})[)\]]|(?<=\#)(?P<hashed>\d{1,4})(?=[ \t])"
    r"|(?<=[a-z][ \t])(?P<titled>\d{1,4})(?=[*_]{0,3}[ \t]*\n)"
    r"|\#?(?P<plain>\d{1,4})(?:[ \t]?[.):/]|[\uff0e\u3001]|[ \t]?[-\u2013\u2014](?=[ \t])|(?=\*\*)))"
    r"[.:]?[*_]{0,3}[.:]?(?:(?=\s|\Z)|(?<=[\uff0e\u3001]))",
    FLAGS,
)
_BULLET = re.compile(
    r"^(?P<indent>[ \t]{0,3})"
    r"(?:[-*+](?=[ \t])|[\u2013\u2014\u2022\u00b7\u25aa\u25ab\u25e6\u25cf\u25cb\u2023\u27a2\u2192\u25a0\u25a1"
    r"\u25c6\u25c7\u25b6\u25b8\u2610-\u2612\u2713\u2714\u2705])\ufe0f?"
    r"[ \t]{0,3}(?:\[[ xX]\][ \t]{1,3})?(?=[^\s*_=-]|[*_]{1,3}\w)",
    re.MULTILINE,
)
_LETTER = re.compile(  # "a)", "(b)", "C.", "iv.", and digits in circles
    r"^(?P<indent>[ \t]{0,3})[*_]{0,3}(?:(?:\(?(?:[a-z]|[ivx]{1,5})\)|(?:[a-z]|[ivx]{1,5})\.)[*_]{0,3}"
    r"(?=[ \t])|[\u2460-\u2473])[ \t]{0,3}(?=\S)",
    FLAGS,
)
_DIGITS = ("number", "enclosed", "hashed", "titled", "plain")  # groups of the patterns above
_LEAST_BULLETS = 2  # of a list without numbers
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


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
    return _read(text, first, last, continued=continued, truncated=truncated, pattern=_ITEM, bullets=[])


def read_list(text: str, *, first: int, last: int, continued: bool, truncated: bool) -> Listing:
    """Read the items ``first`` to ``last`` of a list, as ``read_numbered_list`` does, in any form that models use.

    Numbers may stand in brackets, or between a word and a dash (``(9)``, ``Task 9 -``), or in a heading. A line with a
    bullet or a dash is an item where the list has no numbers, and after its last number; deeper ones are its text.
    Letters and Roman numerals count as bullets in a text without either. Bullets below a line that ends with a colon
    belong to its item. A Markdown table with a task in each row, a JSON array of strings or objects, and a list in HTML
    are read if they begin before any number or bullet.
    """
    fences = fence_spans(text, 0)
    bullets = list(outside_fences(_BULLET.finditer(text), fences))
    if not bullets and not continued and _ANY_NUMBER.search(text) is None:
        letters = list(outside_fences(_LETTER.finditer(text), fences))
        # Below a question, letters are the choices of its answer.
        bullets = letters if letters and text[: letters[0].start()].rstrip()[-1:] in ("", ":") else []
    opening = _opening(text, first, continued, _ANY_NUMBER)
    starts = [len(text) if opening is None else opening[1], *(bullet.start() for bullet in bullets[:1])]
    if not continued or opening is None:
        other = read_other_form(text, before=min(starts), most=last + 1 - first, truncated=truncated)
        if other is not None:
            return other
    return _read(text, first, last, continued=continued, truncated=truncated, pattern=_ANY_NUMBER, bullets=bullets)


def _read(
    text: str,
    first: int,
    last: int,
    *,
    continued: bool,
    truncated: bool,
    pattern: re.Pattern[str],
    bullets: Sequence[re.Match[str]],
) -> Listing:
    opening = _opening(text, first, continued, pattern)
    if opening is None and len(bullets) >= _LEAST_BULLETS:
        opening = first, bullets[0].start(), bullets[0].end(), bullets[0]["indent"]
    if opening is None:
        return Listing((), discard_span(text, RejectReason.NO_LIST, 0, len(text)))
    number, list_start, start, _ = opening
    begins_with_bullet = any(bullet.start() == list_start and start for bullet in bullets)
    end = content_end(text, start)
    items: list[Item] = []
    discards = list(discard_span(text, RejectReason.PREAMBLE, 0, list_start))
    stray: int | None = None
    for mark in _marks(text, opening, end, pattern, bullets, begins_with_bullet=begins_with_bullet):
        value = _number(mark)
        if value is None and not text[start : mark.start()].strip():  # a bullet at the beginning of the item
            start = mark.end()
        elif value is None or value == number + 1:
            item = _read_item(text, start, mark.start(), stray, truncated=False)
            items += item.items
            discards += item.discards
            number, start, stray = number + 1, mark.end(), None
            if number > last:
                discards += discard_span(text, RejectReason.OVER_COUNT, mark.start(), end)
                return Listing(tuple(items), tuple(discards))
        elif stray is None and 1 <= value <= last:
            stray = mark.start()
    item = _read_item(text, start, end, stray, truncated)
    return Listing((*items, *item.items), (*discards, *item.discards))


def _number(mark: re.Match[str]) -> int | None:
    """Return the number of an item's mark; None for a bullet."""
    groups = mark.groupdict()
    digits = next((digits for name in _DIGITS if (digits := groups.get(name))), None)
    return None if digits is None else int(digits)


def _marks(
    text: str,
    opening: tuple[int, int, int, str],
    end: int,
    pattern: re.Pattern[str],
    bullets: Sequence[re.Match[str]],
    *,
    begins_with_bullet: bool,
) -> list[re.Match[str]]:
    """Return the marks that may begin an item after the first: numbers, then the bullets after the last number."""
    number, _, start, indent = opening
    numbers = [
        mark
        for mark in outside_fences(pattern.finditer(text, start, end), fence_spans(text, start))
        if mark["indent"] == indent
    ]
    last_number = start
    for mark in numbers:
        if _number(mark) == number + 1:
            number, last_number = number + 1, mark.end()
    later = [bullet for bullet in bullets if last_number <= bullet.start() < end]
    begins_with_bullet = begins_with_bullet and last_number == start
    level = indent if begins_with_bullet else later[0]["indent"] if later else ""
    later = [bullet for bullet in later if bullet["indent"] == level]
    if later and not begins_with_bullet and text[last_number : later[0].start()].rstrip().endswith(":"):
        later = []  # they belong to the item
    numbered = {mark.start() for mark in numbers}
    return sorted((*numbers, *(bullet for bullet in later if bullet.start() not in numbered)), key=re.Match.start)


def _opening(text: str, first: int, continued: bool, pattern: re.Pattern[str]) -> tuple[int, int, int, str] | None:
    """Find the first item; return its number, the start of its marker and of its text, and the list's indentation."""
    mark = next((mark for mark in pattern.finditer(text) if _number(mark) in (first, first + 1, 1)), None)
    head = text if mark is None else text[: mark.start()]
    if mark is not None and _number(mark) == first + 1 and not starts_paragraph(text, mark.start()):
        continued = True  # the chat model continued the item's text, as a raw completion does
    if head.strip() and continued:
        return first, 0, 0, ""
    return None if mark is None else (_number(mark) or 1, mark.start(), mark.end(), mark["indent"])


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

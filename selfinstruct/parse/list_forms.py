"""Lists that chat models write in other forms than numbered lines: Markdown tables, JSON arrays, and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from selfinstruct.parse.listing import Item, Listing
from selfinstruct.parse.structured import read_array
from selfinstruct.parse.text import content_end, discard_span, strip_emphasis, strip_span
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Discard

__all__ = ["read_other_form"]

Span = tuple[int, int]

_LEAST = 2  # items of a list that no number and no bullet marks
_LEAST_LENGTH = 10  # mean characters of a column that no header names as the tasks
_FIELDS = ("instruction", "task", "prompt", "question", "request", "query", "persona", "person", "opening", "message",
           "text", "description", "content", "title", "name")  # fmt: skip
_HEADER = re.compile(
    r"\b(?:task|instruction|prompt|question|request|quer(?:y|ie)|persona|person|opening|message|description|idea)s?\b",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(
    r"^[ \t]{0,3}+\|?+[ \t]*+:?+-++:?+[ \t]*+(?:\|[ \t]*+:?+-++:?+[ \t]*+)*(?:\|[ \t]*+)?\r?$", re.MULTILINE
)
_PIPE = re.compile(r"\\.|\|")
_TAG = re.compile(r"<(?P<closes>/?)(?P<name>li|ul|ol)\b[^<>]{0,200}>", re.IGNORECASE)
_INNER_ITEM = re.compile(r"<li\b[^<>]{0,200}>", re.IGNORECASE)
_INNER_TAG = re.compile(r"</?(?:li|ul|ol|p|b|i|u|em|strong|span|div|br|code|a)\b[^<>]{0,200}>", re.IGNORECASE)
_MARK = re.compile(r"(?:(?:task|instruction|question)[ \t]?)?\#?\d{1,3}[.)][*_]{0,3}[ \t]{1,4}|[-*\u2022][ \t]{1,4}",
                   re.IGNORECASE)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The texts of a list with their spans, the span of the whole list, and whether its last item is not closed."""

    texts: Sequence[tuple[str, Span]]
    span: Span
    is_open: bool


def read_other_form(text: str, *, before: int, most: int, truncated: bool) -> Listing | None:
    """Read a list in one of the other forms.

    Args:
        text: The model's answer.
        before: Position of the first number or bullet, before which the list must begin.
        most: Maximum number of items.
        truncated: Whether the text ends at the token limit.

    Returns:
        The items, with the discards of ``read_list``; None without such a list. Tables and HTML need two items.
    """
    others = (_read_table(text), _read_html(text))
    pieces = min(filter(None, others), key=lambda pieces: pieces.span, default=None)
    array = read_array(text, _FIELDS, most=most, truncated=truncated)
    if array is not None and array.items[0].span[0] < min(before, pieces.span[0] if pieces else before):
        return Listing(tuple(Item(_plain(item.text) or item.text, item.span) for item in array.items), array.discards)
    if pieces is None or pieces.span[0] > before or len(pieces.texts) < _LEAST:
        return None
    return _listing(text, pieces, most, truncated)


def _listing(text: str, pieces: _Pieces, most: int, truncated: bool) -> Listing:
    items: list[Item] = []
    discards = list(discard_span(text, RejectReason.PREAMBLE, 0, pieces.span[0]))
    is_cut = truncated and pieces.is_open and not text[pieces.span[1] :].strip()
    for number, (piece, span) in enumerate(pieces.texts):
        if number == most:
            discards += discard_span(text, RejectReason.OVER_COUNT, span[0], pieces.span[1])
            break
        if is_cut and number == len(pieces.texts) - 1:
            discards += discard_span(text, RejectReason.TRUNCATED, *span)
        elif plain := _plain(piece):
            items.append(Item(plain, span))
        else:
            discards.append(Discard(RejectReason.NO_INSTRUCTION, span))
    discards += discard_span(text, RejectReason.TRAILING, pieces.span[1], content_end(text, pieces.span[0]))
    return Listing(tuple(items), tuple(discards))


def _plain(text: str) -> str:
    """Return an item's text without white space, emphasis and its own number around it."""
    text = text.strip()
    text = text[slice(*strip_emphasis(text, 0, len(text)))]
    mark = _MARK.match(text)
    return text[mark.end() :].strip() if mark else text


def _read_table(text: str) -> _Pieces | None:
    """Read the column of a Markdown table that holds the tasks."""
    separator = next((line for line in _SEPARATOR.finditer(text) if "|" in line.group()), None)
    if separator is None or separator.start() == 0:
        return None
    start = text.rfind("\n", 0, separator.start() - 1) + 1
    names = [text[slice(*cell)] for cell in _cells(text, start, separator.start() - 1)]
    rows = list(_rows(text, separator.end() + 1))
    columns = [[row[index] for row in rows if index < len(row)] for index in range(len(names))]
    sizes = [sum(end - begin for begin, end in column) for column in columns]
    named = [index for index, name in enumerate(names) if _HEADER.search(name)]
    chosen = max(named or range(len(names)), key=lambda index: sizes[index], default=None)
    if chosen is None or not rows or (not named and sizes[chosen] < _LEAST_LENGTH * len(rows)):
        return None
    end = text.find("\n", rows[-1][-1][1])
    end = len(text) if end < 0 else end
    texts = [(text[slice(*cell)].replace("\\|", "|"), cell) for cell in columns[chosen]]
    return _Pieces(texts, (start, end), not text[start:end].rstrip().endswith("|"))


def _rows(text: str, start: int) -> Iterator[list[Span]]:
    """Yield the cells of each row of a table, up to the first line that isn't a row."""
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        cells = _cells(text, start, end) if "|" in text[start:end] else []
        if not cells:
            return
        yield cells
        start = end + 1


def _cells(text: str, start: int, end: int) -> list[Span]:
    """Return the spans of the cells in a line of a table, without white space."""
    start, end = strip_span(text, start, end)
    borders = [mark.start() for mark in _PIPE.finditer(text, start, end) if mark.group() == "|"]
    if borders[:1] != [start]:
        borders.insert(0, start - 1)
    if borders[-1] != end - 1:
        borders.append(end)
    return [strip_span(text, left + 1, right) for left, right in pairwise(borders)]


def _read_html(text: str) -> _Pieces | None:
    """Read the items of a list in HTML; a list inside an item belongs to its text."""
    tags = list(_TAG.finditer(text))
    first = next((tag for tag in tags if tag["name"].lower() == "li" and not tag["closes"]), None)
    if first is None:
        return None
    depth = 0
    base: int | None = None
    begin: int | None = None
    spans: list[Span] = []
    for tag in tags:
        is_item, closes = tag["name"].lower() == "li", bool(tag["closes"])
        base = depth if base is None and is_item else base
        at_border = depth == base and (is_item or closes)
        if begin is not None and at_border:
            spans.append((begin, tag.start()))
            begin = None
        if is_item and not closes and depth == base:
            begin = tag.end()
        elif not is_item:
            depth += -1 if closes else 1
    if begin is not None:
        spans.append((begin, len(text)))
    texts = [(_text_of(text[slice(*span)]), strip_span(text, *span)) for span in spans]
    return _Pieces(texts, (tags[0].start(), tags[-1].end() if begin is None else len(text)), begin is not None)


def _text_of(source: str) -> str:
    """Return the text of an item in HTML, with inner items as bullets."""
    return html.unescape(_INNER_TAG.sub(" ", _INNER_ITEM.sub("\n- ", source)))

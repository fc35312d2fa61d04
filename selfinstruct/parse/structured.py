"""Parsing of rows in JSON, ``{"tasks": [{...}, ...]}``: complete, truncated, in a code fence, or inside prose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from selfinstruct.common.codec import loads
from selfinstruct.parse.blocks import Block, Blocks
from selfinstruct.parse.listing import Item, Listing
from selfinstruct.parse.text import content_end, discard_span
from selfinstruct.reasons import RejectReason, missing_field
from selfinstruct.records import Discard

__all__ = ["read_array", "read_object", "read_records", "read_strings"]

# A string or a bracket. Possessive, since a string may be unterminated; then it has no group "close".
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*(?P<close>")?|[\[{\]}]', re.DOTALL)
_SPACE = re.compile(r"\s*+")
_SCALAR = re.compile(r'[^\s,\[\]{}"]++')
_ANY_ARRAY = re.compile(r'^[ \t]*+(?P<named>\{\s*+"[^"\\\n]{1,40}+"\s*+:\s*+)?\[(?=\s*+(?:"|\{\s*+"))', re.MULTILINE)
_OBJECT = re.compile(r'\{\s*+"')
_FRAME = re.compile(r"\s*+\}?")  # the end of the object around the array


@dataclass(frozen=True, slots=True)
class _Array:
    """The content of the array.

    Attributes:
        values: The items that are strict JSON, each with its span.
        named: Whether the array is the value of the expected key, which identifies it beyond doubt.
    """

    values: tuple[tuple[Any, tuple[int, int]], ...]
    discards: tuple[Discard, ...]
    named: bool


@lru_cache(maxsize=16)
def _opening(key: str, item: str) -> re.Pattern[str]:
    """Compile the pattern of the start of the rows: their object, or a bare array at the start of a line.

    Neither can match inside a JSON string, since each contains a quotation mark that a string would have escaped.
    """
    return re.compile(rf'(?P<named>\{{\s*+"{re.escape(key)}"\s*+:\s*+\[)|^[ \t]*+\[(?=\s*+{item})', re.MULTILINE)


def read_records(
    text: str, key: str, fields: Sequence[str], required: Sequence[str], *, most: int, truncated: bool
) -> Blocks | None:
    """Read an array of objects of strings.

    Args:
        text: The model's answer.
        key: Key of the array in its object; a bare array is accepted too.
        fields: Names of the fields to read; others are ignored, missing ones are missing in the block.
        required: Fields that must not be blank.
        most: Maximum number of objects.
        truncated: Whether the text ends at the token limit.

    Returns:
        The objects that are strict JSON (``codec.loads``) in order, with spans from brace to brace; None if the text
        does not have this form. Discards: ``preamble`` and ``trailing`` (around the array), ``not_json`` (an item that
        is not strict JSON, or is never closed), ``truncated`` (the last item, if the text ends inside it),
        ``wrong_type`` (an item that is not an object, or a field that is not a string), ``no_<field>``,
        ``over_count``, ``no_rows`` (an empty array).
    """
    array = _read(text, _opening(key, r'\{\s*+"').search(text), most, truncated)
    if array is None:
        return None
    blocks: list[Block] = []
    discards = list(array.discards)
    for value, span in array.values:
        block = {name: value[name] for name in fields if name in value} if isinstance(value, dict) else None
        if block is None or not all(isinstance(text, str) for text in block.values()):
            discards.append(Discard(RejectReason.WRONG_TYPE, span))
        elif missing := next((name for name in required if not block.get(name, "").strip()), None):
            discards.append(Discard(missing_field(missing), span))
        else:
            blocks.append(Block(block, span))
    return Blocks(tuple(blocks), tuple(discards)) if blocks or array.named else None


def read_strings(text: str, key: str, *, most: int, truncated: bool) -> Listing | None:
    """Read an array of strings as ``read_records`` does, with spans from quotation mark to quotation mark.

    A blank string is discarded as ``no_instruction``, like a blank item of a numbered list.
    """
    array = _read(text, _opening(key, '"').search(text), most, truncated)
    if array is None:
        return None
    items: list[Item] = []
    discards = list(array.discards)
    for value, span in array.values:
        if not isinstance(value, str):
            discards.append(Discard(RejectReason.WRONG_TYPE, span))
        elif not value.strip():
            discards.append(Discard(RejectReason.NO_INSTRUCTION, span))
        else:
            items.append(Item(value, span))
    return Listing(tuple(items), tuple(discards)) if items or array.named else None


def read_array(text: str, fields: Sequence[str], *, most: int, truncated: bool) -> Listing | None:
    """Read the first array at the start of a line, or under the only key of an object there, that nobody asked for.

    Args:
        text: The model's answer.
        fields: Names of the fields of an object that may hold an item's text, the first ones preferred.
        most, truncated: As for ``read_records``.

    Returns:
        The strings, and the texts of the objects; None without such an array, or if nothing in it is a text.
    """
    array = _read(text, _ANY_ARRAY.search(text), most, truncated)
    if array is None:
        return None
    items: list[Item] = []
    discards = list(array.discards)
    for value, span in array.values:
        item = _text_of(value, fields)
        if item is None:
            discards.append(Discard(RejectReason.WRONG_TYPE, span))
        elif not item.strip():
            discards.append(Discard(RejectReason.NO_INSTRUCTION, span))
        else:
            items.append(Item(item.strip(), span))
    return Listing(tuple(items), tuple(discards)) if items else None


def _text_of(value: Any, fields: Sequence[str]) -> str | None:
    """Return a string, or the text in an object: under one of the names, or its only one."""
    if not isinstance(value, dict):
        return value if isinstance(value, str) else None
    texts = {name.casefold(): text for name, text in value.items() if isinstance(text, str)}
    if len(texts) == 1:
        return next(iter(texts.values()))
    return next((texts[name] for name in fields if name in texts), None)


def read_object(text: str) -> dict[str, Any] | None:
    """Return the first JSON object in a text, or None if there is none or it is incomplete."""
    opening = _OBJECT.search(text)
    end = None if opening is None else _end(text, opening.start())
    if opening is None or end is None:
        return None
    try:
        value = loads(text[opening.start() : end])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _read(text: str, opening: re.Match[str] | None, most: int, truncated: bool) -> _Array | None:
    """Read the items of the array that a match opens, visiting each character a bounded number of times."""
    if opening is None:
        return None
    named = opening["named"] is not None
    values: list[tuple[Any, tuple[int, int]]] = []
    discards = list(discard_span(text, RejectReason.PREAMBLE, 0, opening.start()))
    count, at = 0, _skip(text, opening.end())
    while at < len(text) and text[at] != "]":
        if text[at] == ",":
            at = _skip(text, at + 1)
            continue
        if count == most:
            discards += discard_span(text, RejectReason.OVER_COUNT, at, len(text))
            return _Array(tuple(values), tuple(discards), named)
        end = _end(text, at)
        if end is None:
            discards += discard_span(
                text, RejectReason.TRUNCATED if truncated else RejectReason.NOT_JSON, at, len(text)
            )
            at = len(text)
            break
        count += 1
        try:
            if text[at] in '{["':
                values.append((loads(text[at:end]), (at, end)))
            else:  # a number, a word or prose, which is never a row
                discards.append(Discard(RejectReason.WRONG_TYPE, (at, end)))
        except ValueError:
            discards.append(Discard(RejectReason.NOT_JSON, (at, end)))
        at = _skip(text, end)
    if at < len(text):
        frame = _FRAME.match(text, at + 1) if named else None
        at = frame.end() if frame else at + 1
        discards += discard_span(text, RejectReason.TRAILING, at, content_end(text, opening.end()))
    if not count and not discards:
        discards += discard_span(text, RejectReason.NO_ROWS, opening.start(), at)
    return _Array(tuple(values), tuple(discards), named)


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None, "the pattern matches the empty string"
    return space.end()


def _end(text: str, at: int) -> int | None:
    """Return the end of the value that starts at ``at``; None if no value starts there or it is unterminated."""
    scalar = _SCALAR.match(text, at)
    if scalar is not None:
        return scalar.end()
    depth = 0
    for token in _TOKEN.finditer(text, at):
        mark = text[token.start()]
        if mark == '"':
            if token["close"] is None:
                return None
        else:
            depth += 1 if mark in "[{" else -1
        if depth <= 0:
            return token.end() if depth == 0 else None
    return None

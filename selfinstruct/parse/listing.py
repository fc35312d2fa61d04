"""The result of reading a list."""

from __future__ import annotations

from dataclasses import dataclass

from selfinstruct.records import Discard

__all__ = ["Item", "Listing"]


@dataclass(frozen=True, slots=True)
class Item:
    """One item: its text, and its span, which holds the text verbatim or in the escapes of JSON, HTML or a table."""

    text: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Listing:
    """The items of a text, and the discarded parts."""

    items: tuple[Item, ...] = ()
    discards: tuple[Discard, ...] = ()

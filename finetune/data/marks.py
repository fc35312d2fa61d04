"""Where the own texts of a row stand in a rendered conversation.

A conversation is rendered twice: unmodified, and with two private-use characters around each own text, which travel
through the template. Without those marks both renderings must be equal. Whitespace around a text stays outside its
marks, so that a template which trims messages behaves as usual; a template that rewrites a text, or leaves it out, is
detected. The own texts are the parts of messages (``markup.Tags.parts``) and the names of called tools. Strings in the
arguments of calls and in the descriptions of tools are marked where they spell a control token: the others can do no
harm, and templates compare some of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.data.formats import RenderError
from finetune.data.markup import Kind, Part

__all__ = ["TOOLS", "Marks", "Owner", "Piece", "common_prefix"]

TOOLS = -1
"""The turn of texts that belong to the descriptions of the tools."""
_PRIVATE = range(0xF0000, 0xFFFFE)  # private-use characters of Unicode's plane 15


@dataclass(frozen=True, slots=True)
class Piece:
    """Character span of an own text in a rendered conversation.

    Attributes:
        owner: Number of the text in the conversation.
        turn: Index of its turn, or ``TOOLS``.
        kind: Its kind.
        start, end: Its span.
        exact: Whether the template left the text unchanged.
    """

    owner: int
    turn: int
    kind: Kind
    start: int
    end: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Owner:
    """An own text: its turn, kind, and body without outer whitespace."""

    turn: int
    kind: Kind
    body: str


@dataclass
class Marks:
    """Pairs of marks around the own texts of a conversation.

    Attributes:
        used: Characters of the conversation, which serve as no mark.
        control: Matches the control tokens.
        owners: The marked texts, in the order of their pairs.
    """

    used: set[str]
    control: re.Pattern[str]
    owners: list[Owner] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = (chr(code) for code in _PRIVATE if chr(code) not in self.used)
        self._pairs: dict[str, int] = {}

    def around(self, turn: int, kind: Kind, text: str) -> str:
        """Return a text with marks around it, inside its outer whitespace; blank texts have none.

        Raises:
            RenderError: There are more texts than marks.
        """
        body = text.strip()
        if not body:
            return text
        lead = text[: len(text) - len(text.lstrip())]
        opening, closing = next(self._free, ""), next(self._free, "")
        if not closing:
            raise RenderError("turns", f"the conversation has more than {len(self.owners):,} texts")
        self._pairs[opening] = 2 * len(self.owners)
        self._pairs[closing] = 2 * len(self.owners) + 1
        self.owners.append(Owner(turn, kind, body))
        return f"{lead}{opening}{body}{closing}{text[len(lead) + len(body) :]}"

    def around_parts(self, turn: int, parts: Sequence[Part]) -> str:
        """Return a message with marks around each part, except markup."""
        return "".join(part.text if part.kind == "markup" else self.around(turn, part.kind, part.text)
                       for part in parts)  # fmt: skip

    def around_strings(self, turn: int, kind: Kind, value: Any) -> Any:
        """Return a JSON value with marks around the strings and keys in it that spell a control token."""
        if isinstance(value, str):
            return self.around(turn, kind, value) if self.control.search(value) else value
        if isinstance(value, Mapping):
            return {self.around_strings(turn, kind, key): self.around_strings(turn, kind, inner)
                    for key, inner in value.items()}  # fmt: skip
        if isinstance(value, list | tuple):
            return [self.around_strings(turn, kind, inner) for inner in value]
        return value

    def pieces(self, marked: str, text: str) -> list[Piece] | None:
        """Return the spans of the marked texts in ``text``; None if the two renderings differ in more than marks."""
        if not self._pairs:
            return [] if marked == text else None
        parts = re.split(f"([{re.escape(''.join(self._pairs))}])", marked)
        if "".join(parts[::2]) != text:
            return None
        numbered = [self._pairs[mark] for mark in parts[1::2]]
        return sorted(_spans_between_marks(parts[::2], numbered, self.owners, text), key=lambda piece: piece.start)


def _spans_between_marks(
    parts: Sequence[str], marks: Sequence[int], owners: Sequence[Owner], text: str
) -> Iterator[Piece]:
    """Yield the span between the two marks of each text.

    Where a template dropped one mark, the span extends as far as the rendering matches the text.

    Args:
        parts: The rendering, divided at the marks.
        marks: The marks between the parts: twice the index of a text, plus 1 for its end.
        owners: The marked texts.
        text: The rendering without marks.
    """
    offset = 0
    opened: dict[int, int] = {}
    for part, mark in zip(parts, marks, strict=False):
        offset += len(part)
        index, closes = divmod(mark, 2)
        if not closes:
            opened[index] = offset
            continue
        owner, start = owners[index], opened.pop(index, None)
        if start is None:
            start = offset - common_prefix(text[:offset][::-1], owner.body[::-1])
        yield Piece(index, owner.turn, owner.kind, start, offset, text[start:offset] == owner.body)
    for index, start in opened.items():
        owner = owners[index]
        end = start + common_prefix(text[start:], owner.body)
        yield Piece(index, owner.turn, owner.kind, start, end, text[start:end] == owner.body)


def common_prefix(first: str, second: str) -> int:
    """Return the length of the common prefix of two strings."""
    length = min(len(first), len(second))
    return next((index for index in range(length) if first[index] != second[index]), length)

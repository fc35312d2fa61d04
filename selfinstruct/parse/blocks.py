"""Blocks of labelled fields: ``### Task 4``, ``Instruction: …``, ``Input: …``, ``Output: …``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from selfinstruct.parse.text import FLAGS, LEAD, closing, discard, fenced, separated, strip, unfenced
from selfinstruct.reasons import RejectReason, missing_field
from selfinstruct.records import Discard

__all__ = ["Block", "Blocks", "Form", "read_blocks"]


@dataclass(frozen=True)
class Form:
    """What a block looks like.

    Attributes:
        labels: Field names in the order in which they must come, each with the words that may label it.
        required: Fields that must not be empty.
        opening: Fields that may come first in a block; any but the first in order only under a header.
        gap: A block without a number must be set off by a blank or separator line.
        inside: A chat model may go on inside the first field, with no label before it.
    """

    labels: tuple[tuple[str, tuple[str, ...]], ...]
    required: tuple[str, ...]
    opening: tuple[str, ...]
    gap: bool = True
    inside: bool = False

    @property
    def order(self) -> dict[str, int]:
        """Place of each field."""
        return {name: place for place, (name, _) in enumerate(self.labels)}


@dataclass(frozen=True, slots=True)
class Block:
    """One block: the text of its fields as it stands (an absent field is absent here too), and where it stands."""

    fields: Mapping[str, str]
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The whole blocks that a text holds, and the pieces that are none."""

    blocks: tuple[Block, ...] = ()
    discards: tuple[Discard, ...] = ()


class _Mark(NamedTuple):
    """A line that may open a block (a header, ``name`` is "") or a field."""

    name: str
    number: int | None
    begin: int
    end: int

    def start(self) -> int:
        return self.begin


@lru_cache(maxsize=16)
def _pattern(form: Form) -> re.Pattern[str]:
    """A header line or a field label, at the start of a line."""
    words = "|".join(re.escape(word) for _, words in form.labels for word in sorted(words, key=len, reverse=True))
    number = r"\d{1,4}"
    label = (
        rf"(?:(?P<before>{number})[ \t]?[.):][*_]{{0,3}}[ \t]{{1,2}}[*_]{{0,3}})?"
        rf"(?P<label>{words})(?:[ \t]\#?(?P<after>{number}))?[*_]{{0,3}}[ \t]?:[*_]{{0,3}}"
    )
    header = (
        rf"(?:(?:task|example|instance|block)[ \t]{{1,2}}\#?)?(?P<number>{number})[ \t]?[.):]?[*_]{{0,3}}[.:]?[ \t\r]*$"
    )
    return re.compile(rf"{LEAD}(?:{header}|{label})", FLAGS)


def _marks(text: str, form: Form) -> list[_Mark]:
    names = {word.casefold(): name for name, words in form.labels for word in words}
    marks: list[_Mark] = []
    for found in _pattern(form).finditer(text):
        name = names[found["label"].casefold()] if found["label"] else ""
        number = found["before"] or found["after"] or found["number"]
        marks.append(_Mark(name, int(number) if number else None, found.start(), found.end()))
    return marks


def read_blocks(text: str, form: Form, *, first: int, last: int, continued: bool, truncated: bool) -> Blocks:
    """Read the blocks ``first`` to ``last``.

    A block opens on a header with the next number above a field, or on a field with the next number. When the first
    block has no number, the others may open on their bare first field.

    Args:
        text: What the model wrote.
        form: The fields and their order.
        first: Number of the first block wanted; an answer may also begin again at 1, or use no numbers.
        last: Number of the last block wanted.
        continued: The prompt ended with the label of the first block's first field, so the text begins inside it.
        truncated: The text ends at the token limit, so its last block isn't whole.

    Returns:
        The blocks, their spans increasing. Discards: ``preamble`` (before the first block), ``no_block``,
        ``no_<field>`` (a required field is absent or empty), ``out_of_order`` (from a block whose number isn't the
        next), ``truncated``, ``over_count`` (after ``last``).
    """
    return _Reader(text, form, first, last).read(continued, truncated)


class _Reader:
    """One pass over the marks of one text, with the block and the field at hand."""

    def __init__(self, text: str, form: Form, first: int, last: int) -> None:
        self.text, self.form, self.first, self.last = text, form, first, last
        self.order = form.order
        self.marks = _marks(text, form)
        self.blocks: list[Block] = []
        self.discards: list[Discard] = []
        self.number = first
        self.bare = False  # the first block had no number, so the others need none
        self.begin = 0  # of the block at hand
        self.name: str | None = None  # of the field at hand; None from a block that is out of order
        self.content = 0  # where that field's text begins
        self.fields: dict[str, tuple[int, int]] = {}

    def read(self, continued: bool, truncated: bool) -> Blocks:
        if not self._begin(continued):
            return Blocks((), discard(self.text, RejectReason.NO_BLOCK, 0, len(self.text)))
        self.discards += discard(self.text, RejectReason.PREAMBLE, 0, self.begin)
        end = closing(self.text, self.content)
        inside = (mark for mark in self.marks if self.content <= mark.begin < end)
        self.marks = list(unfenced(inside, fenced(self.text, self.content)))
        for place, mark in enumerate(self.marks):
            if mark.begin < self.content:
                continue  # a field that its header has opened already
            if (field := self._opens(place, (self.number + 1,))) or (field := self._reopens(place)):
                self._close(mark.begin, truncated=False)
                self._open(mark, field, self.number + 1)
                if self.number > self.last:
                    self.discards += discard(self.text, RejectReason.OVER_COUNT, mark.begin, end)
                    return self._found()
            elif self._is_stray(place):
                self._close(mark.begin, truncated=False)
                self.begin, self.name = mark.begin, None
            elif self._follows(mark):
                self._end_field(mark.begin)
                self.name, self.content = mark.name, mark.end
        if truncated and (cut := self._cut_header(end)) is not None:
            self._close(cut.begin, truncated=False)
            self.discards += discard(self.text, RejectReason.TRUNCATED, cut.begin, end)
        else:
            self._close(end, truncated)
        return self._found()

    def _cut_header(self, end: int) -> _Mark | None:
        """The header of the next block, where the text ends before its first field has begun."""
        last = self.marks[-1] if self.marks else None
        if last is None or last.name or last.number != self.number + 1 or last.begin < self.content:
            return None
        label = max(len(word) for _, words in self.form.labels for word in words)
        return last if len(self.text[last.end : end].strip()) < label else None

    def _found(self) -> Blocks:
        return Blocks(tuple(self.blocks), tuple(self.discards))

    def _begin(self, continued: bool) -> bool:
        """Find the first block."""
        place = next((place for place in range(len(self.marks)) if self._opens(place, (self.first, 1, None))), None)
        head = self.text if place is None else self.text[: self.marks[place].begin]
        field = next((mark for mark in self.marks if mark.name and mark.begin < len(head)), None)
        if head.strip() and (continued or (field and self.text[: field.begin].strip() and self.form.inside)):
            # The text goes on inside the first field; a chat model may do so too: then another field comes first.
            self._open(_Mark("", None, 0, 0), _Mark(self.form.labels[0][0], None, 0, 0), self.first)
            return True
        if place is None:
            return False
        mark = self.marks[place]
        opened = self._opens(place, (self.first, 1, None))
        assert opened is not None
        number = mark.number if mark.number is not None else opened.number
        self.bare = number is None
        self._open(mark, opened, self.first if number is None else number)
        return True

    def _opens(self, place: int, numbers: tuple[int | None, ...]) -> _Mark | None:
        """The field with which a block of one of these numbers opens at this mark, directly or under a header."""
        mark = self.marks[place]
        if mark.number not in numbers:
            return None
        if mark.name:
            return mark if mark.name in self.form.opening else None
        below = self.marks[place + 1] if place + 1 < len(self.marks) else None
        if below is None or below.name not in self.form.opening or below.number not in (None, mark.number):
            return None
        return None if self.text[mark.end : below.begin].strip() else below

    def _reopens(self, place: int) -> _Mark | None:
        """The first field of a block without a number, where the block at hand is complete."""
        mark = self.marks[place]
        complete = all(name in self.fields or name == self.name for name in self.form.required)
        if not self.bare or mark.name != self.form.labels[0][0] or mark.number is not None or not complete:
            return None
        return mark if not self.form.gap or separated(self.text, mark.begin) else None

    def _is_stray(self, place: int) -> bool:
        """True where a block opens whose number is in range but not the next, or one opens anew.

        The number after the last is in range, too: shown again as the last block, this one would end there.
        """
        mark = self.marks[place]
        if mark.number is None or not 1 <= mark.number <= self.last + 1 or not self._opens(place, (mark.number,)):
            return False
        return not mark.name or mark.number != self.number or not self._follows(mark)

    def _follows(self, mark: _Mark) -> bool:
        """True for a field that comes later in the block than the one at hand."""
        if self.name is None or not mark.name or mark.number not in (None, self.number):
            return False
        return self.order[mark.name] > self.order[self.name]

    def _open(self, mark: _Mark, field: _Mark, number: int) -> None:
        self.number, self.begin, self.fields = number, mark.begin, {}
        self.name, self.content = field.name, field.end

    def _end_field(self, end: int) -> None:
        if self.name is not None:
            self.fields[self.name] = strip(self.text, self.content, end)

    def _close(self, end: int, truncated: bool) -> None:
        """Turn the block at hand into a block or a discard."""
        span = strip(self.text, self.begin, end)
        if self.name is None:
            self.discards += discard(self.text, RejectReason.OUT_OF_ORDER, *span)
            return
        self._end_field(end)
        missing = next((name for name in self.form.required if len(set(self.fields.get(name, (0,)))) < 2), None)
        if truncated:
            self.discards.append(Discard(RejectReason.TRUNCATED, span))
        elif missing:
            self.discards.append(Discard(missing_field(missing), span))
        else:
            self.blocks.append(Block({name: self.text[s:e] for name, (s, e) in self.fields.items()}, span))

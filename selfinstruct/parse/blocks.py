"""Parsing of blocks of labelled fields: ``### Task 4``, ``Instruction: …``, ``Input: …``, ``Output: …``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from selfinstruct.parse.text import (
    FLAGS,
    LEAD,
    content_end,
    discard_span,
    fence_spans,
    outside_fences,
    starts_paragraph,
    strip_span,
)
from selfinstruct.reasons import RejectReason, missing_field
from selfinstruct.records import Discard

__all__ = ["Block", "Blocks", "Form", "read_blocks"]


@dataclass(frozen=True)
class Form:
    """The format of a block.

    Attributes:
        labels: Field names in their required order, each with its possible labels.
        required: Fields that must not be empty.
        opening: Fields that may start a block; fields other than the first only under a header.
        gap: Whether a block without a number must follow a blank or separator line.
        inside: Whether a chat model may continue inside the first field, without its label.
    """

    labels: tuple[tuple[str, tuple[str, ...]], ...]
    required: tuple[str, ...]
    opening: tuple[str, ...]
    gap: bool = True
    inside: bool = False

    @property
    def order(self) -> dict[str, int]:
        """Position of each field."""
        return {name: position for position, (name, _) in enumerate(self.labels)}


@dataclass(frozen=True, slots=True)
class Block:
    """One block: the verbatim text of the fields that are present, and the span of the block."""

    fields: Mapping[str, str]
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The complete blocks of a text, and the discarded parts."""

    blocks: tuple[Block, ...] = ()
    discards: tuple[Discard, ...] = ()


class _Mark(NamedTuple):
    """A line that may start a block (a header, with ``name`` "") or a field."""

    name: str
    number: int | None
    begin: int
    end: int

    def start(self) -> int:
        return self.begin


@lru_cache(maxsize=16)
def _pattern(form: Form) -> re.Pattern[str]:
    """Compile the pattern of a header line or a field label at the start of a line."""
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
    for match in _pattern(form).finditer(text):
        name = names[match["label"].casefold()] if match["label"] else ""
        number = match["before"] or match["after"] or match["number"]
        marks.append(_Mark(name, int(number) if number else None, match.start(), match.end()))
    return marks


def read_blocks(text: str, form: Form, *, first: int, last: int, continued: bool, truncated: bool) -> Blocks:
    """Read the blocks ``first`` to ``last``.

    A block starts with a header with the next number above a field, or with a field that has the next number. If the
    first block has no number, the others may start with their first field alone.

    Args:
        text: The model's answer.
        form: The fields and their order.
        first: Number of the first requested block; an answer may also start at 1, or use no numbers.
        last: Number of the last requested block.
        continued: Whether the prompt ended with the first field's label, so that the text begins inside that field.
        truncated: Whether the text ends at the token limit, so that its last block is incomplete.

    Returns:
        The blocks in order. Discards: ``preamble`` (before the first block), ``no_block``,
        ``no_<field>`` (a required field is missing or empty), ``out_of_order`` (from a block whose number isn't
        the next), ``truncated``, ``over_count`` (after ``last``).
    """
    return _Reader(text, form, first, last).read(continued, truncated)


class _Reader:
    """The state of one pass over the marks of a text: the current block and the current field."""

    def __init__(self, text: str, form: Form, first: int, last: int) -> None:
        self.text, self.form, self.first, self.last = text, form, first, last
        self.order = form.order
        self.marks = _marks(text, form)
        self.blocks: list[Block] = []
        self.discards: list[Discard] = []
        self.number = first
        self.bare = False  # the first block has no number, so the others may lack one
        self.begin = 0  # start of the current block
        self.name: str | None = None  # current field; None after the start of a block that is out of order
        self.content = 0  # start of the current field's text
        self.fields: dict[str, tuple[int, int]] = {}

    def read(self, continued: bool, truncated: bool) -> Blocks:
        if not self._begin(continued):
            return Blocks((), discard_span(self.text, RejectReason.NO_BLOCK, 0, len(self.text)))
        self.discards += discard_span(self.text, RejectReason.PREAMBLE, 0, self.begin)
        end = content_end(self.text, self.content)
        inside = (mark for mark in self.marks if self.content <= mark.begin < end)
        self.marks = list(outside_fences(inside, fence_spans(self.text, self.content)))
        for index, mark in enumerate(self.marks):
            if mark.begin < self.content:
                continue  # the field under a header that started the block
            if (field := self._opens(index, (self.number + 1,))) or (field := self._reopens(index)):
                self._close(mark.begin, truncated=False)
                self._open(mark, field, self.number + 1)
                if self.number > self.last:
                    self.discards += discard_span(self.text, RejectReason.OVER_COUNT, mark.begin, end)
                    return self._result()
            elif self._is_stray(index):
                self._close(mark.begin, truncated=False)
                self.begin, self.name = mark.begin, None
            elif self._follows(mark):
                self._end_field(mark.begin)
                self.name, self.content = mark.name, mark.end
        if truncated and (cut := self._cut_header(end)) is not None:
            self._close(cut.begin, truncated=False)
            self.discards += discard_span(self.text, RejectReason.TRUNCATED, cut.begin, end)
        else:
            self._close(end, truncated)
        return self._result()

    def _cut_header(self, end: int) -> _Mark | None:
        """Return the header of the next block if the text ends before its first field."""
        last = self.marks[-1] if self.marks else None
        if last is None or last.name or last.number != self.number + 1 or last.begin < self.content:
            return None
        label = max(len(word) for _, words in self.form.labels for word in words)
        return last if len(self.text[last.end : end].strip()) < label else None

    def _result(self) -> Blocks:
        return Blocks(tuple(self.blocks), tuple(self.discards))

    def _begin(self, continued: bool) -> bool:
        """Find the first block; return False if there is none."""
        index = next((index for index in range(len(self.marks)) if self._opens(index, (self.first, 1, None))), None)
        head = self.text if index is None else self.text[: self.marks[index].begin]
        field = next((mark for mark in self.marks if mark.name and mark.begin < len(head)), None)
        if head.strip() and (continued or (field and self.text[: field.begin].strip() and self.form.inside)):
            # The text continues the first field. A chat model may do so too; then another field comes first.
            self._open(_Mark("", None, 0, 0), _Mark(self.form.labels[0][0], None, 0, 0), self.first)
            return True
        if index is None:
            return False
        mark = self.marks[index]
        opened = self._opens(index, (self.first, 1, None))
        assert opened is not None
        number = mark.number if mark.number is not None else opened.number
        self.bare = number is None
        self._open(mark, opened, self.first if number is None else number)
        return True

    def _opens(self, index: int, numbers: tuple[int | None, ...]) -> _Mark | None:
        """Return the field that starts a block with one of the numbers at this mark, directly or under a header."""
        mark = self.marks[index]
        if mark.number not in numbers:
            return None
        if mark.name:
            return mark if mark.name in self.form.opening else None
        below = self.marks[index + 1] if index + 1 < len(self.marks) else None
        if below is None or below.name not in self.form.opening or below.number not in (None, mark.number):
            return None
        return None if self.text[mark.end : below.begin].strip() else below

    def _reopens(self, index: int) -> _Mark | None:
        """Return the first field of a block without a number, if the current block is complete."""
        mark = self.marks[index]
        complete = all(name in self.fields or name == self.name for name in self.form.required)
        if not self.bare or mark.name != self.form.labels[0][0] or mark.number is not None or not complete:
            return None
        return mark if not self.form.gap or starts_paragraph(self.text, mark.begin) else None

    def _is_stray(self, index: int) -> bool:
        """Return whether a block starts whose number is in range but not the next one, or repeats.

        The number after the last one counts as in range, so that such a block ends the current block.
        """
        mark = self.marks[index]
        if mark.number is None or not 1 <= mark.number <= self.last + 1 or not self._opens(index, (mark.number,)):
            return False
        return not mark.name or mark.number != self.number or not self._follows(mark)

    def _follows(self, mark: _Mark) -> bool:
        """Return whether the mark is a field that comes later in the block than the current one."""
        if self.name is None or not mark.name or mark.number not in (None, self.number):
            return False
        return self.order[mark.name] > self.order[self.name]

    def _open(self, mark: _Mark, field: _Mark, number: int) -> None:
        self.number, self.begin, self.fields = number, mark.begin, {}
        self.name, self.content = field.name, field.end

    def _end_field(self, end: int) -> None:
        if self.name is not None:
            self.fields[self.name] = strip_span(self.text, self.content, end)

    def _close(self, end: int, truncated: bool) -> None:
        """Turn the current block into a ``Block`` or a ``Discard``."""
        span = strip_span(self.text, self.begin, end)
        if self.name is None:
            self.discards += discard_span(self.text, RejectReason.OUT_OF_ORDER, *span)
            return
        self._end_field(end)
        missing = next((name for name in self.form.required if len(set(self.fields.get(name, (0,)))) < 2), None)
        if truncated:
            self.discards.append(Discard(RejectReason.TRUNCATED, span))
        elif missing:
            self.discards.append(Discard(missing_field(missing), span))
        else:
            self.blocks.append(Block({name: self.text[s:e] for name, (s, e) in self.fields.items()}, span))

"""Regular expressions whose search takes time in proportion to the text, whatever the pattern.

Python's own search goes back to try another way, and may try exponentially many. Here a pattern is read by Python's
parser and then followed on all its ways at once (Thompson 1968; Cox 2007, "Regular Expression Matching Can Be Simple
And Fast"), with the sets of places met so far kept as an automaton. What this can't do is refused: back references,
look-ahead and look-behind, atomic groups, possessive quantifiers.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

__all__ = ["Pattern", "compile_pattern"]

_parser: Any = importlib.import_module("re._parser")
_compiler: Any = importlib.import_module("re._compiler")
_names: Any = importlib.import_module("re._constants")

MOST_CHARS = 2_000  # of a pattern
MOST_PLACES = 2_000  # of its program, each repetition written out
MOST_WORK = 20_000_000  # characters of a text times places: some seconds at the worst
_KEPT = 100_000  # places of all the sets that an automaton remembers, and ways between them

_START, _NEWLINE, _LAST_NEWLINE, _END, _WORD, _WIDE_WORD, _OTHER = range(7)  # what stands on one side of a place
_REFUSED = {
    "ASSERT": "a look-ahead or look-behind",
    "ASSERT_NOT": "a look-ahead or look-behind",
    "GROUPREF": "a back reference",
    "GROUPREF_EXISTS": "a back reference",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive quantifier",
    "FAILURE": "a look-ahead",
}
_LINE_ENDS = (_NEWLINE, _LAST_NEWLINE)
_TYPES = re.ASCII | re.LOCALE | re.UNICODE


def _kind(character: str) -> int:
    if character == "\n":
        return _NEWLINE
    if character.isalnum() or character == "_":
        return _WORD if character.isascii() else _WIDE_WORD
    return _OTHER


class _Program:
    """Places of a pattern: each eats one character, or leads on to others at once, or asks what stands around it."""

    def __init__(self, *, ecma: bool = False) -> None:
        self._ecma = ecma
        self.eats: dict[int, tuple[int, int]] = {}  # the character class, and the place after it
        self.leads: dict[int, tuple[int, ...]] = {}
        self.asks: dict[int, tuple[int, int, int]] = {}  # the question, its flags, and the place after it
        self.classes: list[Any] = []
        self._known: dict[str, int] = {}
        self.size = 1  # place 0 is the end

    def new(self) -> int:
        self.size += 1
        if self.size > MOST_PLACES:
            raise ValueError("is too large: it repeats too much")
        return self.size - 1

    def of_class(self, node: Any, flags: int) -> int:
        """The number of a node that matches one character, by Python's own compiled form of it."""
        key = repr((node, flags))
        if key not in self._known:
            state = _parser.State()
            state.flags = flags
            self._known[key] = len(self.classes)
            self.classes.append(_compiler.compile(_parser.SubPattern(state, [node])).match)
        return self._known[key]

    def sequence(self, nodes: Any, after: int, flags: int) -> int:
        """The place that a sequence of nodes begins at, when it is followed by the place ``after``."""
        for node in reversed(list(nodes)):
            after = self.node(node, after, flags)
        return after

    def node(self, node: Any, after: int, flags: int) -> int:
        operation, value = node
        if operation in (_names.LITERAL, _names.NOT_LITERAL, _names.ANY, _names.IN):
            place = self.new()
            self.eats[place] = (self.of_class(node, flags), after)
            return place
        if operation is _names.AT:
            place = self.new()
            if self._ecma and value is _names.AT_END and not flags & re.MULTILINE:
                value = _names.AT_END_STRING
            self.asks[place] = (int(value), flags, after)
            return place
        if operation is _names.BRANCH:
            place = self.new()
            self.leads[place] = tuple(self.sequence(one, after, flags) for one in value[1])
            return place
        if operation is _names.SUBPATTERN:
            _, added, taken, inner = value
            kept = flags & ~_TYPES if added & _TYPES else flags
            return self.sequence(inner, after, (kept | added) & ~taken)
        if operation in (_names.MAX_REPEAT, _names.MIN_REPEAT):
            return self.repeat(*value, after=after, flags=flags)
        name = str(operation)
        raise ValueError(f"has {_REFUSED.get(name, name.lower())} in it, which linear time is not enough for")

    def repeat(self, least: int, most: int, inner: Any, *, after: int, flags: int) -> int:
        begin = after
        if most is _names.MAXREPEAT:
            begin = self.new()
            self.leads[begin] = (self.sequence(inner, begin, flags), after)
        else:
            for _ in range(most - least):
                start = self.sequence(inner, begin, flags)
                if start == begin:  # nothing in it
                    break
                place = self.new()
                self.leads[place] = (start, after)
                begin = place
        for _ in range(least):
            start = self.sequence(inner, begin, flags)
            if start == begin:
                break
            begin = start
        return begin


class _State:
    """A set of places, and what stands before them; ``ways`` are the states after each character met so far."""

    __slots__ = ("before", "places", "ways")

    def __init__(self, places: frozenset[int], before: int) -> None:
        self.places = places
        self.before = before
        self.ways: dict[str, _State | None] = {}  # None: found


class Pattern:
    """A compiled pattern.

    Args:
        source: In Python's syntax.
        full: The whole text must match, not a part of it.
        ecma: ``$`` is the end of the text, as of JSON Schema, and not also before a newline there.

    Raises:
        ValueError: It is no pattern, or one that linear time is not enough for, or too large.
    """

    def __init__(self, source: str, *, full: bool = False, ecma: bool = False) -> None:
        if len(source) > MOST_CHARS:
            raise ValueError(f"has more than {MOST_CHARS:,} characters")
        try:
            with warnings.catch_warnings():  # of what a later Python may read otherwise
                warnings.simplefilter("ignore")
                parsed = _parser.parse(source)
        except (re.error, OverflowError) as error:
            raise ValueError(f"is no regular expression: {error}") from None
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        self.full = full
        self._program = _Program(ecma=ecma)
        try:
            self._first = self._program.sequence(parsed, 0, parsed.state.flags)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        self._states: dict[tuple[frozenset[int], int], _State] = {}
        self._kept = 0

    @property
    def size(self) -> int:
        """Places of its program: what each character of a text may cost at the worst."""
        return self._program.size

    @property
    def longest(self) -> int:
        """Characters of the longest text that is searched."""
        return MOST_WORK // self.size

    def matches(self, text: str) -> bool:
        """Whether the pattern is found in the text, or is all of it.

        Raises:
            ValueError: The text is longer than ``longest``.
        """
        if len(text) > self.longest:
            raise ValueError(f"{len(text):,} characters are too many for this pattern: at most {self.longest:,}")
        state = self._state(frozenset({self._first}), _START)
        last = len(text) - 1 if text.endswith("\n") else len(text)
        for character in text[:last]:
            following = state.ways.get(character, state)
            if following is state and character not in state.ways:
                following = self._step(state, character, _kind(character))
            if following is None:
                return True
            state = following
        if last < len(text):
            following = self._step(state, "\n", _LAST_NEWLINE)
            if following is None:
                return True
            state = following
        return 0 in self._reached(state, _END)

    def _step(self, state: _State, character: str, kind: int) -> _State | None:
        """The state after one more character; None if the pattern was found before it."""
        reached = self._reached(state, kind)
        if 0 in reached and not self.full:
            found = None
        else:
            eats, classes = self._program.eats, self._program.classes
            wanted = {place: eats[place] for place in reached if place in eats}
            fitting = {number for number in {one for one, _ in wanted.values()} if classes[number](character)}
            places = {after for number, after in wanted.values() if number in fitting}
            if not self.full:
                places.add(self._first)
            found = self._state(frozenset(places), _NEWLINE if kind == _LAST_NEWLINE else kind)
        if kind != _LAST_NEWLINE:  # what follows it is not what follows a newline elsewhere
            state.ways[character] = found
            self._kept += 1
        return found

    def _state(self, places: frozenset[int], before: int) -> _State:
        known = self._states.get((places, before))
        if known is None:
            self._kept += len(places) + 1
            if self._kept > _KEPT:
                for old in self._states.values():
                    old.ways.clear()
                self._states.clear()
                self._kept = len(places) + 1
            known = self._states[places, before] = _State(places, before)
        return known

    def _reached(self, state: _State, following: int) -> set[int]:
        """All places that are reached without eating a character."""
        found: set[int] = set()
        left = list(state.places)
        while left:
            place = left.pop()
            if place not in found:
                found.add(place)
                left += self._onward(place, state.before, following)
        return found

    def _onward(self, place: int, before: int, following: int) -> Iterator[int]:
        if place in self._program.leads:
            yield from self._program.leads[place]
        elif place in self._program.asks:
            question, flags, after = self._program.asks[place]
            if _holds(question, flags, before, following):
                yield after


def _holds(question: int, flags: int, before: int, following: int) -> bool:
    """Whether an anchor holds between two characters."""
    if question in (_names.AT_BEGINNING, _names.AT_BEGINNING_STRING):
        lines = flags & re.MULTILINE and question == _names.AT_BEGINNING
        return before == _START or bool(lines and before == _NEWLINE)
    if question == _names.AT_END_STRING:
        return following == _END
    if question == _names.AT_END:
        return following in (_END, _LAST_NEWLINE) or bool(flags & re.MULTILINE and following in _LINE_ENDS)
    words = (_WORD,) if flags & re.ASCII else (_WORD, _WIDE_WORD)
    boundary = (before in words) != (following in words)
    return boundary if question == _names.AT_BOUNDARY else not boundary


@lru_cache(maxsize=256)
def compile_pattern(source: str, *, full: bool = False, ecma: bool = False) -> Pattern:
    """A ``Pattern``, kept for the next time.

    Raises:
        ValueError: As of ``Pattern``.
    """
    return Pattern(source, full=full, ecma=ecma)

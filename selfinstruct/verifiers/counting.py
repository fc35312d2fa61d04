"""The limits of an evaluation, and the count that keeps to them.

Every operation is counted before it is done, by the size of what goes in and comes out, and sizes have limits: whether
an expression has a value is the same on every machine, and no question of time. The limits let through some seconds of
work and 200 MB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

__all__ = ["BITS", "CHARS", "DEPTH", "DIGITS", "NODES", "SHOWN", "SIZE", "STEPS", "Count", "Once", "Refused", "limit"]

STEPS = 1_000_000  # operations, each counted by its size
SIZE = 100_000  # items of a container, those of what is in it included; characters of a string
BITS = 10_000  # of an integer: about 3,000 digits
CHARS = 10_000  # of an expression
NODES = 5_000  # of its tree
DEPTH = 50  # of its tree
DIGITS = 400  # that round() is asked for
SHOWN = 100  # characters of a value in a message
_KEY = 1 << 60  # integers below it have hashes of their own


class Refused(Exception):  # noqa: N818  (an answer to a question, not an error)
    """Why an expression has no value here."""


class Once:
    """What Python would give an iterator for: can be gone through or handed to a function, and nothing else."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items


def limit(size: int) -> None:
    """Refuse a value of this size if it is too large."""
    if size > SIZE:
        raise Refused(f"a value of more than {SIZE:,} parts")


class Count:
    """The steps of one evaluation, and the sizes of the containers made in it."""

    def __init__(self) -> None:
        self._steps = 0
        self._weights: dict[int, int] = {}
        self._made: list[Any] = []  # keeps containers alive, so that no other gets the id of one

    def spend(self, steps: int) -> None:
        self._steps += 1 + steps
        if self._steps > STEPS:
            raise Refused(f"it takes more than {STEPS:,} steps")

    def weight(self, value: Any) -> int:
        """The size of a value, all that is in it included."""
        if isinstance(value, str):
            return 1 + len(value) // 16
        if isinstance(value, int):
            return 1 + value.bit_length() // 256
        return self._weights.get(id(value), 1)

    def made(self, value: Any) -> Any:
        """A new value: counted, and refused if it is too large or none that exists here."""
        kind = type(value)
        if kind is int:
            if value.bit_length() > BITS:
                raise Refused(f"an integer of more than {BITS:,} bits")
        elif kind is str:
            limit(len(value))
        elif kind is float:
            if math.isnan(value):
                raise Refused("it comes to no number (nan)")
        elif kind in (list, tuple, set, dict):
            inner = (*value.keys(), *value.values()) if kind is dict else value
            total = 1
            for one in inner:
                total += self.weight(one)
            limit(total)
            self._weights[id(value)] = total
            self._made.append(value)
        elif kind not in (bool, range, type(None), Once):
            raise Refused(f"a {kind.__name__} is not allowed")
        self.spend(self.weight(value))
        return value

    def items(self, value: Any, *, ordered: bool = True, sort: bool = False) -> list[Any]:
        """What is in a value, counted."""
        if isinstance(value, Once):
            found = value.items if isinstance(value.items, list) else self.taken(value.items)
            value.items = []
            return found
        if isinstance(value, set) and ordered:
            raise Refused("a set has no order: use sorted()")
        if isinstance(value, set) and sort:  # the order of what is in a set is another in every process
            self.spend(self.weight(value) * (1 + len(value).bit_length()))
            try:
                return sorted(value)
            except TypeError:
                raise Refused("a set of what can't be put in order") from None
        if not isinstance(value, (str, list, tuple, set, dict, range)):
            raise TypeError(f"{type(value).__name__!r} object is not iterable")
        limit(len(value))
        self.spend(len(value))
        return list(value)

    def taken(self, given: Iterable[Any]) -> list[Any]:
        found: list[Any] = []
        total = 0
        for one in given:
            total += self.weight(one)
            limit(total)
            found.append(one)
        return found

    def truth(self, value: Any) -> bool:
        if isinstance(value, Once):
            raise Refused("an iterator is not allowed here")
        return bool(value)

    def keys(self, items: Iterable[Any]) -> None:
        """Refuse keys of a set or dict whose hashes could be made to collide: that would take quadratic time."""
        for one in items:
            self.spend(self.weight(one))
            if isinstance(one, tuple):
                self.keys(one)
            elif isinstance(one, int) and abs(one) >= _KEY:
                raise Refused("an integer beyond 2**60 can't be in a set or the key of a dict")

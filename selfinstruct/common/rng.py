"""Random choices that are the same on every machine and in every Python.

Python promises one thing of ``random.Random``: that ``random()`` gives the same sequence for the same seed. Its other
methods have changed before, so everything here is drawn through ``random()`` alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Rng", "derive"]

T = TypeVar("T")


def derive(*parts: str | int) -> int:
    """A 32-bit number that depends on every part: the seed of request k is ``derive("request", run_seed, k)``."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big")


class Rng:
    """A generator for one purpose, named by its parts: ``Rng("propose", run_seed, k)``."""

    def __init__(self, *parts: str | int) -> None:
        text = "\x1f".join(str(part) for part in parts)
        self._random = random.Random(int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest(), "big")).random

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._random()

    def below(self, n: int) -> int:
        """An integer in [0, n). ``n`` must be positive."""
        return int(self._random() * n)

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, each equally likely."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """``count`` distinct positions of ``items`` in random order (all of them if there are fewer)."""
        chosen: list[T] = []
        taken: dict[int, int] = {}  # a sparse Fisher-Yates shuffle: never touches the rest of a large pool
        for place in range(min(count, len(items))):
            other = place + self.below(len(items) - place)
            chosen.append(items[taken.get(other, other)])
            taken[other] = taken.get(place, place)
        return chosen

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in random order."""
        return self.sample(items, len(items))

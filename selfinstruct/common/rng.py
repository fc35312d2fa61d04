"""Random choices that are identical on every machine and Python version.

For ``random.Random`` Python guarantees only that ``random()`` yields the same sequence for the same seed. Its other
methods have changed between versions, so every choice here is derived from ``random()``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Rng", "derive"]

T = TypeVar("T")


def derive(*parts: str | int) -> int:
    """Derive a 32-bit number from all parts; the seed of request k is ``derive("request", run_seed, k)``."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big")


class Rng:
    """A random generator seeded by all parts, which name its purpose: ``Rng("propose", run_seed, k)``."""

    def __init__(self, *parts: str | int) -> None:
        text = "\x1f".join(str(part) for part in parts)
        self._random = random.Random(int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest(), "big")).random

    def random(self) -> float:
        """Return a float in [0, 1)."""
        return self._random()

    def below(self, n: int) -> int:
        """Return an integer in [0, n); ``n`` must be positive."""
        return int(self._random() * n)

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items, each with equal probability."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Return the items at ``count`` distinct random positions, in random order (all items if there are fewer)."""
        chosen: list[T] = []
        swapped: dict[int, int] = {}  # a sparse Fisher-Yates shuffle, so that a large pool is not copied
        for index in range(min(count, len(items))):
            other = index + self.below(len(items) - index)
            chosen.append(items[swapped.get(other, other)])
            swapped[other] = swapped.get(index, index)
        return chosen

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return all items in random order."""
        return self.sample(items, len(items))

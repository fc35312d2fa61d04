"""Groups of related items, and random draws of whole groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from selfinstruct.common.rng import Rng

__all__ = ["draw_groups", "join_groups", "members_of"]


def join_groups(*columns: Sequence[Hashable]) -> list[int]:
    """Return a label for each item, the same for items that a chain of equal keys connects.

    Args:
        columns: Keys of the items, one sequence for each criterion.
    """
    labels = list(range(len(columns[0])))

    def root(item: int) -> int:
        while labels[item] != item:
            labels[item] = labels[labels[item]]
            item = labels[item]
        return item

    for column in columns:
        first: dict[Hashable, int] = {}
        for item, key in enumerate(column):
            low, high = sorted((root(first.setdefault(key, item)), root(item)))
            labels[high] = low
    return [root(item) for item in labels]


def members_of(labels: Sequence[int]) -> list[list[int]]:
    """Return the items of each group, in order of their first item."""
    groups: dict[int, list[int]] = defaultdict(list)
    for item, label in enumerate(labels):
        groups[label].append(item)
    return list(groups.values())


def draw_groups(groups: Sequence[list[int]], count: int, seed: int) -> list[int]:
    """Return the items of random groups, sorted: at most ``count``, or a group of at most half of all items."""
    drawn: list[int] = []
    total = sum(map(len, groups))
    for group in Rng("held out", seed).shuffled(groups):
        if len(drawn) + len(group) <= count:
            drawn += group
    if not drawn:
        smallest = min(groups, key=len)
        drawn = smallest if 2 * len(smallest) <= total else []
    return sorted(drawn)

"""Ids of an index's texts."""

from __future__ import annotations

from collections.abc import Iterable

from selfinstruct.errors import UsageError

__all__ = ["Ids"]


class Ids:
    """The ids of an index's texts, in order; a text without an id is named by its running number.

    Attributes:
        names: Id of each text in the index, oldest first.
        taken: Number of texts offered or added so far, rejected ones included: the running number of the next text.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.taken = 0
        self._present: set[str] = set()

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._present

    def take(self, ids: Iterable[str | None]) -> list[str]:
        """Return an id for each text that is about to be decided on.

        Raises:
            UsageError: An id occurs twice, or is in the index already.
        """
        names = [str(self.taken + number) if name is None else name for number, name in enumerate(ids)]
        unique = set(names)
        if len(unique) < len(names) or not unique.isdisjoint(self._present):
            self._refuse_repeated(names)
        self.taken += len(names)
        return names

    def _refuse_repeated(self, names: Iterable[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if name in self._present:
                raise UsageError(f"id {name!r} is in the index already; use a different id for each text")
            if name in seen:
                raise UsageError(f"id {name!r} occurs twice; use a different id for each text")
            seen.add(name)

    def add(self, names: Iterable[str]) -> None:
        """Append the ids of the next texts of the index."""
        names = list(names)
        self.names += names
        self._present.update(names)

    def remove(self, names: Iterable[str]) -> list[int]:
        """Remove ids.

        Returns:
            The former rows of the remaining ids, in order.

        Raises:
            UsageError: An id is not in the index; nothing is removed.
        """
        removed = set(names)
        if missing := sorted(removed - self._present):
            raise UsageError(f"id {missing[0]!r} is not in the index")
        rows = [row for row, name in enumerate(self.names) if name not in removed]
        self.names = [self.names[row] for row in rows]
        self._present -= removed
        return rows

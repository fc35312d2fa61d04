"""The ids of an index's texts, and what both indexes say about them."""

from __future__ import annotations

from collections.abc import Iterable

from selfinstruct.errors import UsageError

__all__ = ["NO_PICKLE", "Ids", "paired"]

NO_PICKLE = (
    "a {name} holds state and is not pickled: copies of it in worker processes would each judge without seeing what "
    "the others kept. Use dedup(dataset, index, column), offer_many() in this process, or save() and load()"
)


class Ids:
    """Names of rows; a name not given is the running number of the texts seen so far."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.taken = 0  # texts offered and added so far
        self._known: set[str] = set()

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def take(self, given: Iterable[str | None]) -> list[str]:
        """A name for each text about to be judged.

        Raises:
            UsageError: A name is given twice or belongs to a row already.
        """
        names = [str(self.taken + place) if name is None else name for place, name in enumerate(given)]
        unique = set(names)
        if len(unique) < len(names) or not unique.isdisjoint(self._known):
            seen: set[str] = set()
            twice = next(name for name in names if name in self._known or name in seen or seen.add(name))  # type: ignore[func-returns-value]  # add returns None, on purpose
            where = "is in the index already" if twice in self._known else "is given twice"
            raise UsageError(f"id {twice!r} {where}; give each text an id of its own")
        self.taken += len(names)
        return names

    def add(self, names: Iterable[str]) -> None:
        """Name the next rows."""
        names = list(names)
        self.names += names
        self._known.update(names)

    def remove(self, names: Iterable[str]) -> list[int]:
        """Forget names and give the rows that are left, renumbering them.

        Raises:
            UsageError: A name is not there.
        """
        gone = set(names)
        if missing := sorted(gone - self._known):
            raise UsageError(f"id {missing[0]!r} is not in the index")
        left = [row for row, name in enumerate(self.names) if name not in gone]
        self.names = [self.names[row] for row in left]
        self._known -= gone
        return left


def paired(texts: Iterable[str], ids: Iterable[str] | None) -> Iterable[tuple[str, str | None]]:
    """Texts with their ids, or with None for each.

    Raises:
        UsageError: There are not as many ids as texts.
    """
    if ids is None:
        return ((text, None) for text in texts)
    texts, ids = list(texts), list(ids)
    if len(texts) != len(ids):
        raise UsageError(f"{len(texts)} texts but {len(ids)} ids")
    return zip(texts, ids, strict=True)

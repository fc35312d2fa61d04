"""The base class of the three indexes: ids, batches, verdicts, and how an index is saved and loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
import numpy.typing as npt

from selfinstruct.errors import UsageError
from selfinstruct.filters import index_file
from selfinstruct.filters.text_ids import Ids
from selfinstruct.records import Verdict

__all__ = ["TextIndex"]

Rows = npt.NDArray[np.int64]


class TextIndex(ABC):
    """A pool of kept texts, which rejects a text that is too similar to one of them.

    Every text has an id: the one that the caller passes, or else the running number of the texts offered and added so
    far, rejected ones included. A verdict names the most similar text of the pool, the earliest of several.

    An index holds state, so it cannot be pickled into worker processes; ``save`` and ``load`` use npz and JSON.

    Attributes:
        name: Name of the filter, as verdicts and reports show it.
        reason: Reason code of its rejections.
        rejects_at_threshold: Whether a similarity equal to the threshold rejects.
        threshold: The similarity that separates kept from rejected texts.
    """

    name: ClassVar[str]
    reason: ClassVar[str]
    rejects_at_threshold: ClassVar[bool] = False

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._ids = Ids()
        self._kept = Verdict(self.name, True)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:  # noqa: A002  (ids are called id everywhere)
        return id in self._ids

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the pool's texts, oldest first."""
        return tuple(self._ids.names)

    @property
    def taken(self) -> int:
        """Number of texts offered and added so far: the running number of the next one."""
        return self._ids.taken

    @abstractmethod
    def query(self, text: str) -> Verdict:
        """Decide on a text and leave the pool unchanged."""

    def offer(self, text: str, id: str | None = None) -> Verdict:  # noqa: A002
        """Decide on a text, and add it to the pool if it is kept.

        Raises:
            UsageError: The id is in the pool already.
        """
        return self.offer_many([text], None if id is None else [id])[0]

    @abstractmethod
    def offer_many(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> list[Verdict]:
        """Offer texts one after the other; equal to repeated ``offer``, but much faster.

        Raises:
            UsageError: An id occurs twice, or is in the pool already. Earlier batches have been decided by then.
        """

    def add(self, text: str, id: str | None = None) -> None:  # noqa: A002
        """Add a text to the pool without a decision.

        Raises:
            UsageError: The id is in the pool already.
        """
        self.fit([text], None if id is None else [id])

    @abstractmethod
    def fit(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> Self:
        """Add texts to the pool without decisions, seed tasks for instance. Return the index itself.

        Raises:
            UsageError: An id occurs twice, or is in the pool already.
        """

    def remove(self, ids: Iterable[str]) -> None:
        """Remove texts from the pool. The time is proportional to the pool's size, so pass all ids at once.

        Raises:
            UsageError: An id is not in the pool; nothing is removed.
        """
        self._select(np.array(self._ids.remove(ids), dtype=np.int64))

    @abstractmethod
    def empty(self, threshold: float) -> Self:
        """Return an empty index with another threshold and otherwise the same settings."""

    def save(self, path: str | Path) -> None:
        """Write the index to an npz file, in one step. Each subclass has a matching ``load``.

        Raises:
            SelfInstructError: The file cannot be written; an existing one is left unchanged.
        """
        parameters = {**self._parameters(), "taken": self._ids.taken}
        arrays = {**self._arrays(), **index_file.pack("ids", self._ids.names)}
        index_file.write(Path(path), type(self).__name__, parameters, arrays)

    @classmethod
    def _load(cls, path: str | Path, build: Callable[[Mapping[str, Any]], Self]) -> Self:
        """Return the index in a file.

        Args:
            build: Returns an empty index with these parameters.

        Raises:
            UsageError: The file cannot be read, is damaged, or holds another kind or version of index.
        """
        parameters, arrays = index_file.read(Path(path), cls.__name__)
        try:
            index = build(parameters)
            index._ids.add(index._ids.take(index_file.unpack("ids", arrays)))
            index._ids.taken = parameters["taken"]
            index._restore(arrays)
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged ({error}); build the index again from its texts") from None
        return index

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} holds state and is not pickled: copies of it in worker processes would each "
            "decide without seeing what the others kept. Use dedup(dataset, index, column), offer_many() in this "
            "process, or save() and load()"
        )

    @abstractmethod
    def _select(self, rows: Rows) -> None:
        """Keep only these rows of the pool, ascending; their ids are selected already."""

    @abstractmethod
    def _parameters(self) -> dict[str, float | int | str]:
        """Return the settings that decide, for the header of the saved file."""

    @abstractmethod
    def _arrays(self) -> dict[str, index_file.Array]:
        """Return the pool as arrays, for the saved file."""

    @abstractmethod
    def _restore(self, arrays: Mapping[str, index_file.Array]) -> None:
        """Fill the empty pool from the arrays of a saved file.

        Raises:
            KeyError, ValueError, TypeError: The arrays are damaged.
        """

    def _batches(
        self, texts: Iterable[str], ids: Iterable[str] | None, size: Callable[[], int]
    ) -> Iterator[tuple[list[str], list[str]]]:
        """Yield batches of texts with their ids; ``size`` returns the number of texts in the next batch.

        Raises:
            UsageError: The numbers of texts and ids differ, an id occurs twice, or an id is in the pool already.
        """
        pairs = iter(_pair(texts, ids))
        while batch := list(islice(pairs, size())):
            yield [text for text, _ in batch], self._ids.take(name for _, name in batch)

    def _rejection(self, score: float, nearest: str) -> Verdict:
        return Verdict(self.name, False, self.reason, score, nearest)


def _pair(texts: Iterable[str], ids: Iterable[str] | None) -> Iterable[tuple[str, str | None]]:
    if ids is None:
        return zip(texts, repeat(None), strict=False)
    texts, ids = list(texts), list(ids)
    if len(texts) != len(ids):
        raise UsageError(f"{len(texts)} texts but {len(ids)} ids")
    return zip(texts, ids, strict=True)

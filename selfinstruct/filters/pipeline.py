"""Filters in sequence: each decides on the rows that the filters before it kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter
from selfinstruct.filters.columns import Column, Dataset, is_dataset, text_of_row
from selfinstruct.filters.pii import Pii
from selfinstruct.filters.result import FilterResult, FilterStep, RejectedRow, template_warning
from selfinstruct.filters.text_index import TextIndex
from selfinstruct.records import Verdict

__all__ = ["Column", "DecidedRow", "On", "Pipeline"]

BATCH = 2048  # rows decided on at once: enough for the indexes' block mode, little memory


@dataclass(frozen=True)
class On:
    """A filter that reads another column than the pipeline's.

    ``On("output", Refusals())`` decides on the field ``output``.

    Attributes:
        column: The name of a field, or a function from a row to its text.
        filter: The filter or index.
    """

    column: Column
    filter: Filter | TextIndex


class DecidedRow(NamedTuple):
    """A row with its verdicts, in the order of the filters; the last verdict is the one that rejected it, if any did.

    Attributes:
        row: The row, redacted where a filter redacts.
        verdicts: The verdicts, up to the first rejection.
    """

    row: Any
    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> bool:
        """Whether every filter kept the row."""
        return self.verdicts[-1].kept


class Pipeline:
    """Filters in the order in which they decide. A row that one filter rejects is not offered to the next.

    An index remembers the texts that it kept, even if a later filter rejects the row: put the cheapest filters first
    and indexes last. A filter that redacts (``Pii("redact")``) changes the row for later filters and in the result.

    Args:
        filters: Stateless filters and indexes, each either bare or wrapped in ``On`` with another column.

    Raises:
        UsageError: There is no filter, or an object is neither a filter nor an index.
    """

    def __init__(self, filters: Sequence[Filter | TextIndex | On]) -> None:
        if not filters:
            raise UsageError("a pipeline needs at least one filter")
        self.filters = tuple(filters)
        for entry in self.filters:
            member: object = entry.filter if isinstance(entry, On) else entry
            if not isinstance(member, Filter | TextIndex):
                name = member.__name__ if isinstance(member, type) else type(member).__name__
                raise UsageError(
                    f"{name} does not decide on single texts; a pipeline takes instances of Filter and indexes"
                )

    def stream(
        self, rows: Iterable[Any], column: Column = "instruction", *, id_column: Column | None = None
    ) -> Iterator[DecidedRow]:
        """Decide on rows as they arrive. Memory holds one batch of rows, and the contents of the indexes.

        Args:
            rows: Strings, mappings, or any objects if ``column`` is a function.
            column: The text that the filters decide on. A row that is a string is its own text.
            id_column: The field with the rows' ids; by default a running number.

        Yields:
            Every row, kept or not, with its verdicts.

        Raises:
            UsageError: A row has no such text, or an id occurs twice.
        """
        return (DecidedRow(item.row, tuple(item.verdicts)) for item in self._decide(rows, column, id_column))

    def run(self, data: Any, column: Column = "instruction", *, id_column: Column | None = None) -> FilterResult:
        """Decide on all rows.

        Args:
            data: A ``datasets.Dataset``, or an iterable of strings or mappings (also a ``datasets.IterableDataset``).
            column: As in ``stream``.
            id_column: As in ``stream``.

        Raises:
            UsageError: As ``stream``; or the data is of another kind.
        """
        if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
            raise UsageError(
                f"texts, a datasets.Dataset or an iterable of mappings are expected, not a {type(data).__name__}; "
                "give one split of a DatasetDict"
            )
        collector = _Collector([member for member, _ in self._members(column)])
        rows = self._dataset_rows(data, column, id_column) if is_dataset(data) else data
        for position, item in enumerate(self._decide(rows, column, id_column)):
            collector.add(position, item, keep_row=not is_dataset(data))
        source = _DatasetRows(data, collector.redactions) if is_dataset(data) else _ListRows(collector.rows)
        result = collector.result(source)
        if message := template_warning(result):
            warnings.warn(message, stacklevel=2)
        return result

    def _members(self, column: Column) -> list[tuple[Filter | TextIndex, Column]]:
        return [(entry.filter, entry.column) if isinstance(entry, On) else (entry, column) for entry in self.filters]

    def _decide(self, rows: Iterable[Any], column: Column, id_column: Column | None) -> Iterator[_Item]:
        members = self._members(column)
        remaining = iter(rows)
        start, first_id = 0, _first_free_number([member for member, _ in members if isinstance(member, TextIndex)])
        while batch := list(islice(remaining, BATCH)):
            items = [
                _Item(number, row, str(first_id + number) if id_column is None else text_of_row(row, id_column, number))
                for number, row in enumerate(batch, start=start)
            ]
            for member, member_column in members:
                self._apply(member, member_column, [item for item in items if item.kept])
            start += len(batch)
            yield from items

    @staticmethod
    def _apply(member: Filter | TextIndex, column: Column, items: Sequence[_Item]) -> None:
        """Let one filter decide on the items that are still kept."""
        for item in items:
            item.text = text_of_row(item.row, column, item.number)
        texts = [item.text for item in items]
        if isinstance(member, TextIndex):
            verdicts = member.offer_many(texts, [item.id for item in items])
        else:
            verdicts = member.decide(texts)
        for item, verdict in zip(items, verdicts, strict=True):
            item.verdicts.append(verdict)
            if isinstance(member, Pii) and verdict.kept and verdict.detail.get("spans"):
                item.replace(column, member.redact(item.text)[0])

    def _dataset_rows(self, dataset: Dataset, column: Column, id_column: Column | None) -> Iterator[Mapping[str, Any]]:
        """Yield the rows of a dataset, with only the columns that are read."""
        columns = {member_column for _, member_column in self._members(column)}
        if id_column is not None:
            columns.add(id_column)
        names = {name for name in columns if isinstance(name, str)}
        if missing := sorted(names - set(dataset.column_names)):
            raise UsageError(f"no column {missing[0]!r}; there are {', '.join(dataset.column_names)}")
        plain = dataset.with_format(None)
        if names == columns:
            plain = plain.select_columns(sorted(names))
        for batch in plain.iter(batch_size=BATCH):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))


class _Item:
    """A row on its way through the filters."""

    __slots__ = ("id", "number", "redactions", "row", "text", "verdicts")

    def __init__(self, number: int, row: Any, id: str) -> None:  # noqa: A002  (ids are called id everywhere)
        self.number = number
        self.row = row
        self.id = id
        self.text = ""
        self.verdicts: list[Verdict] = []
        self.redactions: dict[str, str] = {}

    @property
    def kept(self) -> bool:
        return not self.verdicts or self.verdicts[-1].kept

    def replace(self, column: Column, text: str) -> None:
        """Put another text into the row; the caller's own row stays unchanged."""
        if isinstance(self.row, str):
            self.row = text
        elif isinstance(column, str):
            self.row = {**self.row, column: text}
            self.redactions[column] = text
        else:
            raise UsageError("a text that a function takes from a row can't be redacted in it; name a column")


class _Collector:
    """Collects the rows of ``Pipeline.run``, and all that a result needs to return a row under another threshold."""

    def __init__(self, members: Sequence[Filter | TextIndex]) -> None:
        self._steps = tuple(
            FilterStep(member.name, member.threshold, member.rejects_at_threshold)
            if isinstance(member, TextIndex)
            else FilterStep(member.name)
            for member in members
        )
        self._positions: list[int] = []
        self._ids: list[str] = []
        self._rejected: list[RejectedRow] = []
        self.rows: dict[int, Any] = {}
        self.redactions: dict[int, Mapping[str, str]] = {}

    def add(self, position: int, item: _Item, *, keep_row: bool) -> None:
        if item.kept:
            self._positions.append(position)
            self._ids.append(item.id)
        else:
            step = len(item.verdicts) - 1
            self._rejected.append(RejectedRow(item.id, position, step, item.text, item.verdicts[-1]))
            if self._steps[step].threshold is None:
                return  # the rejection is final
        if keep_row:
            self.rows[position] = item.row
        elif item.redactions:
            self.redactions[position] = item.redactions

    def result(self, source: _DatasetRows | _ListRows) -> FilterResult:
        positions = tuple(self._positions)
        return FilterResult(
            selected=source.select(positions),
            positions=positions,
            ids=tuple(self._ids),
            rejected=tuple(self._rejected),
            steps=self._steps,
            source=source,
        )


@dataclass(frozen=True)
class _ListRows:
    rows: Mapping[int, Any]

    def select(self, positions: Sequence[int]) -> list[Any]:
        return [self.rows[position] for position in positions]


@dataclass(frozen=True)
class _DatasetRows:
    """A dataset with the texts that redaction replaced, by position and column."""

    dataset: Dataset
    redactions: Mapping[int, Mapping[str, str]]

    def select(self, positions: Sequence[int]) -> Dataset:
        rows = self.dataset.select(positions)
        if not self.redactions:
            return rows
        columns = sorted({name for texts in self.redactions.values() for name in texts})

        def redact(batch: Mapping[str, list[str]], numbers: list[int]) -> dict[str, list[str]]:
            return {
                name: [
                    self.redactions.get(positions[number], {}).get(name, text)
                    for number, text in zip(numbers, batch[name], strict=True)
                ]
                for name in columns
            }

        return rows.map(redact, with_indices=True, batched=True)


def _first_free_number(indexes: Sequence[TextIndex]) -> int:
    """Return a running number above every number that an index uses as an id."""
    numbers = [int(name) for index in indexes for name in index.ids if name.isascii() and name.isdecimal()]
    return max(numbers, default=-1) + 1

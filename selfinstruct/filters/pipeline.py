"""Filters one after the other: each judges what the one before it kept."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeGuard

from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.files import write_atomic
from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.filters.base import Filter
from selfinstruct.filters.dedup import SHARE, SOME
from selfinstruct.filters.minhash.index import NearDuplicateIndex
from selfinstruct.filters.report import Drop, Report
from selfinstruct.filters.rouge.index import NoveltyIndex
from selfinstruct.records import Verdict

__all__ = ["Column", "Dropped", "Index", "Judged", "On", "Pipeline", "Result"]

BATCH = 2048  # rows judged at once: enough for the indexes' block mode, little memory

Column: TypeAlias = "str | Callable[[Any], str]"
"""Where the text of a row is: the name of its field, or a function of the row."""


class Index(Protocol):
    """What remembers the texts that it kept: ``NoveltyIndex``, ``NearDuplicateIndex``, or one of your own."""

    filter: str

    @property
    def ids(self) -> Sequence[str]: ...

    def offer_many(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> list[Verdict]: ...


@dataclass(frozen=True)
class On:
    """A filter and the text that it judges, where that is not the pipeline's own: ``On("output", Refusals())``."""

    column: Column
    filter: Filter | Index


class Judged(NamedTuple):
    """A row and the verdicts on it, in the order of the filters; the last is the one that dropped it, if one did."""

    row: Any
    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> bool:
        return self.verdicts[-1].kept


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was dropped.

    Attributes:
        row: Its position in the data, from 0.
        step: Position in the pipeline of the filter that dropped it, from 0.
        score, nearest, detail: As in the filter's verdict; ``nearest`` is the id of the row that it resembles.
        text: What that filter judged.
    """

    id: str
    row: int
    step: int
    filter: str
    reason: str
    score: float | None
    nearest: str | None
    text: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        return {
            "id": self.id,
            "row": self.row,
            "filter": self.filter,
            "reason": self.reason,
            "score": self.score,
            "nearest": self.nearest,
            "text": self.text,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Result:
    """The outcome of a pipeline.

    Attributes:
        kept: The rows that every filter kept, in order, of the same kind as the data.
        rows: Position of each of them in the data, from 0.
        ids: Id of each of them.
        dropped: The rows that went, in order.
        filters: Name of each filter, in order.
    """

    kept: Any
    rows: tuple[int, ...]
    ids: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    filters: tuple[str, ...]
    _indexes: Mapping[int, Index] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> Mapping[str, int]:
        """Rows by reason; those that stayed as ``kept``."""
        return {"kept": len(self.rows), **Counter(drop.reason for drop in self.dropped)}

    @property
    def reports(self) -> Mapping[int, Report]:
        """For each ``NoveltyIndex`` and ``NearDuplicateIndex``, by its position, a report as ``dedup`` gives it.

        Its kept rows are all that the index kept, what later filters dropped included. A row that comes back by
        ``rethreshold`` has not been judged by the later filters.
        """
        return {
            step: self._report(step, index)
            for step, index in self._indexes.items()
            if isinstance(index, NoveltyIndex | NearDuplicateIndex)
        }

    def _report(self, step: int, index: NoveltyIndex | NearDuplicateIndex) -> Report:
        later = [(drop.row, drop.id) for drop in self.dropped if drop.step > step]
        kept = sorted([*zip(self.rows, self.ids, strict=True), *later])
        return Report(
            filter=index.filter,
            threshold=index.threshold,
            at_threshold=isinstance(index, NearDuplicateIndex),
            kept=tuple(name for _, name in kept),
            rows=tuple(row for row, _ in kept),
            dropped=tuple(
                Drop(drop.id, drop.row, drop.reason, drop.score or 0.0, drop.nearest or "", drop.text)
                for drop in self.dropped
                if drop.step == step
            ),
        )

    def to_jsonl(self, path: str | Path) -> None:
        """Write the dropped rows, one JSON object a line, in one step.

        Raises:
            SelfInstructError: The file can't be written; an old one is as it was.
        """
        write_atomic(Path(path), (dumps(drop.to_json()).encode() + b"\n" for drop in self.dropped))

    def to_dataset(self) -> Any:
        """The dropped rows as a ``datasets.Dataset``; ``detail`` is JSON in a string.

        Raises:
            MissingExtraError: datasets is not installed.
        """
        try:
            from datasets import Dataset  # heavy: only where it is asked for
        except ImportError:
            raise MissingExtraError("datasets", "data") from None
        names = ("id", "row", "filter", "reason", "score", "nearest", "text")
        columns = {name: [getattr(drop, name) for drop in self.dropped] for name in names}
        return Dataset.from_dict({**columns, "detail": [dumps(dict(drop.detail)) for drop in self.dropped]})


class Pipeline:
    """Filters in the order in which they judge. A row dropped by one is not offered to the next.

    An index keeps what it kept, even if a later filter drops the row: put indexes last, the cheapest filters first. A
    filter that redacts (``Pii("redact")``) changes the row for those after it and in the result.

    Args:
        filters: Stateless filters, ``NoveltyIndex`` and ``NearDuplicateIndex``; each as it is, or in ``On`` with a
            text of its own to judge.

    Raises:
        UsageError: No filter is given, or something that is none.
    """

    def __init__(self, filters: Sequence[Filter | Index | On]) -> None:
        if not filters:
            raise UsageError("a pipeline needs at least one filter")
        self.filters = tuple(filters)
        for one in self.filters:
            judge = one.filter if isinstance(one, On) else one
            if isinstance(judge, type) or not (isinstance(judge, Filter) or _is_index(judge)):
                what = judge.__name__ if isinstance(judge, type) else type(judge).__name__
                raise UsageError(f"{what} does not judge single texts; a pipeline takes Filter instances and indexes")

    def stream(
        self, rows: Iterable[Any], column: Column = "instruction", *, id_column: Column | None = None
    ) -> Iterator[Judged]:
        """Judge rows as they come, in batches; holds no more than a batch of them (and what the indexes hold).

        Args:
            rows: Texts, or mappings, or anything that ``column`` takes a text from.
            column: The text that the filters judge. Of rows that are texts it is the row itself.
            id_column: Names of the rows; by default their running number.

        Yields:
            Every row, kept or not, with the verdicts on it.

        Raises:
            UsageError: A row has no such text, or an id occurs twice.
        """
        return (Judged(one.row, tuple(one.verdicts)) for one in self._judge(rows, column, id_column))

    def run(self, data: Any, column: Column = "instruction", *, id_column: Column | None = None) -> Result:
        """Judge all rows.

        Args:
            data: Texts, or a ``datasets.Dataset``, or an iterable of mappings (a ``datasets.IterableDataset``, say).
            column, id_column: As of ``stream``.

        Raises:
            UsageError: As of ``stream``, or the data is of another kind.
        """
        dataset = hasattr(data, "column_names") and hasattr(data, "select") and not isinstance(data, dict)
        if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
            raise UsageError(f"texts, a datasets.Dataset or an iterable of mappings are expected, not a "
                             f"{type(data).__name__}; give one split of a DatasetDict")  # fmt: skip
        kept: list[Any] = []
        places: list[int] = []
        names: list[str] = []
        dropped: list[Dropped] = []
        changed: dict[int, Mapping[str, str]] = {}
        rows = self._rows(data, column, id_column) if dataset else data
        for place, one in enumerate(self._judge(rows, column, id_column)):
            verdict = one.verdicts[-1]
            if verdict.kept:
                if one.changed:
                    changed[len(places)] = one.changed
                places.append(place)
                names.append(one.name)
                if not dataset:
                    kept.append(one.row)
            else:
                dropped.append(_dropped(one, place))
        result = Result(
            _selected(data, places, changed) if dataset else kept,
            tuple(places),
            tuple(names),
            tuple(dropped),
            tuple(judge.filter for judge, _ in self._steps(column)),
            {step: judge for step, (judge, _) in enumerate(self._steps(column)) if _is_index(judge)},
        )
        _warn(result)
        return result

    # --- inside ---

    def _steps(self, column: Column) -> list[tuple[Filter | Index, Column]]:
        return [(one.filter, one.column) if isinstance(one, On) else (one, column) for one in self.filters]

    def _judge(self, rows: Iterable[Any], column: Column, id_column: Column | None) -> Iterator[_Item]:
        steps = self._steps(column)
        given = iter(rows)
        number, first = 0, _first([judge for judge, _ in steps if _is_index(judge)])
        while batch := list(islice(given, BATCH)):
            items = [
                _Item(row, str(first + place) if id_column is None else _text(row, id_column, place))
                for place, row in enumerate(batch, start=number)
            ]
            for judge, of in steps:
                left = [(place, one) for place, one in enumerate(items, start=number) if one.kept]
                for place, one in left:
                    one.text = _text(one.row, of, place)
                texts = [one.text for _, one in left]
                if isinstance(judge, Filter):
                    verdicts = judge.judge(texts)
                else:
                    verdicts = judge.offer_many(texts, [one.name for _, one in left])
                for (_, one), verdict in zip(left, verdicts, strict=True):
                    one.verdicts.append(verdict)
                    if verdict.kept and verdict.detail.get("spans") and hasattr(judge, "redact"):
                        one.replace(of, judge.redact(one.text)[0])
            number += len(batch)
            yield from items

    def _rows(self, dataset: Any, column: Column, id_column: Column | None) -> Iterator[Mapping[str, Any]]:
        """The rows of a dataset, only those of their columns that are looked at."""
        wanted = {of for of in (*(of for _, of in self._steps(column)), id_column) if of is not None}
        names = {of for of in wanted if isinstance(of, str)}
        if missing := sorted(names - set(dataset.column_names)):
            raise UsageError(f"no column {missing[0]!r}; there are {', '.join(dataset.column_names)}")
        plain = dataset.with_format(None)
        if names == wanted:
            plain = plain.select_columns(sorted(names))
        for batch in plain.iter(batch_size=BATCH):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))


def _is_index(judge: object) -> TypeGuard[Index]:
    # Not a runtime protocol: isinstance would read ``ids``, which takes time in proportion to the pool.
    return hasattr(judge, "offer_many")


class _Item:
    """A row under way."""

    __slots__ = ("changed", "name", "row", "text", "verdicts")

    def __init__(self, row: Any, name: str) -> None:
        self.row = row
        self.name = name
        self.text = ""
        self.verdicts: list[Verdict] = []
        self.changed: dict[str, str] = {}

    @property
    def kept(self) -> bool:
        return not self.verdicts or self.verdicts[-1].kept

    def replace(self, column: Column, text: str) -> None:
        """Put another text into the row; the caller's own row stays as it is."""
        if isinstance(self.row, str):
            self.row = text
        elif isinstance(column, str):
            self.row = {**self.row, column: text}
            self.changed[column] = text
        else:
            raise UsageError("a text that a function takes from a row can't be redacted in it; name a column")


def _text(row: Any, column: Column, place: int) -> str:
    if callable(column):
        value = column(row)
    elif isinstance(row, str):
        value = row
    elif isinstance(row, Mapping):
        if column not in row:
            raise UsageError(f"row {place} has no {column!r}; it has {', '.join(map(str, row))}")
        value = row[column]
    else:
        raise UsageError(f"row {place} is a {type(row).__name__}; texts or mappings are expected")
    if not isinstance(value, str):
        name = repr(column) if isinstance(column, str) else "what the column's function gives"
        raise UsageError(f"row {place}: {name} is a {type(value).__name__}, not a string")
    return value


def _first(indexes: Sequence[Index]) -> int:
    """A running number that no row of an index has."""
    numbers = [int(name) for index in indexes for name in index.ids if name.isascii() and name.isdecimal()]
    return max(numbers, default=-1) + 1


def _dropped(one: _Item, place: int) -> Dropped:
    verdict = one.verdicts[-1]
    return Dropped(
        one.name,
        place,
        len(one.verdicts) - 1,
        verdict.filter,
        verdict.reason,
        verdict.score,
        verdict.nearest,
        one.text,
        verdict.detail,
    )


def _selected(dataset: Any, places: Sequence[int], changed: Mapping[int, Mapping[str, str]]) -> Any:
    kept = dataset.select(places)
    if not changed:
        return kept
    columns = sorted({name for texts in changed.values() for name in texts})

    def put(batch: Mapping[str, list[str]], rows: list[int]) -> dict[str, list[str]]:
        return {
            name: [changed.get(row, {}).get(name, text) for row, text in zip(rows, batch[name], strict=True)]
            for name in columns
        }

    return kept.map(put, with_indices=True, batched=True)


def _warn(result: Result) -> None:
    total = len(result.rows) + len(result.dropped)
    for report in result.reports.values():
        name, size = report.largest_group
        if total >= SOME and size > SHARE * total:
            warnings.warn(
                f"{size} of {total} rows were dropped for resembling row {name!r}: look whether they are a template",
                stacklevel=3,
            )

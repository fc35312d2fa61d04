"""Deduplicate a dataset through an index."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

from selfinstruct.errors import UsageError
from selfinstruct.filters.minhash.index import NearDuplicateIndex
from selfinstruct.filters.report import Drop, Report
from selfinstruct.filters.rouge.index import NoveltyIndex

__all__ = ["dedup"]

Index: TypeAlias = NoveltyIndex | NearDuplicateIndex

MARGIN = 0.1  # how far below the threshold the worst kept pairs are looked for
SHARE = 0.1  # of the data, from which on a group of near-duplicates is worth a warning
SOME = 100  # rows below which no share means anything


def dedup(
    dataset: Any, index: Index, column: str = "instruction", *, id_column: str | None = None, worst: int = 10
) -> tuple[Any, Report]:
    """Keep the rows whose text is new to an index, which then holds them.

    What the index held before counts: fit it with seeds, with another dataset, or with nothing.

    Args:
        dataset: A ``datasets.Dataset``, or a sequence of mappings. It is read once, in this process.
        column: The text to compare.
        id_column: Names of the rows; by default their running number in the index.
        worst: So many pairs of kept rows are listed that came nearest to the threshold (within 0.1, each with the
            most similar row before it). 0 saves the second pass that finds them.

    Returns:
        The kept rows, of the same kind as ``dataset``, and a report.

    Raises:
        UsageError: The dataset can't be read in this way, a text is no string, or an id occurs twice.
    """
    texts, names = _column(dataset, column), None if id_column is None else _column(dataset, id_column)
    first = len(index.ids)
    taken = index.taken
    verdicts = index.offer_many(texts, names)
    own = names or [str(taken + row) for row in range(len(texts))]
    rows = [row for row, verdict in enumerate(verdicts) if verdict.kept]
    assert len(index) == first + len(rows), (len(index), first, len(rows))
    drops = [
        Drop(own[row], row, verdict.reason, verdict.score or 0.0, verdict.nearest or "", texts[row])
        for row, verdict in enumerate(verdicts)
        if not verdict.kept
    ]
    report = Report(
        filter=index.filter,
        threshold=index.threshold,
        at_threshold=isinstance(index, NearDuplicateIndex),
        kept=tuple(own[row] for row in rows),
        rows=tuple(rows),
        dropped=tuple(drops),
        worst=_worst(index, texts, own, rows, worst) if worst else (),
    )
    name, size = report.largest_group
    if len(texts) >= SOME and size > SHARE * len(texts):
        warnings.warn(
            f"{size} of {len(texts)} rows were dropped for resembling row {name!r}: look whether they are a template",
            stacklevel=2,
        )
    return (dataset.select(rows) if hasattr(dataset, "select") else [dataset[row] for row in rows]), report


def _column(dataset: Any, column: str) -> list[str]:
    if hasattr(dataset, "column_names"):
        if not hasattr(dataset, "select") or isinstance(dataset, dict) or not hasattr(dataset, "__len__"):
            raise UsageError(f"a {type(dataset).__name__} can't be deduplicated as a whole; give one split, in memory")
        if column not in dataset.column_names:
            raise UsageError(f"no column {column!r}; there are {', '.join(dataset.column_names)}")
        values = list(dataset[column])
    elif isinstance(dataset, Sequence) and not isinstance(dataset, str):
        missing = next((row for row, values in enumerate(dataset) if column not in values), None)
        if missing is not None:
            raise UsageError(f"row {missing} has no {column!r}")
        values = [row[column] for row in dataset]
    else:
        raise UsageError(f"a datasets.Dataset or a list of mappings is expected, not a {type(dataset).__name__}")
    wrong = next((row for row, value in enumerate(values) if not isinstance(value, str)), None)
    if wrong is not None:
        raise UsageError(f"row {wrong}: {column!r} is a {type(values[wrong]).__name__}, not a string")
    return values


def _worst(
    index: Index, texts: Sequence[str], names: Sequence[str], rows: Sequence[int], count: int
) -> tuple[Drop, ...]:
    """The most similar pairs of kept rows, each row with the most similar one before it."""
    looser = index.empty(max(index.threshold - MARGIN, 0.01))
    found = looser.offer_many([texts[row] for row in rows], [str(row) for row in rows])
    pairs = [
        Drop(names[row], row, "", verdict.score, names[int(verdict.nearest)], texts[row])
        for row, verdict in zip(rows, found, strict=True)
        if verdict.score is not None and verdict.nearest is not None
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.score, pair.row))[:count])

"""Read texts from rows: from a ``datasets.Dataset``, from mappings, or from plain strings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeGuard

from selfinstruct.errors import UsageError

__all__ = ["Column", "Dataset", "column_values", "is_dataset", "text_column", "text_of_row"]

Column: TypeAlias = "str | Callable[[Any], str]"
"""Where the text of a row is: the name of its field, or a function of the row."""


class Dataset(Protocol):
    """The part of ``datasets.Dataset`` that the filters use."""

    column_names: list[str]

    def __len__(self) -> int: ...
    def __getitem__(self, column: str) -> Sequence[Any]: ...
    def select(self, indices: Sequence[int]) -> Dataset: ...
    def select_columns(self, column_names: list[str]) -> Dataset: ...
    def with_format(self, type: None) -> Dataset: ...  # noqa: A002  (the name that datasets gives it)
    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]: ...
    def map(self, function: Callable[..., dict[str, list[str]]], *, with_indices: bool, batched: bool) -> Dataset: ...


def is_dataset(data: object) -> TypeGuard[Dataset]:
    """Return whether ``data`` is a ``datasets.Dataset``, without importing ``datasets`` where nobody else has."""
    module = sys.modules.get("datasets")
    return module is not None and isinstance(data, module.Dataset)


def column_values(data: Any, column: str) -> list[Any]:
    """Return one field of every row.

    Args:
        data: A ``datasets.Dataset``, or mappings.

    Raises:
        UsageError: The dataset has no such column, or a row has no such field.
    """
    if is_dataset(data):
        if column not in data.column_names:
            raise UsageError(f"no column {column!r}; there are {', '.join(data.column_names)}")
        return list(data[column])
    rows = list(data)
    missing = next((number for number, row in enumerate(rows) if column not in row), None)
    if missing is not None:
        raise UsageError(f"row {missing} has no {column!r}")
    return [row[column] for row in rows]


def text_column(data: Any, column: str) -> list[str]:
    """Return one field of every row, and check that each value is a string.

    Raises:
        UsageError: As ``column_values``; or a value is not a string.
    """
    values = column_values(data, column)
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise UsageError(f"row {number}: {column!r} must be a string, not {type(value).__name__}")
    return values


def text_of_row(row: Any, column: Column, number: int) -> str:
    """Return the text of one row; a row that is a string is its own text.

    Args:
        number: The row's position in the data, for messages.

    Raises:
        UsageError: The row has no such text.
    """
    if callable(column):
        value = column(row)
    elif isinstance(row, str):
        value = row
    elif isinstance(row, Mapping):
        if column not in row:
            raise UsageError(f"row {number} has no {column!r}; it has {', '.join(map(str, row))}")
        value = row[column]
    else:
        raise UsageError(f"row {number} is a {type(row).__name__}; texts or mappings are expected")
    if not isinstance(value, str):
        name = repr(column) if isinstance(column, str) else "the value that the column's function returned"
        raise UsageError(f"row {number}: {name} must be a string, not {type(value).__name__}")
    return value

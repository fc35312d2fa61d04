"""Rows of a file: JSONL (gzipped or not), Parquet, a ``datasets`` directory, standard input."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from selfinstruct.errors import DataError, MissingExtraError, UsageError
from selfinstruct.files import parse_jsonl, reason
from selfinstruct.filtering.texts import Texts

__all__ = ["STDIO", "Row", "Source", "open_source"]

STDIO = "-"
BATCH = 1024  # rows of a columnar file read at once


@dataclass(slots=True)
class Row:
    """A row under way.

    Attributes:
        number: Its line, or its number, from 1.
        raw: Its line, where it came as one and is unchanged.
        origin: The Arrow table that it came in, and its place there, if it is unchanged.
    """

    number: int
    value: dict[str, Any]
    raw: bytes | None = None
    origin: tuple[Any, int] | None = None
    texts: Texts | None = None


@dataclass(frozen=True)
class Source:
    """What to read.

    Attributes:
        rows: Every row, or the ``DataError`` of a bad line; to be read once.
        where: How a message names a row, by its number.
        schema: The Arrow schema of columnar data; None for JSON.
        total: Size in ``unit``, if it is known.
        done: How much of it was read.
    """

    rows: Iterator[Row | DataError]
    where: Callable[[int], str]
    schema: Any = None
    total: int | None = None
    unit: Literal["bytes", "rows"] = "bytes"
    done: Callable[[], int] = lambda: 0


def open_source(name: str) -> Source:
    """Open a file by its kind: a directory, ``.parquet``, else JSON lines.

    Raises:
        UsageError: There is no such file, or it is of another kind.
        MissingExtraError: Its kind needs the extra ``data``.
    """
    if name == STDIO:
        return _lines(sys.stdin.buffer, "stdin", None)
    path = Path(name)
    try:
        if path.is_dir():
            return _dataset(path)
        if path.suffix == ".parquet":
            return _parquet(path)
        return _lines(path.open("rb"), name, path.stat().st_size)
    except OSError as error:
        raise UsageError(f"can't read {path}: {reason(error)}") from None


def _lines(file: Any, name: str, size: int | None) -> Source:
    head = file.peek(2)
    if head.lstrip()[:1] == b"[":
        raise UsageError(f"{name} is a JSON array; give one object a line, as by: jq -c '.[]' {name}")
    zipped = head[:2] == b"\x1f\x8b"

    def rows() -> Iterator[Row | DataError]:
        number = 0
        lines: IO[bytes] = io.BufferedReader(gzip.GzipFile(fileobj=file)) if zipped else file
        try:
            for number, raw, value in parse_jsonl(lines, name):
                yield value if isinstance(value, DataError) else Row(number, value, raw.rstrip(b"\r\n"))
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise UsageError(f"{name} is damaged after line {number}: its gzip stream is cut or wrong") from None
        except OSError as error:
            raise UsageError(f"can't read {name}: {reason(error)}") from None
        finally:
            if size is not None:
                file.close()

    def done() -> int:
        return 0 if size is None or file.closed else file.tell()

    return Source(rows(), lambda number: f"{name}:{number}", total=size, done=done)


def _parquet(path: Path) -> Source:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException:
        raise UsageError(f"{path} is no Parquet file") from None

    def tables() -> Iterator[Any]:
        try:
            for batch in file.iter_batches(batch_size=BATCH):
                yield pyarrow.Table.from_batches([batch])
        except (pyarrow.ArrowException, OSError) as error:
            raise UsageError(f"can't read {path}: {_first_line(error)}") from None

    return _columnar(tables(), str(path), file.schema_arrow, file.metadata.num_rows)


def _dataset(path: Path) -> Source:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "data") from None
    try:
        found = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is no datasets directory ({_first_line(error)})") from None
    if not isinstance(found, datasets.Dataset):
        splits = ", ".join(str(path / name) for name in found)
        raise UsageError(f"{path} holds several splits; give one: {splits}")
    schema = found.features.arrow_schema
    tables = found.with_format("arrow").iter(batch_size=BATCH)
    return _columnar((table.cast(schema) for table in tables), str(path), schema, len(found))


def _columnar(tables: Iterator[Any], name: str, schema: Any, total: int) -> Source:
    number = 0

    def rows() -> Iterator[Row | DataError]:
        nonlocal number
        for table in tables:
            for place, value in enumerate(table.to_pylist()):
                number += 1
                yield Row(number, value, origin=(table, place))

    return Source(rows(), lambda row: f"{name}: row {row}", schema, total, "rows", lambda: number)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Readers of row files: JSONL (optionally gzipped), Parquet, ``datasets`` directories and standard input.

``open_any`` also reads a run's dataset and a JSON array, ``open_lines`` plain text.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from selfinstruct.common.codec import loads
from selfinstruct.common.files import describe_os_error, first_line, parse_jsonl
from selfinstruct.common.rows import RowTexts
from selfinstruct.errors import DataError, MissingExtraError, UsageError

__all__ = ["STDIO", "Source", "SourceRow", "open_any", "open_lines", "open_source"]

STDIO = "-"
BATCH = 1024  # rows that are read from a columnar file at once


@dataclass(slots=True)
class SourceRow:
    """A row and its origin.

    Attributes:
        number: Line number or row number, from 1.
        raw: The bytes of its line, if the row came from a line and is unchanged.
        origin: The Arrow table that holds the row and its index there, if the row is unchanged.
    """

    number: int
    value: dict[str, Any]
    raw: bytes | None = None
    origin: tuple[Any, int] | None = None
    texts: RowTexts | None = None


@dataclass(frozen=True)
class Source:
    """An open file of rows.

    Attributes:
        rows: Iterator over the rows, with a ``DataError`` in place of each invalid line.
        where: Returns the location of a row for messages, given its number.
        schema: The Arrow schema of columnar data; None for JSON.
        total: Size in ``unit``, if known.
        done: Returns how much was read so far, in ``unit``.
    """

    rows: Iterator[SourceRow | DataError]
    where: Callable[[int], str]
    schema: Any = None
    total: int | None = None
    unit: Literal["bytes", "rows"] = "bytes"
    done: Callable[[], int] = lambda: 0


def open_source(name: str) -> Source:
    """Open a ``datasets`` directory, a ``.parquet`` file, or JSON lines.

    Raises:
        UsageError: The file does not exist, or has another format.
        MissingExtraError: The format needs the extra ``data``.
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
        raise UsageError(f"can't read {path}: {describe_os_error(error)}") from None


def open_any(path: Path) -> Source:
    """Open what ``open_source`` opens, a run directory or its ``dataset`` folder, or a JSON array in a ``.json`` file.

    Raises:
        UsageError: The file does not exist, has another format, or the run has no dataset.
        DataError: The JSON array is invalid.
        MissingExtraError: The format needs the extra ``data``.
    """
    if path.is_dir():
        if (dataset := _of_run(path)) is not None:
            return open_source(str(dataset))
        if not any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            raise UsageError(f"{path} is neither a run of selfinstruct nor a datasets directory; give a file in it")
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    if path.suffix == ".json" and (source := _array(path)) is not None:
        return source
    return open_source(str(path))


def _of_run(path: Path) -> Path | None:
    """Return the dataset file of a run, or of a run's ``dataset`` folder; None for any other folder."""
    for layout in ("alpaca", "messages"):  # conversations can't be exported as Alpaca rows
        for dataset in (path / "dataset" / f"{layout}.jsonl", path / f"{layout}.jsonl"):
            if dataset.is_file():
                return dataset
    if (path / "run.sqlite").exists() or (path / "dataset").is_dir():
        raise UsageError(
            f"{path} has no dataset/alpaca.jsonl or messages.jsonl; write it by: selfinstruct export {path}"
        )
    return None


def open_lines(path: Path) -> Source:
    """Open a text file (optionally gzipped) as one row with a ``text`` for each line that isn't blank.

    Raises:
        UsageError: The file can't be read.
    """

    def parse(lines: Iterable[bytes], name: object) -> Iterator[tuple[int, bytes, Any]]:
        for number, raw in enumerate(lines, start=1):
            try:
                text = (raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).decode("utf-8").strip()
            except UnicodeDecodeError as error:
                yield number, raw, DataError(f"{name}:{number}: not UTF-8 at byte {error.start}")
                continue
            if text:
                yield number, raw, {"text": text}

    try:
        return _lines(path.open("rb"), str(path), path.stat().st_size, parse)
    except OSError as error:
        raise UsageError(f"can't read {path}: {describe_os_error(error)}") from None


_Parse = Callable[[Iterable[bytes], object], Iterator[tuple[int, bytes, Any]]]


def _lines(file: Any, name: str, size: int | None, parse: _Parse = parse_jsonl) -> Source:
    head = file.peek(2)
    if parse is parse_jsonl and head.lstrip()[:1] == b"[":
        raise UsageError(f"{name} is a JSON array; give one object a line, as by: jq -c '.[]' {name}")
    compressed = head[:2] == b"\x1f\x8b"

    def rows() -> Iterator[SourceRow | DataError]:
        number = 0
        lines: IO[bytes] = io.BufferedReader(gzip.GzipFile(fileobj=file)) if compressed else file
        try:
            for number, raw, value in parse(lines, name):
                yield value if isinstance(value, DataError) else SourceRow(number, value, raw.rstrip(b"\r\n"))
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise UsageError(f"{name} is damaged after line {number}: its gzip stream is cut or wrong") from None
        except OSError as error:
            raise UsageError(f"can't read {name}: {describe_os_error(error)}") from None
        finally:
            if size is not None:
                file.close()

    def done() -> int:
        return 0 if size is None or file.closed else file.tell()

    return Source(rows(), lambda number: f"{name}:{number}", total=size, done=done)


def _array(path: Path) -> Source | None:
    """Open a JSON array of rows; return None if the file holds JSON lines."""
    try:
        content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise UsageError(f"can't read {path}: {describe_os_error(error)}") from None
    if content.lstrip()[:1] != b"[":
        return None
    try:
        values = loads(content)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None

    def where(number: int) -> str:
        return f"{path}: row {number}"

    def rows() -> Iterator[SourceRow | DataError]:
        for number, value in enumerate(values, start=1):
            is_row = isinstance(value, dict)
            yield (
                SourceRow(number, value)
                if is_row
                else DataError(f"{where(number)}: a JSON object is expected, found {type(value).__name__}")
            )

    return Source(rows(), where, total=len(values), unit="rows")


def _parquet(path: Path) -> Source:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException:
        raise UsageError(f"can't read {path}: it is not a Parquet file") from None

    def tables() -> Iterator[Any]:
        try:
            for batch in file.iter_batches(batch_size=BATCH):
                yield pyarrow.Table.from_batches([batch])
        except (pyarrow.ArrowException, OSError) as error:
            raise UsageError(f"can't read {path}: {first_line(error)}") from None

    return _columnar(tables(), str(path), file.schema_arrow, file.metadata.num_rows)


def _dataset(path: Path) -> Source:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "data") from None
    try:
        dataset = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is not a datasets directory ({first_line(error)})") from None
    if not isinstance(dataset, datasets.Dataset):
        splits = ", ".join(str(path / name) for name in dataset)
        raise UsageError(f"{path} holds several splits; give one: {splits}")
    schema = dataset.features.arrow_schema
    tables = dataset.with_format("arrow").iter(batch_size=BATCH)
    return _columnar((table.cast(schema) for table in tables), str(path), schema, len(dataset))


def _columnar(tables: Iterator[Any], name: str, schema: Any, total: int) -> Source:
    number = 0

    def rows() -> Iterator[SourceRow | DataError]:
        nonlocal number
        for table in tables:
            for index, value in enumerate(table.to_pylist()):
                number += 1
                yield SourceRow(number, value, origin=(table, index))

    return Source(rows(), lambda row: f"{name}: row {row}", schema, total, "rows", lambda: number)

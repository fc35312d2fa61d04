"""The reader of row files, for every command: text or columns, compressed or not, one file, a folder, or a run.

The content decides about the format, and the ending only where the content can't: JSON lines, a JSON array, JSON
objects one after the other, CSV, plain text, Parquet, Arrow, a ``datasets`` directory, and standard input.
"""

from __future__ import annotations

import io
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from selfinstruct.common.codec import loads
from selfinstruct.common.file_kinds import HEAD, describe_undecodable, refuse_unreadable
from selfinstruct.common.files import describe_os_error, first_line, parse_jsonl
from selfinstruct.common.row_texts import RowTexts
from selfinstruct.common.streams import DAMAGES, decompress, parse_csv, parse_elements, utf8_lines
from selfinstruct.errors import DataError, MissingExtraError, UsageError

__all__ = ["STDIO", "Source", "SourceRow", "open_rows"]

STDIO = "-"
BATCH = 1024  # rows that are read from a columnar file at once

_COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_DATA_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_SPLITS = ("train", "test", "validation", "valid", "dev")


@dataclass(slots=True)
class SourceRow:
    """A row and its origin.

    Attributes:
        number: Line number or row number, from 1.
        raw: The bytes of its line, if the row came from a line of JSON and is unchanged.
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
        schema: The Arrow schema of columnar data; None for text.
        total: Size in ``unit``, if known.
        done: Returns how much was read so far, in ``unit``.
    """

    rows: Iterator[SourceRow | DataError]
    where: Callable[[int], str]
    schema: Any = None
    total: int | None = None
    unit: Literal["bytes", "rows"] = "bytes"
    done: Callable[[], int] = lambda: 0


def open_rows(name: str | Path) -> Source:
    """Open a file of rows, a folder of such files, a ``datasets`` directory, a run or its ``dataset`` folder, or ``-``.

    Raises:
        UsageError: There is no such file, it holds no rows, or a run has no dataset; the message has the remedy.
        DataError: A JSON array is invalid.
        MissingExtraError: The format needs the extra ``data``.
    """
    if str(name) == STDIO:
        return _stream(open(sys.stdin.fileno(), "rb", closefd=False), "stdin", None)
    path = Path(name)
    try:
        if path.is_dir():
            return _directory(path)
        if path.suffix.lower() in _COLUMNAR:
            return _COLUMNAR[path.suffix.lower()](path)
        file = path.open("rb")
        for magic, open_columns in ((b"PAR1", _parquet), (b"ARROW1", _arrow)):
            if file.peek(8).startswith(magic):
                file.close()
                return open_columns(path)
        return _stream(file, str(path), path.stat().st_size)
    except OSError as error:
        raise UsageError(f"can't read {path}: {describe_os_error(error)}") from None


def _directory(path: Path) -> Source:
    if (dataset := _of_run(path)) is not None:
        return open_rows(dataset)
    if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json", "state.json")):
        return _dataset(path)
    files = sorted(file for file in path.iterdir() if file.is_file() and _ending(file) in _DATA_ENDINGS)
    if any(_ending(file) != ".json" for file in files):  # a .json file among others describes them
        files = [file for file in files if _ending(file) != ".json"]
    kinds = {_ending(file) for file in files}
    splits = {split for split in _SPLITS for file in files if file.name.lower().startswith(split)}
    if not files:
        raise UsageError(
            f"{path} is neither a run of selfinstruct nor a datasets directory, and it holds no file of rows "
            f"({', '.join(_DATA_ENDINGS)}); give a file in it"
        )
    if len(kinds) > 1 or len(splits) > 1:
        raise UsageError(f"{path} holds {' and '.join(sorted(kinds if len(kinds) > 1 else splits))} files; give one")
    return _chained([open_rows(file) for file in files])


def _ending(path: Path) -> str:
    """Return the ending of a file's name in lower case, without the ending of a compression."""
    name = path.name.lower()
    for ending in _COMPRESSED_ENDINGS:
        name = name.removesuffix(ending)
    return Path(name).suffix


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


@dataclass(slots=True)
class _Chain:
    """Several sources as one, whose rows are numbered throughout."""

    sources: list[Source]
    offsets: list[int] = field(default_factory=list)

    def rows(self) -> Iterator[SourceRow | DataError]:
        last = 0
        for source in self.sources:
            offset = last
            self.offsets.append(offset)
            for row in source.rows:
                if isinstance(row, SourceRow):
                    row.number = last = offset + row.number
                yield row

    def where(self, number: int) -> str:
        index = bisect_right(self.offsets, number - 1) - 1
        return self.sources[index].where(number - self.offsets[index])


def _chained(sources: list[Source]) -> Source:
    if len(sources) == 1:
        return sources[0]
    schemas = [source.schema for source in sources]
    schema = schemas[0] if all(each is not None and each.equals(schemas[0]) for each in schemas) else None
    chained = _Chain(sources)
    total = None if any(each.total is None for each in sources) else sum(each.total or 0 for each in sources)
    return Source(chained.rows(), chained.where, schema, total, sources[0].unit,
                  lambda: sum(source.done() for source in sources))  # fmt: skip


def _stream(file: io.BufferedReader, name: str, size: int | None) -> Source:
    """Open a text file or standard input."""
    number, compression = 0, ""

    def rows() -> Iterator[SourceRow | DataError]:
        nonlocal number
        try:
            for row in text_rows:
                number = row.number if isinstance(row, SourceRow) else number
                yield row
        except (*DAMAGES, OSError) as error:
            if compression:
                raise _damaged(name, number, compression) from None
            raise UsageError(f"can't read {name}: {first_line(error)}") from None
        finally:
            if size is not None:
                file.close()

    try:
        stream, compression = decompress(file, name)
        refuse_unreadable(stream.peek(HEAD)[:HEAD], name, compression, _ending(Path(name)))
        text_rows, by_line = _text_rows(stream, name)
    except (*DAMAGES, OSError, UsageError) as error:
        if size is not None:
            file.close()
        if not compression or isinstance(error, UsageError):
            raise
        raise _damaged(name, 0, compression) from None
    return Source(
        rows(),
        lambda number: f"{name}:{number}" if by_line else f"{name}: row {number}",
        total=size,
        done=lambda: 0 if size is None or file.closed else file.tell(),
    )


def _damaged(name: str, number: int, compression: str) -> UsageError:
    return UsageError(f"{name} is damaged after line {number}: its {compression} stream is cut or wrong")


def _text_rows(stream: io.BufferedReader, name: str) -> tuple[Iterator[SourceRow | DataError], bool]:
    """Return the rows of a text file, and whether their numbers are lines."""
    lines = iter(utf8_lines(stream, name))
    ending = _ending(Path(name))
    if ending in (".csv", ".tsv"):
        records = parse_csv(lines, name, "\t" if ending == ".tsv" else None)
        return (value if isinstance(value, DataError) else SourceRow(line, value) for line, value in records), True
    head: list[bytes] = []  # up to the second line that isn't blank, which shows how objects are separated
    for line in lines:
        head.append(line)
        if sum(bool(each.strip()) for each in head) == 2:
            break
    lines = chain(head, lines)
    start = [text for line in head if (text := line.removeprefix(b"\xef\xbb\xbf").strip())]
    if ending == ".txt" and not (start and _is_object(start[0])):
        return _plain_lines(lines, name), True
    if start and (start[0][:1] == b"[" or _is_concatenated(start)):
        return _elements(lines, name), False
    return (
        value if isinstance(value, DataError) else SourceRow(number, value, raw.rstrip(b"\r\n"))
        for number, raw, value in parse_jsonl(lines, name)
    ), True


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(loads(line), dict)
    except ValueError:
        return False


def _is_concatenated(start: list[bytes]) -> bool:
    """Return whether JSON objects span lines or share them, judging by the first two lines that aren't blank."""
    if start[0][:1] != b"{" or _is_object(start[0]):
        return False
    if len(start) > 1 and start[1][:1] in (b'"', b"}"):
        return True
    try:
        loads(start[0])
    except ValueError as error:
        return "Extra data" in str(error) and b"}" in start[0][:-1]
    return False


def _elements(lines: Iterable[bytes], name: str) -> Iterator[SourceRow | DataError]:
    """Yield the objects of a JSON array, or JSON objects that span lines or share them."""
    try:
        text = b"".join(lines).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: {describe_undecodable(error)}") from None
    for number, raw, value in parse_elements(text, lambda number: f"{name}: row {number}"):
        yield value if isinstance(value, DataError) else SourceRow(number, value, raw)


def _plain_lines(lines: Iterable[bytes], name: str) -> Iterator[SourceRow | DataError]:
    """Yield one row with a ``text`` for each line that isn't blank."""
    for number, raw in enumerate(lines, start=1):
        try:
            text = (raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).decode("utf-8").strip()
        except UnicodeDecodeError as error:
            yield DataError(f"{name}:{number}: {describe_undecodable(error)}")
            continue
        if text:
            yield SourceRow(number, {"text": text})


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


def _arrow(path: Path) -> Source:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    try:
        is_file = path.read_bytes()[:6] == b"ARROW1"
        source = pyarrow.memory_map(str(path))
        table = (pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"can't read {path}: it is not an Arrow file ({first_line(error)})") from None
    return _columnar(
        (table.slice(start, BATCH) for start in range(0, len(table), BATCH)), str(path), table.schema, len(table)
    )


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
            for index, value in enumerate(_values(table)):
                number += 1
                if isinstance(value, DataError):
                    yield DataError(f"{name}: row {number}: {value}")
                else:
                    yield SourceRow(number, value, origin=(table, index))

    return Source(rows(), lambda row: f"{name}: row {row}", schema, total, "rows", lambda: number)


def _values(table: Any) -> Iterator[dict[str, Any] | DataError]:
    """Yield the rows of a table as Python values, an error in place of a row that has none (a date after 9999, say)."""
    try:
        yield from table.to_pylist()
    except (ValueError, OverflowError):  # no row was yielded yet
        for index in range(len(table)):
            try:
                (value,) = table.slice(index, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                value = DataError(first_line(error))
            yield value


_COLUMNAR: dict[str, Callable[[Path], Source]] = {".parquet": _parquet, ".arrow": _arrow}

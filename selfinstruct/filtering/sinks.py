"""Write rows to JSONL, gzipped JSONL, Parquet, a ``datasets`` directory or standard output, chosen by the name.

A file appears only once it is complete. Unchanged rows keep their bytes (JSON to JSON) or their Arrow values.
"""

from __future__ import annotations

import base64
import datetime
import io
import math
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import describe_os_error, first_line, write_atomic
from selfinstruct.common.sources import STDIO, SourceRow
from selfinstruct.errors import DataError, MissingExtraError, SelfInstructError, UsageError

__all__ = ["check_sink", "with_score_columns", "write_rows"]

GROUP = 8192  # rows of a Parquet row group, and of an Arrow batch


def check_sink(name: str) -> str:
    """Return the format of an output: ``stdout``, ``jsonl``, ``gzip``, ``parquet`` or ``datasets``.

    Raises:
        UsageError: The name does not imply a format, or an existing path cannot be replaced.
        MissingExtraError: The format needs the extra ``data``.
    """
    if name == STDIO:
        return "stdout"
    path = Path(name)
    endings = {".jsonl": "jsonl", ".json": "jsonl", ".gz": "gzip", ".parquet": "parquet", "": "datasets"}
    kind = "datasets" if name.endswith("/") else endings.get(path.suffix.lower())
    if kind is None:
        raise UsageError(
            f"{name}: the ending implies no format; use .jsonl, .jsonl.gz or .parquet, or / for a datasets directory"
        )
    if kind == "datasets" and path.exists():
        raise UsageError(f"{path} exists already; a datasets directory is not replaced: remove it or use another name")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file")
    if kind in ("parquet", "datasets"):
        try:
            import pyarrow  # noqa: F401  (fails before the work, not after it)

            if kind == "datasets":
                import datasets  # noqa: F401
        except ImportError:
            raise MissingExtraError(kind if kind == "datasets" else "pyarrow", "data") from None
    return kind


def with_score_columns(schema: Any, names: Iterable[str]) -> Any:
    """Return an Arrow schema with columns of scores, which replace columns of the same name; None stays None."""
    for name in names if schema is not None else ():
        import pyarrow

        field = pyarrow.field(name, pyarrow.float64())
        index = schema.get_field_index(name)
        schema = schema.append(field) if index < 0 else schema.set(index, field)
    return schema


def write_rows(name: str, rows: Iterator[SourceRow], schema: Any = None) -> list[str]:
    """Write rows as they arrive.

    JSON has neither bytes nor NaN nor dates: bytes are written as base64, NaN and infinities as null, and dates,
    decimals and durations as text.

    Args:
        name: Path of the output, or ``-``; see ``check_sink``.
        rows: The rows.
        schema: The Arrow schema of the source, if it has one.

    Returns:
        A notice for each field whose values were converted for JSON.

    Raises:
        DataError: A row cannot be written in this format.
        SelfInstructError: The file cannot be written; an existing one is left unchanged.
    """
    kind, path, encoder = check_sink(name), Path(name), _JsonLines()
    if kind == "stdout":
        for row in rows:
            sys.stdout.buffer.write(encoder.line(row))
        sys.stdout.buffer.flush()
    elif kind == "jsonl":
        write_atomic(path, map(encoder.line, rows))
    elif kind == "gzip":
        write_atomic(path, _zipped(map(encoder.line, rows)))
    elif kind == "parquet":
        write_atomic(path, _parquet(rows, schema, encoder))
    else:
        _write_dataset(path, rows, schema, encoder)
    return encoder.notices()


@dataclass(slots=True)
class _JsonLines:
    """Writes rows as lines of JSON, and counts the values that JSON can't hold by field and kind."""

    converted: Counter[tuple[str, str]] = field(default_factory=Counter)

    def line(self, row: SourceRow) -> bytes:
        """Return a row as a line.

        Raises:
            DataError: A text holds a lone surrogate, which UTF-8 can't encode.
        """
        if row.raw is not None:
            return row.raw + b"\n"
        try:
            return dumps({name: self._plain(name, value) for name, value in row.value.items()}).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise DataError(f"row {row.number} can't be written as JSON: {error}; write Parquet instead") from None

    def notices(self) -> list[str]:
        """Return one line for each field and kind of conversion."""
        return [
            f"{name!r}: {count:,} {'value' if count == 1 else 'values'} ({kind})"
            for (name, kind), count in self.converted.items()
        ]

    def _plain(self, name: str, value: Any) -> Any:
        if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, dict):
            return {str(key): self._plain(name, item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(name, item) for item in value]
        if isinstance(value, float):
            self.converted[name, "NaN or infinite, written as null"] += 1
            return None
        if isinstance(value, bytes):
            self.converted[name, "bytes, written as base64"] += 1
            return base64.b64encode(value).decode()
        is_time = isinstance(value, datetime.date | datetime.time)
        return value.isoformat() if is_time else str(value)  # decimals, durations and UUIDs


def _zipped(lines: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(wbits=31)  # gzip, without a time in its header
    for line in lines:
        yield compressor.compress(line)
    yield compressor.flush()


def _tables(rows: Iterator[SourceRow], schema: Any, encoder: _JsonLines) -> Iterator[Any]:
    """Yield the schema, then the rows as Arrow tables with this schema."""
    import pyarrow

    if schema is None:
        with tempfile.TemporaryFile() as spool:
            schema = _spooled(rows, spool, encoder)
            yield schema
            spool.seek(0)
            while lines := list(islice(spool, GROUP)):
                yield pyarrow.Table.from_pylist([loads(line) for line in lines], schema=schema)
        return
    yield schema
    while group := list(islice(rows, GROUP)):
        parts = []
        for table, run in groupby(group, key=lambda row: row.origin[0] if row.origin else None):
            if table is None:
                parts.append(pyarrow.Table.from_pylist([row.value for row in run], schema=schema))
            else:
                parts.append(table.take([row.origin[1] for row in run if row.origin]))
        yield pyarrow.concat_tables(parts)


def _spooled(rows: Iterator[SourceRow], spool: Any, encoder: _JsonLines) -> Any:
    """Write JSON rows to a temporary file and return the schema that fits all of them, up to the last row."""
    import pyarrow

    schema = pyarrow.schema([])
    while group := list(islice(rows, GROUP)):
        spool.writelines(map(encoder.line, group))
        names = dict.fromkeys(name for row in group for name in row.value)
        for name in names:
            try:
                column = pyarrow.array([row.value.get(name) for row in group])
                field = pyarrow.schema([(name, column.type)])
                schema = pyarrow.unify_schemas([schema, field], promote_options="permissive")
            except (pyarrow.ArrowException, OverflowError) as error:
                raise DataError(
                    f"field {name!r} fits no column of one type ({first_line(error)}); write JSONL instead"
                ) from None
    return schema


class _Buffer(io.RawIOBase):
    """A buffer for a writer, emptied piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._size += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._size

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _parquet(rows: Iterator[SourceRow], schema: Any, encoder: _JsonLines) -> Iterator[bytes]:
    import pyarrow.parquet

    tables, buffer = _tables(rows, schema, encoder), _Buffer()
    with pyarrow.parquet.ParquetWriter(buffer, next(tables)) as writer:
        for table in tables:
            writer.write_table(table)
            yield buffer.take()
    yield buffer.take()


def _write_dataset(path: Path, rows: Iterator[SourceRow], schema: Any, encoder: _JsonLines) -> None:
    import datasets
    import pyarrow

    folder = ""
    shown = not datasets.are_progress_bars_disabled()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        tables, rough, fine = _tables(rows, schema, encoder), f"{folder}/rows.arrow", f"{folder}/dataset"
        schema = next(tables)
        with pyarrow.OSFile(rough, "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
            for table in tables:
                writer.write_table(table)
        datasets.disable_progress_bars()
        datasets.Dataset.from_file(rough).save_to_disk(fine)
        Path(fine).rename(path)
    except OSError as error:
        raise SelfInstructError(f"can't write {path}: {describe_os_error(error)}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()
        if folder:
            with suppress(OSError):
                shutil.rmtree(folder)

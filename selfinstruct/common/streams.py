"""Text of row files: decompression, encodings, and the elements of JSON arrays, concatenated JSON and CSV."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import IO, Any

from selfinstruct.common.codec import loads
from selfinstruct.common.file_kinds import describe_undecodable
from selfinstruct.errors import DataError, MissingExtraError, UsageError

__all__ = ["DAMAGES", "decompress", "parse_csv", "parse_elements", "utf8_lines"]

DAMAGES = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
"""Errors of a compressed file that is cut or wrong; bz2 and pyarrow raise an ``OSError`` instead."""

_SPACE = " \t\r\n"
_DELIMITERS = ",;\t|"


def decompress(file: io.BufferedReader, name: str) -> tuple[io.BufferedReader, str]:
    """Return a file's decompressed stream, recognised by its first bytes, and the name of the compression ("" if none).

    Raises:
        MissingExtraError: The compression needs the extra ``data``.
    """
    head = file.peek(8)[:8]
    for magic, (kind, open_stream) in _COMPRESSIONS.items():
        if head.startswith(magic):
            try:
                return io.BufferedReader(open_stream(file)), kind
            except ImportError:
                raise MissingExtraError(f"{name} is compressed by {kind}: pyarrow, which reads it,", "data") from None
    return file, ""


def _arrow_stream(codec: str) -> Callable[[IO[bytes]], Any]:
    def open_stream(file: IO[bytes]) -> Any:
        import pyarrow

        return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), codec)

    return open_stream


_COMPRESSIONS: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bz2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
    b"\x28\xb5\x2f\xfd": ("zstd", _arrow_stream("zstd")),
    b"\x04\x22\x4d\x18": ("lz4", _arrow_stream("lz4")),
}


def utf8_lines(file: io.BufferedReader, name: str) -> Iterable[bytes]:
    """Return the lines of a stream in UTF-8; UTF-16 and UTF-32 are recognised by their mark or their zero bytes."""
    encoding = _encoding(file.peek(4)[:4])
    return file if encoding is None else _transcoded(file, encoding, name)


def _encoding(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if len(head) == 4 and head[1] == head[3] == 0 and head[0] and head[2]:
        return "utf-16-le"
    return "utf-16-be" if len(head) == 4 and head[0] == head[2] == 0 and head[1] and head[3] else None


def _transcoded(file: IO[bytes], encoding: str, name: str) -> Iterator[bytes]:
    text = io.TextIOWrapper(file, encoding=encoding, newline="\n")
    try:
        for line in text:
            yield line.encode()
    except UnicodeError as error:
        raise UsageError(f"{name}: not {encoding.upper()}: {error}") from None
    finally:
        text.detach()  # the file belongs to the caller


def parse_elements(text: str, where: Callable[[int], str]) -> Iterator[tuple[int, bytes | None, Any]]:
    """Yield number, bytes and value of each element of a JSON array, or of JSON objects one after the other.

    The value is a ``DataError`` for an element that is not an object in strict JSON; its bytes are None if it spans
    several lines.

    Raises:
        DataError: The syntax is wrong, so that the rest of the text can't be read.
    """
    decoder, number = json.JSONDecoder(), 0
    is_array = text.lstrip(_SPACE)[:1] == "["
    position = text.index("[") + 1 if is_array else 0
    while True:
        position = _skip(text, position)
        if position == len(text) or (is_array and text[position] == "]"):
            break
        number += 1
        try:
            _, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
            line = text.count("\n", 0, position) + 1
            raise DataError(
                f"{where(number)} (line {line}): not JSON: {reason}; the file can't be read from here"
            ) from None
        yield number, *_element(text[position:end], where(number))
        position = _skip(text, end)
        if is_array and text[position : position + 1] == ",":
            position += 1
        elif is_array and text[position : position + 1] != "]":
            raise DataError(f"{where(number)}: not JSON: the array is not continued or closed after this row")
    if is_array and (position == len(text) or text[position + 1 :].strip(_SPACE)):
        ending = "it does not end" if position == len(text) else "text follows it"
        raise DataError(f"{where(number)}: not JSON: the array is damaged, {ending} after this row")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _element(text: str, where: str) -> tuple[bytes | None, Any]:
    try:
        value = loads(text)
    except ValueError as error:
        return None, DataError(f"{where}: {error}")
    if not isinstance(value, dict):
        return None, DataError(f"{where}: a JSON object is expected, found {type(value).__name__}")
    return (None if "\n" in text or "\r" in text else text.encode()), value


def parse_csv(lines: Iterable[bytes], name: str, delimiter: str | None) -> Iterator[tuple[int, Any]]:
    """Yield line number and row of each record of a CSV file, a ``DataError`` in place of a wrong one.

    Args:
        lines: The file, with a header.
        name: The file's name, for messages.
        delimiter: The delimiter; None takes the most frequent candidate of the header.

    Raises:
        UsageError: The header is unusable, or the file is not UTF-8.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default of 131,072 characters is less than long answers
    texts = _decoded(lines, name)
    first = next(texts, "")
    delimiter = delimiter or max(_DELIMITERS, key=first.count)
    reader = csv.reader(chain([first], texts), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, DataError(f"{name}:{number}: not CSV: {error}")
            continue
        if not record:
            continue
        if header is None:
            header = [column.strip() for column in record]
            if "" in header or len(set(header)) < len(header):
                raise UsageError(f"{name}:{number}: the header must name each column once")
        elif len(record) != len(header):
            fields = f"{len(record)} field{'' if len(record) == 1 else 's'}"
            yield number, DataError(f"{name}:{number}: {fields}, and the header names {len(header)}")
        else:
            yield number, dict(zip(header, record, strict=True))


def _decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{name}:{number}: {describe_undecodable(error)}") from None

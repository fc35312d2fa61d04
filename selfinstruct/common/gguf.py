"""Checks of a GGUF file before it is loaded, and its metadata.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.files import describe_os_error
from selfinstruct.errors import UsageError

__all__ = ["Header", "ModelFileError", "array_bounds", "chat_template", "check"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_WIDTH = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each scalar value type
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 32  # of the tensors, unless the file names another
_MAX_COUNT = 1 << 24  # entries; more than any model has, and few enough to iterate over


class ModelFileError(UsageError):
    """A model file is missing, unreadable, truncated or has another format."""


@dataclass(frozen=True)
class Header:
    """The metadata of a GGUF file.

    Attributes:
        texts: Values of the string keys, such as ``general.architecture``.
        numbers: Values of the boolean and 32-bit unsigned keys, such as token ids.
        arrays: Byte offset of each array of strings (of its element count), by key.
        tensors: Names of all tensors.
    """

    texts: dict[str, str]
    numbers: dict[str, int]
    arrays: dict[str, int]
    tensors: frozenset[str]


def check(path: Path) -> Header:
    """Check that a file can be loaded, and return its header; llama.cpp itself reports only that loading failed.

    Parses the header (keys and tensor table, tens of milliseconds) and compares the offset of the last tensor with the
    length of the file. No weights are read.

    Raises:
        ModelFileError: The file is missing, a directory, unreadable, not GGUF, of an unknown version, or truncated.
    """
    try:  # includes the checks of the path, which raise for a name that is too long or an inaccessible folder
        if not path.exists():
            raise ModelFileError(f"{path}: no such file")
        if path.is_dir():
            raise ModelFileError(f"{path}: is a directory; name the .gguf file in it")
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != _MAGIC:
                raise ModelFileError(f"{path}: not a GGUF model ({_looks_like(magic)})")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _walk(path, view)
    except OSError as error:
        raise ModelFileError(f"{path}: {describe_os_error(error)}") from None
    except (struct.error, IndexError):
        raise ModelFileError(f"{path}: truncated in its header ({path.stat().st_size} bytes): fetch it again") from None


def chat_template(path: Path) -> ChatTemplate | None:
    """Return the model's chat template, or None if the file has no template.

    llama.cpp adds the BOS token itself unless the file forbids it, so the template writes the token only in that case.

    Raises:
        ModelFileError: See ``check``.
    """
    header = check(path)
    source = header.texts.get("tokenizer.chat_template")
    if not source:
        return None
    adds_bos = header.numbers.get("tokenizer.ggml.add_bos_token", 1)
    token_ids = {name: header.numbers.get(f"tokenizer.ggml.{name}_token_id", -1) for name in ("bos", "eos")}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        tokens = _elements(view, header.arrays.get("tokenizer.ggml.tokens"), set(token_ids.values()))
    return ChatTemplate(source, "" if adds_bos else tokens.get(token_ids["bos"], ""), tokens.get(token_ids["eos"], ""))


def _elements(view: mmap.mmap, at: int | None, indices: set[int]) -> dict[int, str]:
    """Return the elements of an array of strings at the given indices, omitting indices beyond its end."""
    if at is None:
        return {}
    (count,) = struct.unpack_from("<Q", view, at)
    at, elements = at + 8, {}
    for index in range(min(count, max(indices) + 1)):
        start, at = at + 8, _after_string(view, at)
        if index in indices:
            elements[index] = view[start:at].decode("utf-8", "replace")
    return elements


def _looks_like(magic: bytes) -> str:
    if not magic:
        return "it is empty"
    if magic[::-1] == _MAGIC:
        return "a big-endian GGUF file"
    if magic[:2] == b"PK" or magic[:1] == b"\x80":
        return "PyTorch weights?"
    if magic.lstrip()[:1] in (b"<", b"{", b"v"):
        return "text: a web page, or a pointer of Git LFS?"
    return f"it begins with {magic!r}"


def _walk(path: Path, view: mmap.mmap) -> Header:
    (version,) = struct.unpack_from("<I", view, 4)
    if version not in _VERSIONS:
        raise ModelFileError(f"{path}: GGUF version {version}; versions 2 and 3 are known")
    tensors, keys = struct.unpack_from("<QQ", view, 8)
    if max(tensors, keys) > _MAX_COUNT:
        raise ModelFileError(f"{path}: a damaged header ({tensors} tensors, {keys} keys): fetch it again")
    at = 24
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    arrays: dict[str, int] = {}
    for _ in range(keys):
        start, at = at + 8, _after_string(view, at)
        (kind,) = struct.unpack_from("<I", view, at)
        key, value = view[start:at].decode("utf-8", "replace"), at + 4
        at = _after_value(path, view, value, kind)
        if kind == _STRING:
            texts[key] = view[value + 8 : at].decode("utf-8", "replace")
        elif kind in (_UINT32, _BOOL):
            numbers[key] = int.from_bytes(view[value:at], "little")
        elif kind == _ARRAY and struct.unpack_from("<I", view, value)[0] == _STRING:
            arrays[key] = value + 4
    alignment = numbers.get("general.alignment", _ALIGNMENT)
    last, names = 0, set()
    for _ in range(tensors):
        start, at = at + 8, _after_string(view, at)
        names.add(view[start:at].decode("utf-8", "replace"))
        (dimensions,) = struct.unpack_from("<I", view, at)
        at += 4 + 8 * min(dimensions, 8) + 4
        (offset,) = struct.unpack_from("<Q", view, at)
        at, last = at + 8, max(last, offset)
    data = -(-at // max(alignment, 1)) * alignment
    if tensors and data + last >= len(view):
        raise ModelFileError(
            f"{path}: truncated: {len(view)} bytes, but its last tensor begins at byte {data + last}: fetch it again"
        )
    return Header(texts, numbers, arrays, frozenset(names))


def _after_string(view: mmap.mmap, at: int) -> int:
    (length,) = struct.unpack_from("<Q", view, at)
    if at + 8 + length > len(view):
        raise IndexError
    return int(at + 8 + length)


def _after_value(path: Path, view: mmap.mmap, at: int, kind: int) -> int:
    if kind == _STRING:
        return _after_string(view, at)
    if kind != _ARRAY:
        if kind not in _WIDTH:
            raise ModelFileError(f"{path}: a damaged header (value type {kind}): fetch it again")
        return at + _WIDTH[kind]
    kind, count = struct.unpack_from("<IQ", view, at)
    if kind not in _WIDTH and count > _MAX_COUNT:
        raise ModelFileError(f"{path}: a damaged header (an array of {count} values): fetch it again")
    if kind in _WIDTH or kind == _STRING:
        return array_bounds(view, at)[1]
    at += 12
    for _ in range(count):
        at = _after_value(path, view, at, kind)
    return at


def array_bounds(view: mmap.mmap | memoryview, at: int) -> tuple[int, int]:
    """Return the number of elements of an array of numbers or strings, and the offset after it.

    A vocabulary has hundreds of thousands of strings, so they are walked by one loop without further calls.

    Args:
        view: The file.
        at: Offset of the type of its elements.

    Raises:
        IndexError: A string ends after the file.
    """
    kind, count = struct.unpack_from("<IQ", view, at)
    at += 12
    if kind != _STRING:
        return count, int(at + _WIDTH[kind] * count)
    length_at, size = _LENGTH.unpack_from, len(view)
    for _ in range(count):
        at += 8 + length_at(view, at)[0]
        if at > size:
            raise IndexError
    return count, at

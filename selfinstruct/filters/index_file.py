"""Save and load an index: arrays in an npz file with a JSON header, written in one step and without pickle."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selfinstruct.common.codec import canonical, loads
from selfinstruct.common.files import describe_os_error, write_atomic
from selfinstruct.errors import UsageError

__all__ = ["FORMAT", "Array", "pack", "read", "unpack", "write"]

FORMAT = 2  # raise it when the meaning of an array changes

Array = npt.NDArray[Any]


def pack(name: str, values: Sequence[str]) -> dict[str, Array]:
    """Return strings as two arrays: their bytes, and the number of bytes of each. Lone surrogates are preserved."""
    coded = [value.encode("utf-8", "surrogatepass") for value in values]
    sizes = np.fromiter(map(len, coded), dtype=np.int64, count=len(coded))
    return {name: np.frombuffer(b"".join(coded), dtype=np.uint8), f"{name}_sizes": sizes}


def unpack(name: str, arrays: Mapping[str, Array]) -> list[str]:
    """Return the strings that ``pack`` packed.

    Raises:
        KeyError, ValueError: The arrays are missing, or do not hold such strings.
    """
    content = arrays[name].tobytes()
    ends = np.cumsum(arrays[f"{name}_sizes"], dtype=np.int64).tolist()
    if (ends[-1] if ends else 0) != len(content):
        raise ValueError(f"{name} has {len(content)} bytes, not {ends[-1] if ends else 0}")
    return [content[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise([0, *ends])]


def write(path: Path, kind: str, parameters: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write an index to a file, in one step.

    Args:
        path: The file.
        kind: Name of the index's class.
        parameters: Its settings.
        arrays: Its contents.

    Raises:
        SelfInstructError: The file cannot be written; an existing one is left unchanged.
    """
    header = canonical({"kind": kind, "format": FORMAT, "parameters": parameters})
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.frombuffer(header, dtype=np.uint8), **arrays)
    write_atomic(path, [buffer.getvalue()])


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the parameters and arrays of an index of this kind.

    Raises:
        UsageError: The file cannot be read, is damaged, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = loads(arrays.pop("header").tobytes())
        saved_kind, version = header["kind"], header["format"]
    except OSError as error:
        raise UsageError(f"can't read {path}: {describe_os_error(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not an index that this package saved, or is damaged ({error})") from None
    if saved_kind != kind:
        raise UsageError(f"{path} holds a {saved_kind}, not a {kind}")
    if version != FORMAT:
        raise UsageError(
            f"{path} has format {version}; this version reads {FORMAT}: build the index again from its texts"
        )
    return header["parameters"], arrays

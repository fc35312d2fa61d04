"""An index on disk: arrays in an npz with a JSON header, written in one step and never through pickle."""

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
from selfinstruct.common.files import reason, write_atomic
from selfinstruct.errors import UsageError

__all__ = ["FORMAT", "pack", "read", "unpack", "write"]

FORMAT = 2  # raise it when the meaning of an array changes

Array = npt.NDArray[Any]


def pack(name: str, values: Sequence[str]) -> dict[str, Array]:
    """Strings as two arrays: their bytes, and the number of bytes of each. Lone surrogates are kept."""
    coded = [value.encode("utf-8", "surrogatepass") for value in values]
    sizes = np.fromiter(map(len, coded), dtype=np.int64, count=len(coded))
    return {name: np.frombuffer(b"".join(coded), dtype=np.uint8), f"{name}_sizes": sizes}


def unpack(name: str, arrays: Mapping[str, Array]) -> list[str]:
    """What ``pack`` packed.

    Raises:
        KeyError, ValueError: The arrays are not there, or are no such strings.
    """
    whole = arrays[name].tobytes()
    ends = np.cumsum(arrays[f"{name}_sizes"], dtype=np.int64).tolist()
    if (ends[-1] if ends else 0) != len(whole):
        raise ValueError(f"{name} has {len(whole)} bytes, not {ends[-1] if ends else 0}")
    return [whole[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise([0, *ends])]


def write(path: Path, kind: str, parameters: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Replace ``path`` by this index, in one step.

    Raises:
        SelfInstructError: The file can't be written; an old one is as it was.
    """
    header = canonical({"kind": kind, "format": FORMAT, "parameters": parameters})
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.frombuffer(header, dtype=np.uint8), **arrays)
    write_atomic(path, [buffer.getvalue()])


def read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """The parameters and arrays of an index of this kind.

    Raises:
        UsageError: The file can't be read, is damaged, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = loads(arrays.pop("header").tobytes())
        found, version = header["kind"], header["format"]
    except OSError as error:
        raise UsageError(f"can't read {path}: {reason(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not an index that this package saved, or is damaged ({error})") from None
    if found != kind:
        raise UsageError(f"{path} holds a {found}, not a {kind}")
    if version != FORMAT:
        raise UsageError(
            f"{path} has format {version}; this version reads {FORMAT}: build the index again from its texts"
        )
    return header["parameters"], arrays

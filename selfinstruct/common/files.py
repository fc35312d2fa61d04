"""Atomic writing and strict reading of files. Errors name the file and line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import loads
from selfinstruct.common.file_kinds import describe_undecodable
from selfinstruct.errors import DataError, SelfInstructError, UsageError

__all__ = [
    "describe_os_error",
    "first_line",
    "fsync",
    "parse_jsonl",
    "read_jsonl_lines",
    "read_text",
    "require_absent",
    "write_atomic",
    "write_folder",
]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def describe_os_error(error: OSError) -> str:
    """Return the text of an operating system error without its number, with a remedy if the disk is full."""
    text = error.strerror or type(error).__name__
    return f"{text} (free some space, then run the same command again)" if error.errno in _FULL else text


def first_line(error: Exception) -> str:
    """Return the first line of another library's error message, or the name of the error if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def write_atomic(path: Path, chunks: Iterable[bytes]) -> str:
    """Replace ``path`` atomically: temporary file, fsync, rename, fsync of the directory.

    Readers of ``path`` see the old content or the new content, never a part of it. Missing parent directories are
    created. Temporary files of ``path`` that a killed process left behind are removed first; temporary files of a
    running process are kept.

    Returns:
        The hexadecimal SHA-256 of the written bytes.

    Raises:
        SelfInstructError: The file can't be written (disk full, no permission); ``path`` is unchanged.
    """
    sha = hashlib.sha256()
    temporary = ""
    try:
        if path.exists() and not path.is_file():  # a directory, or a device that a file would replace
            raise SelfInstructError(f"can't write {path}: it is not a regular file; choose another path")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, temporary = _make_part(path)
        with os.fdopen(handle, "wb") as file:  # stays open, and therefore locked, until the rename
            for chunk in chunks:
                sha.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            temporary = ""
        fsync(path.parent)
    except OSError as error:
        raise SelfInstructError(
            f"can't write {path}: {describe_os_error(error)}; the old file, if any, is untouched"
        ) from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    return sha.hexdigest()


def _make_part(path: Path) -> tuple[int, str]:
    """Create and lock a temporary file next to ``path``; the lock marks it as in use."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # removed by another process between its creation and the lock
            pass
        except OSError:  # a file system without locks, where nothing is swept either
            return handle, name
        else:
            if os.fstat(handle).st_nlink:
                return handle, name
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove the unlocked temporary files of ``path``, which killed writers left behind."""
    part = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.part")
    for name in filter(part.fullmatch, os.listdir(path.parent)):
        with contextlib.suppress(OSError):  # in use by another process, or already removed
            handle = os.open(path.parent / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path.parent / name)
            finally:
                os.close(handle)


def require_absent(folder: Path) -> None:
    """Require that ``folder`` does not exist or is an empty directory.

    Raises:
        UsageError: Something exists there.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder}: there is something here already; name another folder")


@contextlib.contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Create ``folder`` atomically: the block writes into a temporary folder, which is renamed when the block ends.

    If the block raises or the process is killed, nothing exists at ``folder``.

    Raises:
        UsageError: ``folder`` exists and is not empty.
        SelfInstructError: The folder can't be written.
    """
    part = None
    try:
        require_absent(folder)
        part = folder.absolute().with_name(f".{folder.absolute().name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for path in sorted(part.rglob("*")):
            if path.is_file():
                path.chmod(0o666 & ~_umask())  # some libraries create files that only the owner may read
            fsync(path)
        fsync(part)
        os.replace(part, folder)
        fsync(folder.parent)
    except OSError as error:
        raise SelfInstructError(f"can't write {folder}: {describe_os_error(error)}") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def fsync(path: Path) -> None:
    """Wait until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        UsageError: The file can't be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"can't read {path}: {describe_os_error(error)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: {describe_undecodable(error)}") from None


def read_jsonl_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield each line's number (from 1) and its JSON object, or a ``DataError`` for an invalid line; skip blank lines.

    Only LF and CRLF end a line: U+2028, U+0085 and similar characters are text. A byte order mark at the start is
    accepted.

    Raises:
        UsageError: The file can't be read.
    """
    try:
        with path.open("rb") as file:
            for number, _, value in parse_jsonl(file, path):
                yield number, value
    except OSError as error:
        raise UsageError(f"can't read {path}: {describe_os_error(error)}") from None


def parse_jsonl(lines: Iterable[bytes], name: object) -> Iterator[tuple[int, bytes, Any]]:
    """Yield the number, bytes (without a byte order mark) and value of each line, as ``read_jsonl_lines`` does."""
    for number, raw in enumerate(lines, start=1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if line.strip():
            yield number, line, _parse(line, f"{name}:{number}")


def _parse(line: bytes, where: str) -> Any:
    try:
        value = loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return DataError(f"{where}: {describe_undecodable(error)}")
    except ValueError as error:
        return DataError(f"{where}: {error}")
    if not isinstance(value, dict):
        return DataError(f"{where}: a JSON object is expected, found {type(value).__name__}")
    return value

"""Files: written whole or not at all, read strictly, with the line in every error."""

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
from selfinstruct.errors import DataError, SelfInstructError, UsageError

__all__ = ["parse_jsonl", "read_jsonl_lines", "read_text", "reason", "require_vacant", "write_atomic", "write_folder"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def reason(error: OSError) -> str:
    """An operating system error in words, without the errno; of a full disk, with what to do."""
    words = error.strerror or type(error).__name__
    return f"{words} (free some space, then run the same command again)" if error.errno in _FULL else words


def write_atomic(path: Path, chunks: Iterable[bytes]) -> str:
    """Replace ``path`` in one step: temporary file, fsync, rename, fsync of the directory.

    Whoever reads ``path`` finds the old content or the new, never a part. The folder is made if need be. Temporary
    files of ``path`` that a killed process left behind are removed first; those of a process at work are not.

    Returns:
        The SHA-256 of what was written, in hexadecimal.

    Raises:
        SelfInstructError: The file can't be written (disk full, no permission); ``path`` is as it was.
    """
    sha = hashlib.sha256()
    temporary = ""
    try:
        if path.exists() and not path.is_file():  # a folder; or a device, whose place a file would take
            raise SelfInstructError(f"can't write {path}: it is no regular file; name another")
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, temporary = _make_part(path)
        with os.fdopen(handle, "wb") as file:  # open, and so locked, until it has its name
            for chunk in chunks:
                sha.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            temporary = ""
        _fsync(path.parent)
    except OSError as error:
        raise SelfInstructError(f"can't write {path}: {reason(error)}; the old file, if any, is untouched") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    return sha.hexdigest()


def _make_part(path: Path) -> tuple[int, str]:
    """An open temporary file beside ``path`` and its name; the lock on it says that somebody is at work on it."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # swept between its making and its lock
            pass
        except OSError:  # a file system without locks: nobody sweeps there either
            return handle, name
        else:
            if os.fstat(handle).st_nlink:
                return handle, name
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove what killed writers of ``path`` left behind: temporary files that nobody holds the lock of."""
    part = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.part")
    for name in filter(part.fullmatch, os.listdir(path.parent)):
        with contextlib.suppress(OSError):  # another's, at work, or gone meanwhile
            handle = os.open(path.parent / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path.parent / name)
            finally:
                os.close(handle)


def require_vacant(folder: Path) -> None:
    """Refuse to write where something lies; an empty folder is nothing.

    Raises:
        UsageError: There is something.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder}: there is something here already; name another folder")


@contextlib.contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Make ``folder`` in one step: what the block writes into the folder it is given lies there when the block ends.

    An error in the block, or a kill, leaves nothing at ``folder``.

    Raises:
        UsageError: There is something at ``folder``; an empty folder gives way.
        SelfInstructError: It can't be written.
    """
    part = None
    try:
        require_vacant(folder)
        part = folder.absolute().with_name(f".{folder.absolute().name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for path in sorted(part.rglob("*")):
            if path.is_file():
                path.chmod(0o666 & ~_umask())  # some libraries make files that nobody else may read
            _fsync(path)
        _fsync(part)
        os.replace(part, folder)
        _fsync(folder.parent)
    except OSError as error:
        raise SelfInstructError(f"can't write {folder}: {reason(error)}") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with a byte order mark or without.

    Raises:
        UsageError: It can't be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"can't read {path}: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}") from None


def read_jsonl_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line's number (from 1) and its JSON object, or the ``DataError`` of a bad line; blank lines are passed over.

    Only LF and CRLF end a line: U+2028, U+0085 and the like are text. A byte order mark at the start is accepted.

    Raises:
        UsageError: The file can't be read.
    """
    try:
        with path.open("rb") as file:
            for number, _, value in parse_jsonl(file, path):
                yield number, value
    except OSError as error:
        raise UsageError(f"can't read {path}: {reason(error)}") from None


def parse_jsonl(lines: Iterable[bytes], name: object) -> Iterator[tuple[int, bytes, Any]]:
    """As ``read_jsonl_lines``, of lines of whatever origin: number, bytes (without a byte order mark) and value."""
    for number, raw in enumerate(lines, start=1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if line.strip():
            yield number, line, _parse(line, f"{name}:{number}")


def _parse(line: bytes, where: str) -> Any:
    try:
        value = loads(line)
    except ValueError as error:
        return DataError(f"{where}: {error}")
    if not isinstance(value, dict):
        return DataError(f"{where}: a JSON object is expected, found {type(value).__name__}")
    return value

"""The database file: tables, schema versions, checks, and error messages."""

from __future__ import annotations

import os
import sqlite3
import zlib
from pathlib import Path
from typing import Any

from selfinstruct.errors import LedgerError

__all__ = [
    "EXECUTIONS",
    "LEDGER_FILE",
    "LONG_TEXT",
    "SCHEMA",
    "SCHEMA_VERSION",
    "SEALED",
    "check_structure",
    "is_empty",
    "ledger_error",
    "schema_of",
    "seal",
]

LEDGER_FILE = "run.sqlite"
LONG_TEXT = 512  # texts of more bytes are stored by digest; a digest and its row cost about 150 bytes
SCHEMA_VERSION = 3
_READABLE = (1, 2, 3)  # see ``migrate`` for what each version added
_QUICK_CHECK_LIMIT = 1 << 30  # bytes; checking a larger file would delay a start by more than a second or two
_APPLICATION_ID = 0x53494E53  # "SINS": identifies the file, also to the command `file`

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL, seal INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE texts (digest TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE requests (k INTEGER PRIMARY KEY, digest TEXT NOT NULL, body BLOB NOT NULL, seal INTEGER NOT NULL)",
    "CREATE TABLE sends (id INTEGER PRIMARY KEY, k INTEGER NOT NULL,"
    " worst_prompt INTEGER NOT NULL, worst_completion INTEGER NOT NULL, seal INTEGER NOT NULL)",
    "CREATE TABLE outcomes (k INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, send INTEGER NOT NULL,"
    " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL,"
    " seal INTEGER NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
EXECUTIONS = (
    "CREATE TABLE IF NOT EXISTS executions (key TEXT PRIMARY KEY, body BLOB NOT NULL, seal INTEGER NOT NULL)"
    " WITHOUT ROWID"
)  # results of verifiers that run code: only in ledgers of runs that have some
SEALED = {
    "meta": ("key", "value"),
    "requests": ("k", "digest", "body"),
    "sends": ("id", "k", "worst_prompt", "worst_completion"),
    "outcomes": ("k", "kind", "body", "send", "prompt_tokens", "completion_tokens", "seconds"),
}
"""Tables whose rows end in a seal, and the columns it covers. Texts need none: their key is their digest."""


def seal(*values: Any) -> int:
    """Return the checksum of a row's other columns, in order, which detects a flipped bit on the disk."""
    crc = 0
    for value in values:
        crc = zlib.crc32(b"\0", zlib.crc32(value if isinstance(value, bytes) else repr(value).encode(), crc))
    return crc


def schema_of(connection: sqlite3.Connection) -> int:
    """Return the schema version of a ledger."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_structure(connection: sqlite3.Connection, path: Path, *, quick: bool = False) -> None:
    """Check the structure of the whole file, in about 1.3 s per gigabyte.

    Without the check, a page with a wrong row count would silently lose rows.

    Args:
        connection: A connection to the ledger.
        path: The file, for the message.
        quick: Skip the check of a large file, which is then made when the run is processed from its beginning.

    Raises:
        LedgerError: If a page is malformed.
    """
    try:
        if quick and path.stat().st_size > _QUICK_CHECK_LIMIT:
            return
        (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise ledger_error(path, error) from error
    if result != "ok":
        raise ledger_error(path, sqlite3.DatabaseError(f"malformed: {' '.join(result.split())}"))


def is_empty(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether nothing was ever committed to the database.

    Raises:
        LedgerError: If the file belongs to another program, has an unknown schema or is truncated.
    """
    if _is_truncated(path):  # SQLite would read the rest of a short last page as zeros
        raise ledger_error(path, sqlite3.DatabaseError("the file ends in the middle of a page: malformed"))
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if tables == 0 and version == 0:
        return True
    if application != _APPLICATION_ID:
        raise LedgerError(f"{path} is a database of another program; choose another run directory")
    if version not in _READABLE:
        raise LedgerError(
            f"{path} has ledger schema {version}, this version of selfinstruct knows schema {SCHEMA_VERSION}; "
            "install the version that made it"
        )
    return False


def ledger_error(path: Path, error: sqlite3.Error) -> LedgerError:
    """Return an error with SQLite's message and what to do about it."""
    text = str(error)
    full = "free some space, then run the same command again: everything acknowledged is kept"
    if ("disk I/O error" in text or "unable to open" in text) and _is_full(path.parent):
        return LedgerError(f"{path}: {text}, because the disk is full; {full}")  # SQLite does not always say so
    remedies = {
        "disk is full": full,
        "readonly": "the directory must be writable",
        "unable to open": "the directory must be writable, and the disk not full",
        "not a database": "the file is damaged or not a ledger; restore it from a backup or choose another directory",
        "malformed": "the file is damaged; restore it from a backup",
        "disk I/O error": "check the disk; everything acknowledged before is kept",
        "locked": "another program has the file open for writing",
    }
    remedy = next((remedy for words, remedy in remedies.items() if words in text), "")
    return LedgerError(f"{path}: {text}" + (f"; {remedy}" if remedy else ""))


def _is_truncated(path: Path) -> bool:
    """Return whether the file ends within a page that no log holds. Must be called before SQLite opens the log."""
    log = path.with_name(path.name + "-wal")
    try:
        if log.exists() and log.stat().st_size:
            return False
        with path.open("rb") as file:
            head = file.read(18)
            size = os.fstat(file.fileno()).st_size
    except OSError:  # SQLite reports it
        return False
    page = int.from_bytes(head[16:18], "big")
    return head.startswith(b"SQLite format 3") and page > 1 and size % page > 0


def _is_full(folder: Path) -> bool:
    """Return whether the file system has no room for another block or another file."""
    try:
        stats = os.statvfs(folder)
    except OSError:
        return False
    return stats.f_bavail == 0 or (stats.f_files > 0 and stats.f_favail == 0)

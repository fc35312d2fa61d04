"""The file itself: tables, versions, and what its errors mean."""

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
    "check",
    "is_empty",
    "schema_of",
    "seal",
    "trouble",
]

LEDGER_FILE = "run.sqlite"
LONG_TEXT = 512  # bytes from which on a variable is kept apart; a digest with its row costs about 150
SCHEMA_VERSION = 2
_READABLE = (1, 2)  # 1 has no seals
_QUICK = 1 << 30  # bytes of a ledger whose structure is looked at before it is written to: a second or two
_APPLICATION_ID = 0x53494E53  # "SINS": tells `file` and us whose database it is

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
"""Tables whose rows end in a seal, and what it covers. Texts are found by their digest, which will do."""


def seal(*values: Any) -> int:
    """The checksum of a row's other columns, in their order: a flipped bit on the disk must not become data."""
    crc = 0
    for value in values:
        crc = zlib.crc32(b"\0", zlib.crc32(value if isinstance(value, bytes) else repr(value).encode(), crc))
    return crc


def schema_of(connection: sqlite3.Connection) -> int:
    """The version of the schema that a ledger has."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check(connection: sqlite3.Connection, path: Path, *, quick: bool = False) -> None:
    """Look at the structure of the whole file: 1.3 s a gigabyte, where to judge what it holds takes minutes.

    A page that says that it has fewer rows than it has would else cost them without a word.

    Args:
        quick: Leave it where it would take longer than a start may: then it is done when all is judged again.

    Raises:
        LedgerError: A page is not as SQLite writes it.
    """
    try:
        if quick and path.stat().st_size > _QUICK:
            return
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise trouble(path, error) from error
    if found != "ok":
        raise trouble(path, sqlite3.DatabaseError(f"malformed: {' '.join(found.split())}"))


def is_empty(connection: sqlite3.Connection, path: Path) -> bool:
    """True for a database in which nothing was ever committed.

    Raises:
        LedgerError: It is somebody else's, of another schema, or a part of it is gone.
    """
    if _is_torn(path):  # of a last page that is short, SQLite takes the rest to be zeros
        raise trouble(path, sqlite3.DatabaseError("the file ends in the middle of a page: malformed"))
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
            "use the version that made it"
        )
    return False


def trouble(path: Path, error: sqlite3.Error) -> LedgerError:
    """What SQLite said, with what to do about it."""
    text = str(error)
    full = "free some space, then run the same command again: everything acknowledged is kept"
    if ("disk I/O error" in text or "unable to open" in text) and _is_full(path.parent):
        return LedgerError(f"{path}: {text}, for the disk is full; {full}")  # SQLite does not say so of every file
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


def _is_torn(path: Path) -> bool:
    """True when the file ends within a page and no log holds that page; to be asked before SQLite opens the log."""
    log = path.with_name(path.name + "-wal")
    try:
        if log.exists() and log.stat().st_size:
            return False
        with path.open("rb") as file:
            head = file.read(18)
            size = os.fstat(file.fileno()).st_size
    except OSError:  # SQLite will say so
        return False
    page = int.from_bytes(head[16:18], "big")
    return head.startswith(b"SQLite format 3") and page > 1 and size % page > 0


def _is_full(folder: Path) -> bool:
    """True when the file system has no room for another block or another file."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return False
    return room.f_bavail == 0 or (room.f_files > 0 and room.f_favail == 0)

"""The file itself: tables, versions, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from selfinstruct.errors import LedgerError

__all__ = ["LEDGER_FILE", "LONG_TEXT", "SCHEMA", "is_empty", "trouble"]

LEDGER_FILE = "run.sqlite"
LONG_TEXT = 512  # bytes from which on a variable is kept apart; a digest with its row costs about 150
_SCHEMA_VERSION = 1
_APPLICATION_ID = 0x53494E53  # "SINS": tells `file` and us whose database it is

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE texts (digest TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE requests (k INTEGER PRIMARY KEY, digest TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE sends (id INTEGER PRIMARY KEY, k INTEGER NOT NULL,"
    " worst_prompt INTEGER NOT NULL, worst_completion INTEGER NOT NULL)",
    "CREATE TABLE outcomes (k INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, send INTEGER NOT NULL,"
    " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)


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
    if version != _SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has ledger schema {version}, this version of selfinstruct knows schema {_SCHEMA_VERSION}; "
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

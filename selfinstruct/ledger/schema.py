"""The file itself: tables, versions, and what its errors mean."""

from __future__ import annotations

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
        LedgerError: It is somebody else's, or of another schema.
    """
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
    remedies = {
        "disk is full": "free some space, then run the same command again: everything acknowledged is kept",
        "readonly": "the directory must be writable",
        "unable to open": "the directory must be writable, and the disk not full",
        "not a database": "the file is damaged or not a ledger; restore it from a backup or choose another directory",
        "malformed": "the file is damaged; restore it from a backup",
        "disk I/O error": "check the disk; everything acknowledged before is kept",
        "locked": "another program has the file open for writing",
    }
    remedy = next((remedy for words, remedy in remedies.items() if words in text), "")
    return LedgerError(f"{path}: {text}" + (f"; {remedy}" if remedy else ""))

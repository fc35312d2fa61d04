"""An older ledger becomes one of today's schema: in one transaction, after a copy of it was put aside.

Only whoever goes on with a run does so, under its lock; to look at an older ledger needs no change.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from selfinstruct.common.files import reason
from selfinstruct.errors import LedgerError
from selfinstruct.ledger.schema import SCHEMA_VERSION, SEALED, check, schema_of, seal

__all__ = ["backup_of", "migrate"]


def backup_of(path: Path, version: int) -> Path:
    """Where the copy of a ledger of an older schema lies."""
    return path.with_name(f"{path.name}.schema-{version}")


def migrate(connection: sqlite3.Connection, path: Path) -> Path | None:
    """Bring the ledger up to ``SCHEMA_VERSION``; whatever stops it, the ledger is the old one or the new one, whole.

    Returns:
        The copy of the old ledger; None where there was nothing to do.

    Raises:
        LedgerError: The ledger is damaged, or there is no room for its copy; it is as it was.
        sqlite3.Error: It can't be written; it is as it was.
    """
    version = schema_of(connection)
    if version == SCHEMA_VERSION:
        return None
    check(connection, path)  # the seals would make the damage official
    kept = backup_of(path, version)
    _copy(connection, kept)
    connection.create_function("seal", -1, seal, deterministic=True)
    connection.execute("BEGIN IMMEDIATE")
    try:
        for table, columns in SEALED.items():
            connection.execute(f"ALTER TABLE {table} ADD COLUMN seal INTEGER NOT NULL DEFAULT 0")
            connection.execute(f"UPDATE {table} SET seal = seal({', '.join(columns)})")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return kept


def _copy(connection: sqlite3.Connection, target: Path) -> None:
    """A copy that appears whole: one that a kill or a full disk cut short is under another name."""
    part = target.with_name(f".{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        copy = sqlite3.connect(part)
        try:
            connection.backup(copy)
        finally:
            copy.close()
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise LedgerError(
            f"can't copy the ledger to {target} before it gets this version's schema: {why}; the ledger is as it was. "
            "Make room for a copy of it, then run the same command again"
        ) from error

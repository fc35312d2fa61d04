"""Migration of a ledger to the current schema, in one transaction and after a copy is made.

Only a process that continues a run migrates its ledger, under the run's lock. Older ledgers are readable unchanged.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from selfinstruct.common.files import describe_os_error
from selfinstruct.errors import LedgerError
from selfinstruct.ledger.schema import SCHEMA_VERSION, SEALED, check_structure, schema_of, seal

__all__ = ["backup_path", "migrate"]


def backup_path(path: Path, version: int) -> Path:
    """Return the path for the copy of a ledger with an older schema."""
    return path.with_name(f"{path.name}.schema-{version}")


def migrate(connection: sqlite3.Connection, path: Path) -> Path | None:
    """Migrate a ledger to ``SCHEMA_VERSION``. If it is interrupted, the ledger is unchanged.

    Schema 2 added the seals. Schema 3 stores long strings of contexts by digest; requests that are already stored keep
    their form, and only the version changes, so that older programs refuse the file instead of misreading it.

    Returns:
        The path of the copy of the old ledger; None if the schema is current.

    Raises:
        LedgerError: If the ledger is damaged or there is no space for its copy; the ledger is unchanged.
        sqlite3.Error: If the ledger can't be written; it is unchanged.
    """
    version = schema_of(connection)
    if version == SCHEMA_VERSION:
        return None
    check_structure(connection, path)  # seals computed over damaged rows would hide the damage
    backup = backup_path(path, version)
    _copy(connection, backup)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version < 2:
            _add_seals(connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return backup


def _add_seals(connection: sqlite3.Connection) -> None:
    connection.create_function("seal", -1, seal, deterministic=True)
    for table, columns in SEALED.items():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN seal INTEGER NOT NULL DEFAULT 0")
        connection.execute(f"UPDATE {table} SET seal = seal({', '.join(columns)})")


def _copy(connection: sqlite3.Connection, target: Path) -> None:
    """Copy the database to ``target``, which appears only once it is complete."""
    temporary = target.with_name(f".{target.name}.part")
    try:
        temporary.unlink(missing_ok=True)
        copy = sqlite3.connect(temporary)
        try:
            connection.backup(copy)
        finally:
            copy.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, sqlite3.Error) as error:
        temporary.unlink(missing_ok=True)
        cause = describe_os_error(error) if isinstance(error, OSError) else str(error)
        raise LedgerError(
            f"can't copy the ledger to {target} before its migration: {cause}; the ledger is unchanged. "
            "Make room for a copy of it, then run the same command again"
        ) from error

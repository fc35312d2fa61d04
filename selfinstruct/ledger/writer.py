"""The writing side of the ledger: one thread that commits whatever was queued while its last commit ran."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import Json, canonical
from selfinstruct.common.files import reason
from selfinstruct.common.lock import RunLock
from selfinstruct.errors import LedgerError
from selfinstruct.ledger.migrate import migrate
from selfinstruct.ledger.packing import pack
from selfinstruct.ledger.reader import InheritedOutcomes
from selfinstruct.ledger.schema import EXECUTIONS, LEDGER_FILE, SCHEMA, check, is_empty, seal, trouble
from selfinstruct.records import Completion, Outcome, Request

__all__ = ["Ledger", "acknowledged"]

_Operation = tuple[str, tuple[Any, ...]]


class Ledger:
    """The writing side: one at a time for a run directory.

    Args:
        folder: The run directory; made if need be.
        meta: Written when the run is new; ignored otherwise (``Reader.meta`` has what was written then).
        texts: Templates and seeds by digest, written when the run is new.
        heritage: Requests and outcomes of another run that a new one begins with, written in the same transaction.

    Raises:
        RunLockedError: Another process is at work in ``folder``.
        LedgerError: The file is no ledger of a schema that this version knows, or can't be written.
    """

    def __init__(
        self,
        folder: Path,
        meta: Mapping[str, Any],
        texts: Mapping[str, bytes],
        heritage: InheritedOutcomes | None = None,
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"can't make the run directory {folder}: {reason(error)}") from None
        self.path = folder / LEDGER_FILE
        self._lock = RunLock(folder)
        self._broken: LedgerError | None = None
        self._queue: queue.SimpleQueue[tuple[list[_Operation], Future[None]] | None] = queue.SimpleQueue()
        try:
            self._connection, self._next_send = self._open(meta, texts, heritage)
        except BaseException:
            self._lock.release()
            raise
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()

    def _open(
        self, meta: Mapping[str, Any], texts: Mapping[str, bytes], heritage: InheritedOutcomes | None
    ) -> tuple[sqlite3.Connection, int]:
        """The connection, and the id of the next send."""
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA busy_timeout = 5000")
            if is_empty(connection, self.path):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    connection.execute(statement)
                for statement, values in _beginning(meta, texts):
                    connection.execute(statement, values)
                if heritage and heritage.has_executions:
                    connection.execute(EXECUTIONS)
                for statement, rows in heritage.statements() if heritage else ():
                    connection.executemany(statement, rows)
                connection.execute("COMMIT")
            else:
                check(connection, self.path, quick=True)
                migrate(connection, self.path)
            connection.execute("PRAGMA synchronous = FULL")
            (following,) = connection.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM sends").fetchone()
        except sqlite3.Error as error:
            raise trouble(self.path, error) from error
        return connection, following

    def send(self, request: Request, worst: tuple[int, int], *, first: bool) -> tuple[int, Future[None]]:
        """Record that a request is about to go out.

        Args:
            worst: Tokens of prompt and completion that it may cost.
            first: The request is not in the ledger yet, and is written with its send.

        Returns:
            The send's id and the future of its commit.
        """
        operations = _described(request) if first else []
        send = self._next_send
        self._next_send += 1
        row = (send, request.number, *worst)
        operations.append(("INSERT INTO sends VALUES (?, ?, ?, ?, ?)", (*row, seal(*row))))
        return send, self._submit(operations)

    def describe(self, request: Request) -> Future[None]:
        """Record a request that the ledger has sends of, and no longer knows: see ``begin_again``."""
        return self._submit(_described(request))

    def outcome(self, number: int, send: int, outcome: Outcome, seconds: float) -> Future[None]:
        """Record the final outcome of a request; it is acknowledged when the future is done."""
        kind, usage = "failure", (0, 0)
        if isinstance(outcome, Completion):
            kind, usage = "completion", (outcome.usage.prompt_tokens, outcome.usage.completion_tokens)
        row = (number, kind, canonical(outcome.to_json()), send, *usage, float(round(seconds, 4)))
        return self._submit([("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, seal(*row)))])

    def execution(self, key: str, result: Mapping[str, Json]) -> Future[None]:
        """Record the result of a verifier that ran code, by the digest of its specification and the answer."""
        row = (key, canonical(dict(result)))
        return self._submit(
            [(EXECUTIONS, ()), ("INSERT OR IGNORE INTO executions VALUES (?, ?, ?)", (*row, seal(*row)))]
        )

    def flush(self) -> None:
        """Wait until all that was recorded so far is committed.

        Raises:
            LedgerError: It can't be written.
        """
        self._submit([]).result()

    def begin_again(self, meta: Mapping[str, Any], texts: Mapping[str, bytes]) -> None:
        """Make another run of one that has no outcome yet: there is nothing to lose. What was sent still counts."""
        clear: list[_Operation] = [(f"DELETE FROM {table}", ()) for table in ("meta", "texts", "requests")]
        self._submit([*clear, *_beginning(meta, texts)]).result()

    def set_meta(self, key: str, value: Any) -> None:
        """Replace one entry of the metadata that is no part of the run's identity (its target)."""
        row = (key, canonical(value))
        self._submit([("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (*row, seal(*row)))]).result()

    def close(self) -> None:
        """Commit what is queued, close the file, release the lock."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()
        self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _submit(self, operations: list[_Operation]) -> Future[None]:
        future: Future[None] = Future()
        self._queue.put((operations, future))
        return future

    def _write(self) -> None:
        """The writer thread: take all that is queued, commit it at once, acknowledge, again."""
        while (item := self._queue.get()) is not None:
            batch = [item]
            closing = False
            while not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    closing = True
                    break
                batch.append(more)
            self._commit(batch)
            if closing:
                return

    def _commit(self, batch: list[tuple[list[_Operation], Future[None]]]) -> None:
        if not self._broken:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                for operations, _ in batch:
                    for statement, values in operations:
                        self._connection.execute(statement, values)
                self._connection.execute("COMMIT")
            except Exception as error:  # whatever it is, those who wait must be told
                # After a failed write nothing later may be acknowledged: its order in the file would have a hole.
                if isinstance(error, sqlite3.Error):
                    self._broken = trouble(self.path, error)
                else:
                    self._broken = LedgerError(f"{self.path}: {error}")
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        for _, future in batch:
            if self._broken:
                future.set_exception(self._broken)
            else:
                future.set_result(None)


async def acknowledged(future: Future[None]) -> None:
    """Wait for a commit from a coroutine; a cancelled wait does not take the commit back."""
    await asyncio.shield(asyncio.wrap_future(future))


def _described(request: Request) -> list[_Operation]:
    value, texts = pack(request)
    new = (request.number, request.digest, canonical(value))
    return [
        *(("INSERT OR IGNORE INTO texts VALUES (?, ?)", text) for text in texts.items()),
        ("INSERT INTO requests VALUES (?, ?, ?, ?)", (*new, seal(*new))),
    ]


def _beginning(meta: Mapping[str, Any], texts: Mapping[str, bytes]) -> list[_Operation]:
    """What a new run holds before its first request."""
    rows = [(key, canonical(value)) for key, value in meta.items()]
    return [
        *(("INSERT INTO meta VALUES (?, ?, ?)", (*row, seal(*row))) for row in rows),
        *(("INSERT INTO texts VALUES (?, ?)", text) for text in texts.items()),
    ]

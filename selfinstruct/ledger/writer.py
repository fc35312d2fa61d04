"""The writing side of the ledger: a thread that commits all operations queued during its last commit."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import Json, canonical
from selfinstruct.common.files import describe_os_error
from selfinstruct.common.lock import RunLock
from selfinstruct.errors import LedgerError
from selfinstruct.ledger.migrate import migrate
from selfinstruct.ledger.packing import pack
from selfinstruct.ledger.reader import InheritedOutcomes
from selfinstruct.ledger.schema import EXECUTIONS, LEDGER_FILE, SCHEMA, check_structure, is_empty, ledger_error, seal
from selfinstruct.records import Completion, Outcome, Request

__all__ = ["Ledger", "acknowledged"]

_Operation = tuple[str, tuple[Any, ...]]


class Ledger:
    """The only writer of a run directory, protected by its lock.

    Args:
        folder: The run directory, created if necessary.
        meta: Metadata of a new run; ignored if the run exists (see ``Reader.meta``).
        texts: Templates and seeds of a new run, by digest.
        inherited: Requests and outcomes that a new fork inherits, written in the same transaction.

    Raises:
        RunLockedError: If another process uses ``folder``.
        LedgerError: If the file is not a ledger with a known schema, or can't be written.
    """

    def __init__(
        self,
        folder: Path,
        meta: Mapping[str, Any],
        texts: Mapping[str, bytes],
        inherited: InheritedOutcomes | None = None,
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"can't create the run directory {folder}: {describe_os_error(error)}") from None
        self.path = folder / LEDGER_FILE
        self._lock = RunLock(folder)
        self._broken: LedgerError | None = None
        self._queue: queue.SimpleQueue[tuple[list[_Operation], Future[None]] | None] = queue.SimpleQueue()
        try:
            self._connection, self._next_send = self._open(meta, texts, inherited)
        except BaseException:
            self._lock.release()
            raise
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()

    def _open(
        self, meta: Mapping[str, Any], texts: Mapping[str, bytes], inherited: InheritedOutcomes | None
    ) -> tuple[sqlite3.Connection, int]:
        """Return the connection and the id of the next send."""
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA busy_timeout = 5000")
            if is_empty(connection, self.path):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                for statement in SCHEMA:
                    connection.execute(statement)
                for statement, values in _initial_operations(meta, texts):
                    connection.execute(statement, values)
                if inherited and inherited.has_executions:
                    connection.execute(EXECUTIONS)
                for statement, rows in inherited.statements() if inherited else ():
                    connection.executemany(statement, rows)
                connection.execute("COMMIT")
            else:
                check_structure(connection, self.path, quick=True)
                migrate(connection, self.path)
            connection.execute("PRAGMA synchronous = FULL")
            (next_send,) = connection.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM sends").fetchone()
        except sqlite3.Error as error:
            raise ledger_error(self.path, error) from error
        return connection, next_send

    def record_send(self, request: Request, worst: tuple[int, int], *, first: bool) -> tuple[int, Future[None]]:
        """Record that a request is about to be sent.

        Args:
            request: The request.
            worst: Upper bounds of its prompt tokens and completion tokens.
            first: Whether the request is not in the ledger yet, so that it is written too.

        Returns:
            The id of the send, and a future that is done once it is committed.
        """
        operations = _request_operations(request) if first else []
        send = self._next_send
        self._next_send += 1
        row = (send, request.number, *worst)
        operations.append(("INSERT INTO sends VALUES (?, ?, ?, ?, ?)", (*row, seal(*row))))
        return send, self._submit(operations)

    def settle_send(self, send: int, number: int, cost: tuple[int, int]) -> None:
        """Replace the worst case of a send without an outcome of its own by its cost. Nothing waits for the commit.

        Args:
            send: The id of the send.
            number: The number of its request.
            cost: Prompt tokens and completion tokens; zeros if it was refused before any work.
        """
        statement = "UPDATE sends SET worst_prompt = ?, worst_completion = ?, seal = ? WHERE id = ?"
        self._submit([(statement, (*cost, seal(send, number, *cost), send))])

    def record_request(self, request: Request) -> Future[None]:
        """Record a request whose sends are in the ledger while the request is not, see ``reset``."""
        return self._submit(_request_operations(request))

    def record_outcome(self, number: int, send: int, outcome: Outcome, seconds: float) -> Future[None]:
        """Record the final outcome of a request; it is acknowledged once the future is done."""
        kind, usage = "failure", (0, 0)
        if isinstance(outcome, Completion):
            kind, usage = "completion", (outcome.usage.prompt_tokens, outcome.usage.completion_tokens)
        row = (number, kind, canonical(outcome.to_json()), send, *usage, float(round(seconds, 4)))
        return self._submit([("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, seal(*row)))])

    def record_execution(self, key: str, result: Mapping[str, Json]) -> Future[None]:
        """Record the result of a verifier that ran code, by the digest of its specification and the answer."""
        row = (key, canonical(dict(result)))
        return self._submit(
            [(EXECUTIONS, ()), ("INSERT OR IGNORE INTO executions VALUES (?, ?, ?)", (*row, seal(*row)))]
        )

    def flush(self) -> None:
        """Wait until all queued operations are committed.

        Raises:
            LedgerError: If the ledger can't be written.
        """
        self._submit([]).result()

    def reset(self, meta: Mapping[str, Any], texts: Mapping[str, bytes]) -> None:
        """Replace a run without outcomes by another one. Its sends are kept, since they may have been billed."""
        clear: list[_Operation] = [(f"DELETE FROM {table}", ()) for table in ("meta", "texts", "requests")]
        self._submit([*clear, *_initial_operations(meta, texts)]).result()

    def set_meta(self, key: str, value: Any) -> None:
        """Replace an entry of the metadata that does not belong to the run's identity."""
        self._submit(_meta_operations({key: value})).result()

    def reopen(self, numbers: Iterable[int], rebuilt_from: int, until: int) -> None:
        """Remove recorded failures, so that their requests are open again. Their sends are kept.

        Args:
            numbers: The requests.
            rebuilt_from: Requests from this number on are removed too, to be rebuilt; none may have another outcome.
            until: Requests below this number are processed as they were sent, see ``RunPlan.inherited_until``.
        """
        operations: list[_Operation] = [("DELETE FROM outcomes WHERE k = ?", (number,)) for number in numbers]
        operations.append(("DELETE FROM requests WHERE k >= ?", (rebuilt_from,)))
        operations += _meta_operations({"reopened": {"until": until}}) if until else []
        self._submit(operations).result()

    def close(self) -> None:
        """Commit all queued operations, close the file and release the lock."""
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
        """Run the writer thread: commit all queued operations in one transaction, acknowledge them, repeat."""
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
            except Exception as error:  # any error must reach the waiting futures
                # After a failed write nothing later may be acknowledged: the file would have a gap.
                if isinstance(error, sqlite3.Error):
                    self._broken = ledger_error(self.path, error)
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
    """Wait for a commit in a coroutine. Cancelling the wait does not cancel the commit."""
    await asyncio.shield(asyncio.wrap_future(future))


def _request_operations(request: Request) -> list[_Operation]:
    value, texts = pack(request)
    row = (request.number, request.digest, canonical(value))
    return [
        *(("INSERT OR IGNORE INTO texts VALUES (?, ?)", text) for text in texts.items()),
        ("INSERT INTO requests VALUES (?, ?, ?, ?)", (*row, seal(*row))),
    ]


def _initial_operations(meta: Mapping[str, Any], texts: Mapping[str, bytes]) -> list[_Operation]:
    """Return the operations that write metadata and texts of a new run."""
    return [*_meta_operations(meta), *(("INSERT INTO texts VALUES (?, ?)", text) for text in texts.items())]


def _meta_operations(meta: Mapping[str, Any]) -> list[_Operation]:
    rows = [(key, canonical(value)) for key, value in meta.items()]
    return [("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (*row, seal(*row))) for row in rows]

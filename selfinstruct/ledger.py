"""The ledger of a run: requests, sends and outcomes, append-only, in one SQLite file.

One process writes (``Ledger``, under the lock of its directory); any number read (``Reader``, no lock). The writer is
a thread that commits whatever was queued while its last commit ran: group commit without a timer. What a future of
``Ledger`` acknowledges is on disk.

The text of prompts is not kept: a request is its template's name, its variables and its sampling, from which
``Reader.request`` renders it again. Templates, seeds and long variables (the examples at the head of a prompt) are kept
once each by digest, so that a run stays small, and explainable when its files have moved.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.codec import canonical, digest, loads
from selfinstruct.errors import LedgerError
from selfinstruct.files import reason
from selfinstruct.lock import RunLock
from selfinstruct.prompts import Prompts
from selfinstruct.records import Completion, Failure, Outcome, Request, Sampling, Turn

__all__ = ["LEDGER_FILE", "SCHEMA_VERSION", "Ledger", "Reader", "Recorded", "Spending", "acknowledged", "has_run"]

LEDGER_FILE = "run.sqlite"
SCHEMA_VERSION = 1
_LONG_TEXT = 512  # bytes from which on a variable is kept apart; a digest with its row costs about 150
_APPLICATION_ID = 0x53494E53  # "SINS": tells `file` and us whose database it is

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE texts (digest TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE requests (k INTEGER PRIMARY KEY, digest TEXT NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE sends (id INTEGER PRIMARY KEY, k INTEGER NOT NULL,"
    " worst_prompt INTEGER NOT NULL, worst_completion INTEGER NOT NULL)",
    "CREATE TABLE outcomes (k INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, send INTEGER NOT NULL,"
    " prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_Operation = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One outcome as stored, with the seconds that it took."""

    number: int
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class Spending:
    """What the ledger says was spent.

    Attributes:
        sends: Attempts that went out, failed ones included.
        prompt_tokens: As servers reported them.
        lost_prompt_tokens: Worst case of every send that has no outcome: it may have been billed all the same.
    """

    sends: int
    prompt_tokens: int
    completion_tokens: int
    lost_prompt_tokens: int
    lost_completion_tokens: int


class Ledger:
    """The writing side: one at a time for a run directory.

    Args:
        folder: The run directory; made if need be.
        meta: Written when the run is new; ignored otherwise (``Reader.meta`` has what was written then).
        texts: Templates and seeds by digest, written when the run is new.

    Raises:
        RunLockedError: Another process is at work in ``folder``.
        LedgerError: The file is no ledger of a schema that this version knows, or can't be written.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any], texts: Mapping[str, bytes]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"can't make the run directory {folder}: {reason(error)}") from None
        self.path = folder / LEDGER_FILE
        self._lock = RunLock(folder)
        self._broken: LedgerError | None = None
        self._queue: queue.SimpleQueue[tuple[list[_Operation], Future[None]] | None] = queue.SimpleQueue()
        try:
            self._connection = self._open(meta, texts)
        except BaseException:
            self._lock.release()
            raise
        self._next_send = self._connection.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM sends").fetchone()[0]
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._thread.start()

    def _open(self, meta: Mapping[str, Any], texts: Mapping[str, bytes]) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA busy_timeout = 5000")
            if _is_empty(connection, self.path):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA:
                    connection.execute(statement)
                for statement, values in _beginning(meta, texts):
                    connection.execute(statement, values)
                connection.execute("COMMIT")
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise _trouble(self.path, error) from error
        return connection

    def send(self, request: Request, worst: tuple[int, int], *, first: bool) -> tuple[int, Future[None]]:
        """Record that a request is about to go out.

        Args:
            worst: Tokens of prompt and completion that it may cost.
            first: The request is not in the ledger yet, and is written with its send.

        Returns:
            The send's id and the future of its commit.
        """
        operations: list[_Operation] = []
        if first:
            body, texts = _pack(request)
            operations += [("INSERT OR IGNORE INTO texts VALUES (?, ?)", text) for text in texts]
            operations.append(("INSERT INTO requests VALUES (?, ?, ?)", (request.number, request.digest, body)))
        send = self._next_send
        self._next_send += 1
        operations.append(("INSERT INTO sends VALUES (?, ?, ?, ?)", (send, request.number, *worst)))
        return send, self._submit(operations)

    def outcome(self, number: int, send: int, outcome: Outcome, seconds: float) -> Future[None]:
        """Record the final outcome of a request; it is acknowledged when the future is done."""
        kind, usage = "failure", (0, 0)
        if isinstance(outcome, Completion):
            kind, usage = "completion", (outcome.usage.prompt_tokens, outcome.usage.completion_tokens)
        row = (number, kind, canonical(outcome.to_json()), send, *usage, round(seconds, 4))
        return self._submit([("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?)", row)])

    def begin_again(self, meta: Mapping[str, Any], texts: Mapping[str, bytes]) -> None:
        """Make another run of one that has no outcome yet: there is nothing to lose. What was sent still counts."""
        clear: list[_Operation] = [(f"DELETE FROM {table}", ()) for table in ("meta", "texts", "requests")]
        self._submit([*clear, *_beginning(meta, texts)]).result()

    def set_meta(self, key: str, value: Any) -> None:
        """Replace one entry of the metadata that is no part of the run's identity (its target)."""
        self._submit([("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, canonical(value)))]).result()

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
            except sqlite3.Error as error:
                # After a failed write nothing later may be acknowledged: its order in the file would have a hole.
                self._broken = _trouble(self.path, error)
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


class Reader:
    """The reading side: needs no lock, and may look at a run while it is being written.

    Raises:
        LedgerError: There is no ledger in ``folder``, or none of a schema that this version knows.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_FILE
        self._prompts: Prompts | None = None
        if not has_run(folder):
            raise LedgerError(f"{folder} holds no run; begin one with: selfinstruct generate {folder}")
        self._connection = _connect_to_read(self.path)

    def meta(self, key: str) -> Any:
        """One entry of the metadata.

        Raises:
            LedgerError: There is no such entry.
        """
        row = self._one("SELECT value FROM meta WHERE key = ?", key)
        if row is None:
            raise LedgerError(f"{self.path}: no {key!r} in its metadata; the file is not whole")
        return loads(row[0])

    def text(self, name: str) -> bytes:
        """A template, the seeds or a long variable, by digest."""
        row = self._one("SELECT body FROM texts WHERE digest = ?", name)
        if row is None:
            raise LedgerError(f"{self.path}: the text {name[:12]} is missing; the file is not whole")
        return bytes(row[0])

    def request_digests(self) -> dict[int, str]:
        """Number to digest of every request that was ever sent."""
        return dict(self._all("SELECT k, digest FROM requests"))

    def request_digest(self, number: int) -> str | None:
        """The digest of one request."""
        row = self._one("SELECT digest FROM requests WHERE k = ?", number)
        return None if row is None else str(row[0])

    def request(self, number: int) -> Request | None:
        """One request as it was sent, its text rendered again from the run's own templates."""
        row = self._one("SELECT body FROM requests WHERE k = ?", number)
        if row is None:
            return None
        body = loads(row[0])
        turns = tuple(self._turn(turn) for turn in body["turns"])
        sampling = Sampling.from_json(body["sampling"])
        return Request(body["stage"], turns, sampling, body["context"], body["parent"], number)

    def templates(self) -> dict[str, str]:
        """The run's templates: name to text."""
        return {name: self.text(digest).decode("utf-8") for name, digest in self.meta("templates").items()}

    def _turn(self, turn: Mapping[str, Any]) -> Turn:
        if self._prompts is None:
            self._prompts = Prompts(self.templates(), "completion")
        variables = {
            name: value if isinstance(value, str) else self.text(value["text"]).decode("utf-8")
            for name, value in turn["variables"].items()
        }
        return self._prompts.turn(turn["role"], turn["template"], variables)

    def has_outcomes(self) -> bool:
        """True once anything was answered."""
        return self._one("SELECT 1 FROM outcomes LIMIT 1") is not None

    def outcomes(self) -> Iterator[Recorded]:
        """Every outcome, in order of number."""
        for number, kind, body, seconds in self._all("SELECT k, kind, body, seconds FROM outcomes ORDER BY k"):
            yield Recorded(number, _outcome(kind, body), seconds)

    def outcome(self, number: int) -> Recorded | None:
        """The outcome of one request."""
        row = self._one("SELECT kind, body, seconds FROM outcomes WHERE k = ?", number)
        return None if row is None else Recorded(number, _outcome(row[0], row[1]), row[2])

    def spending(self) -> Spending:
        """What was spent so far."""
        (sends,) = self._all("SELECT COUNT(*) FROM sends")
        (used,) = self._all("SELECT COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0) FROM outcomes")
        (lost,) = self._all(
            "SELECT COALESCE(SUM(worst_prompt), 0), COALESCE(SUM(worst_completion), 0) FROM sends WHERE NOT EXISTS"
            " (SELECT 1 FROM outcomes WHERE outcomes.k = sends.k AND outcomes.send = sends.id)"
        )
        return Spending(sends[0], *used, *lost)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self, statement: str) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(statement)
        except sqlite3.Error as error:
            raise _trouble(self.path, error) from error

    def _one(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise _trouble(self.path, error) from error
        return row


def _beginning(meta: Mapping[str, Any], texts: Mapping[str, bytes]) -> list[_Operation]:
    """What a new run holds before its first request."""
    return [
        *(("INSERT INTO meta VALUES (?, ?)", (key, canonical(value))) for key, value in meta.items()),
        *(("INSERT INTO texts VALUES (?, ?)", text) for text in texts.items()),
    ]


def _pack(request: Request) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A request's stored form, and the long texts that it names by digest."""
    texts: dict[str, bytes] = {}

    def variable(value: str) -> Any:
        body = value.encode("utf-8")
        if len(body) <= _LONG_TEXT:
            return value
        texts[name := digest(body)] = body
        return {"text": name}

    value = {
        "stage": request.stage,
        "turns": [
            {
                "role": turn.role,
                "template": turn.template,
                "variables": {name: variable(text) for name, text in turn.variables.items()},
            }
            for turn in request.turns
        ],
        "sampling": request.sampling.to_json(),
        "context": dict(request.context),
        "parent": request.parent,
    }
    return canonical(value), list(texts.items())


def _outcome(kind: str, body: bytes) -> Outcome:
    return Completion.from_json(loads(body)) if kind == "completion" else Failure.from_json(loads(body))


def _connect_to_read(path: Path) -> sqlite3.Connection:
    try:
        # Not "immutable": a live run's newest commits are in the write-ahead log.
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        connection.execute("PRAGMA busy_timeout = 5000")
    except sqlite3.Error as error:
        raise _trouble(path, error) from error
    return connection


def has_run(folder: Path) -> bool:
    """True when a run was begun in ``folder``: its ledger exists and its first commit was made.

    Raises:
        LedgerError: The file there is damaged, somebody else's, or of another schema.
    """
    path = folder / LEDGER_FILE
    if not path.is_file():
        return False
    connection = _connect_to_read(path)
    try:
        return not _is_empty(connection, path)
    except sqlite3.Error as error:
        raise _trouble(path, error) from error
    finally:
        connection.close()


def _is_empty(connection: sqlite3.Connection, path: Path) -> bool:
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
    if version != SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has ledger schema {version}, this version of selfinstruct knows schema {SCHEMA_VERSION}; "
            "use the version that made it"
        )
    return False


def _trouble(path: Path, error: sqlite3.Error) -> LedgerError:
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

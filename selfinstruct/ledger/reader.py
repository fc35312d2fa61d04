"""The reading side of the ledger, which needs no lock even while the run is being written."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import digest, loads
from selfinstruct.common.files import describe_os_error
from selfinstruct.errors import LedgerError, TemplateError
from selfinstruct.ledger.packing import unpack
from selfinstruct.ledger.schema import LEDGER_FILE, SEALED, check_structure, is_empty, ledger_error, seal
from selfinstruct.prompts import Prompts
from selfinstruct.records import Completion, Failure, Outcome, Request

__all__ = ["InheritedOutcomes", "Reader", "RecordedOutcome", "Spending", "has_run"]


_REQUIRED = object()
_STRING_KEYS = ("seeds", "api", "version")  # metadata entries that are strings; the others are objects


@dataclass(frozen=True, slots=True)
class RecordedOutcome:
    """A stored outcome and the seconds until it arrived."""

    number: int
    outcome: Outcome
    seconds: float


class InheritedOutcomes:
    """The requests of a run that have an outcome, with their outcomes and texts, for the ledger of a fork.

    Sends are not inherited: their cost counts in the source run.

    Attributes:
        until: Lower request numbers are inherited; 0 if the run has no outcome.
        digest: SHA-256 over the inherited requests and outcomes, in order of number.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.until = reader.newest_outcome() + 1
        sha = hashlib.sha256()
        for number, request, body in reader._query(
            "SELECT k, requests.digest, outcomes.body FROM outcomes JOIN requests USING (k) ORDER BY k"
        ):
            sha.update(f"{number} {request} {digest(body)}\n".encode())
        self.digest = sha.hexdigest()

    @property
    def has_executions(self) -> bool:
        """Whether verifiers ran code in the run."""
        return self._reader.has_executions()

    def statements(self) -> Iterator[tuple[str, Iterator[tuple[Any, ...]]]]:
        """Yield the statements that insert the inherited data, each with its rows."""
        reader = self._reader
        yield "INSERT OR IGNORE INTO texts VALUES (?, ?)", reader._query("SELECT digest, body FROM texts")
        requests = reader._query_sealed("requests", "SELECT requests.* FROM requests JOIN outcomes USING (k)")
        yield "INSERT INTO requests VALUES (?, ?, ?, ?)", ((*row, seal(*row)) for row in requests)
        # Send 0: another run paid for the outcome.
        outcomes = ((*row[:3], 0, *row[4:]) for row in reader._query_sealed("outcomes", "SELECT * FROM outcomes"))
        yield "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ((*row, seal(*row)) for row in outcomes)
        if self.has_executions:
            yield "INSERT INTO executions VALUES (?, ?, ?)", reader._query("SELECT * FROM executions")


@dataclass(frozen=True, slots=True)
class Spending:
    """The spending of a run according to its ledger.

    Attributes:
        sends: Attempts that were sent, including failed ones.
        prompt_tokens: Prompt tokens reported by servers.
        completion_tokens: Completion tokens reported by servers.
        lost_prompt_tokens: Worst case of every send without known usage, since it may have been billed.
        lost_completion_tokens: As ``lost_prompt_tokens``, for completion tokens.
    """

    sends: int
    prompt_tokens: int
    completion_tokens: int
    lost_prompt_tokens: int
    lost_completion_tokens: int


class Reader:
    """A reader of a ledger. It needs no lock and can read a run while it is being written.

    Raises:
        LedgerError: If there is no ledger in ``folder``, or its schema is unknown.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_FILE
        self._prompts: dict[int, Prompts] = {}  # by the index of their era
        self._eras: list[dict[str, Any]] | None = None
        if not has_run(folder):
            raise LedgerError(f"{folder} holds no run; start one with: selfinstruct generate {folder}")
        self._connection = _connect_to_read(self.path)

    def meta(self, key: str, default: Any = _REQUIRED) -> Any:
        """Return an entry of the metadata.

        Raises:
            LedgerError: If there is no such entry and no default.
        """
        row = self._query_one("SELECT * FROM meta WHERE key = ?", key)
        if row is None and default is not _REQUIRED:
            return default
        if row is None:
            raise LedgerError(f"{self.path}: no {key!r} in its metadata; the file is incomplete")
        try:
            value = loads(self._verify_seal("meta", row)[1])
        except ValueError as error:
            raise self._damaged(f"its metadata {key!r}", error) from None
        if value is not None and not isinstance(value, str if key in _STRING_KEYS else dict):
            raise self._damaged(f"its metadata {key!r}", f"found {type(value).__name__}")
        return value

    def _damaged(self, part: str, cause: object) -> LedgerError:
        return LedgerError(
            f"{self.path}: {part} can't be read ({cause}); the file is damaged: restore it from a backup"
        )

    def text(self, name: str) -> bytes:
        """Return a template, the seeds or a long text, by digest."""
        row = self._query_one("SELECT body FROM texts WHERE digest = ?", name)
        if row is None:
            raise LedgerError(f"{self.path}: the text {name[:12]} is missing; the file is incomplete")
        body = bytes(row[0])
        if digest(body) != name:
            raise self._damaged(f"the text {name[:12]}", "its checksum is wrong")
        return body

    def request_digests(self, start: int = 0) -> dict[int, str]:
        """Return the digest of every request that was ever sent, by number, from ``start`` on."""
        rows = self._query_sealed("requests", "SELECT * FROM requests WHERE k >= ?", start)
        return {number: name for number, name, _ in rows}

    def request_digest(self, number: int) -> str | None:
        """Return the digest of a request, or None if it was never sent."""
        row = self._query_one("SELECT digest FROM requests WHERE k = ?", number)
        return None if row is None else str(row[0])

    def request(self, number: int) -> Request | None:
        """Return a request as it was sent, rendered again from the templates of its era; None if it was never sent."""
        row = self._query_one("SELECT * FROM requests WHERE k = ?", number)
        if row is None:
            return None
        _, name, body = self._verify_seal("requests", row)
        try:
            request = unpack(loads(body), number, self._prompts_of(number), lambda key: self.text(key).decode("utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError, TemplateError) as error:
            raise self._damaged(f"request {number}", error) from None
        if request.digest != name:
            raise self._damaged(f"request {number}", "its checksum is wrong")
        return request

    def parents(self) -> Iterator[tuple[int, int | None]]:
        """Yield number and parent of every request that was ever sent, in order of number."""
        return self._query("SELECT k, json_extract(CAST(body AS TEXT), '$.parent') FROM requests ORDER BY k")

    def unanswered(self, until: int) -> list[int]:
        """Return the numbers below ``until`` of requests that were sent and have no outcome, in order."""
        rows = self._query("SELECT k FROM requests WHERE k < ? AND k NOT IN (SELECT k FROM outcomes) ORDER BY k", until)
        return [number for (number,) in rows]

    def failures(self) -> dict[int, str]:
        """Return the code of every recorded failure, by number of the request and in order.

        Raises:
            LedgerError: An outcome is damaged.
        """
        rows = self._query_sealed("outcomes", "SELECT * FROM outcomes WHERE kind = 'failure' ORDER BY k")
        recorded = (self._recorded(row) for row in rows)
        return {each.number: each.outcome.code for each in recorded if isinstance(each.outcome, Failure)}

    def proposals(self) -> Iterator[tuple[int, str]]:
        """Yield number and stage of every sent request that is not a follow-up, in order of number."""
        body = "CAST(body AS TEXT)"
        return self._query(
            f"SELECT k, json_extract({body}, '$.stage') FROM requests"
            f" WHERE json_extract({body}, '$.parent') IS NULL ORDER BY k"
        )

    def templates(self) -> dict[str, str]:
        """Return the templates of the run, by name."""
        return self._texts(self.meta("templates"))

    def eras(self) -> list[dict[str, Any]]:
        """Return the eras of a fork: ranges of inherited requests that share templates.

        Each has ``until``, the first number after the range, and ``templates``, their digests by name.
        """
        if self._eras is None:
            self._eras = list(self.meta("history", {"eras": []})["eras"])
        return self._eras

    def _prompts_of(self, number: int) -> Prompts:
        eras = self.eras()
        era = next((index for index, each in enumerate(eras) if number < each["until"]), len(eras))
        if era not in self._prompts:
            texts = self._texts(eras[era]["templates"]) if era < len(eras) else self.templates()
            self._prompts[era] = Prompts(texts, "completion")
        return self._prompts[era]

    def _texts(self, digests: Mapping[str, str]) -> dict[str, str]:
        return {name: self.text(sha).decode("utf-8") for name, sha in digests.items()}

    def open_sends(self) -> dict[int, tuple[int, int, int]]:
        """Return the number of sends and the ids of the first and last one, for each request without an outcome."""
        rows = self._query(
            "SELECT k, COUNT(*), MIN(id), MAX(id) FROM sends WHERE k NOT IN (SELECT k FROM outcomes) GROUP BY k"
        )
        return {number: (count, first, latest) for number, count, first, latest in rows}

    def latest_answered(self, stage: str | None = None) -> Request | None:
        """Return the request whose completion was sent for last, in a stage or in any; None without one.

        The requests that a fork inherits come after all of its own. Requests that ask for a score are left out, as they
        say nothing about a server.
        """
        row = self._query_one(
            "SELECT k FROM outcomes JOIN requests USING (k) WHERE kind = 'completion'"
            " AND (?1 IS NULL OR json_extract(CAST(requests.body AS TEXT), '$.stage') = ?1)"
            " AND json_extract(CAST(requests.body AS TEXT), '$.sampling.max_tokens') > 0"
            " ORDER BY send DESC, k DESC LIMIT 1",
            stage,
        )
        return None if row is None else self.request(row[0])

    def has_executions(self) -> bool:
        """Return whether the ledger has results of verifiers that ran code."""
        return self._query_one("SELECT 1 FROM sqlite_master WHERE name = 'executions'") is not None

    def executions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the stored results of verifiers that ran code, by key.

        Raises:
            LedgerError: An entry is damaged.
        """
        for key, body, checksum in self._query("SELECT * FROM executions") if self.has_executions() else ():
            if seal(key, body) != checksum:
                raise self._damaged(f"the result of the execution {key[:12]}", "its checksum is wrong")
            yield key, loads(body)

    def freeze(self) -> None:
        """Read the current state of the run until the reader is closed, even while it is being written."""
        try:
            self._connection.execute("BEGIN")
        except sqlite3.Error as error:
            raise ledger_error(self.path, error) from error
        self._query_one("SELECT 1 FROM meta LIMIT 1")  # the first read determines which commits are visible

    def has_outcomes(self) -> bool:
        """Return whether any request has an outcome."""
        return self._query_one("SELECT 1 FROM outcomes LIMIT 1") is not None

    def outcomes(self, start: int = 0) -> Iterator[RecordedOutcome]:
        """Yield the outcomes from number ``start`` on, in order; from 0, after a check of the whole file.

        Raises:
            LedgerError: If the file is damaged.
        """
        if start == 0:
            check_structure(self._connection, self.path)
            for _ in self._query_sealed("sends", "SELECT * FROM sends"):
                pass
        for row in self._query_sealed("outcomes", "SELECT * FROM outcomes WHERE k >= ? ORDER BY k", start):
            yield self._recorded(row)

    def newest_outcome(self, *, excluding: Collection[int] = ()) -> int:
        """Return the highest number of a request with an outcome; -1 without one.

        Args:
            excluding: Requests to ignore.
        """
        ignored = set(excluding)
        numbers = (number for (number,) in self._query("SELECT k FROM outcomes ORDER BY k DESC"))
        return next((number for number in numbers if number not in ignored), -1)

    def answers(self) -> int:
        """Return the number of requests with an outcome."""
        row = self._query_one("SELECT COUNT(*) FROM outcomes")
        return row[0] if row else 0

    def open(self) -> int:
        """Return the number of sent requests without an outcome."""
        row = self._query_one("SELECT COUNT(*) FROM requests WHERE k NOT IN (SELECT k FROM outcomes)")
        return row[0] if row else 0

    def outcome(self, number: int) -> RecordedOutcome | None:
        """Return the outcome of a request, or None."""
        row = self._query_one("SELECT * FROM outcomes WHERE k = ?", number)
        return None if row is None else self._recorded(self._verify_seal("outcomes", row))

    def _recorded(self, row: tuple[Any, ...]) -> RecordedOutcome:
        number, kind, body, _, _, _, seconds = row
        return RecordedOutcome(number, self._outcome(number, kind, body), seconds)

    def _query_sealed(self, table: str, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return (self._verify_seal(table, row) for row in self._query(statement, *values))

    def _verify_seal(self, table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a row without its seal after checking it; rows of schema 1 have no seal."""
        values = row[: len(SEALED[table])]
        if len(row) > len(values) and seal(*values) != row[-1]:
            raise self._damaged(f"the entry {row[0]!r} of {table}", "its checksum is wrong")
        return values

    def _outcome(self, number: int, kind: str, body: bytes) -> Outcome:
        try:
            if kind != "completion":
                return Failure.from_json(loads(body))
            completion = Completion.from_json(loads(body))
            if not completion.choices:
                raise ValueError("no choice")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._damaged(f"the outcome of request {number}", error) from None
        return completion

    def spending(self) -> Spending:
        """Return the spending so far.

        A completion whose tokens the server did not count (``Usage.counted``) counts at the worst case of its send. So
        does a failure, whose last attempt may have been billed before it timed out or met a content filter. The worst
        case of a failed send whose cost is known is that cost, see ``Ledger.settle_send``. ``Budget`` does the same.
        """
        (sends,) = self._query("SELECT COUNT(*) FROM sends")
        (used,) = self._query(
            "SELECT COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0) FROM outcomes"
            " WHERE kind = 'completion' AND prompt_tokens > 0 AND completion_tokens > 0 AND send > 0"
        )
        (lost,) = self._query(
            "SELECT COALESCE(SUM(worst_prompt), 0), COALESCE(SUM(worst_completion), 0) FROM sends WHERE NOT EXISTS"
            " (SELECT 1 FROM outcomes WHERE outcomes.k = sends.k AND outcomes.send = sends.id"
            " AND prompt_tokens > 0 AND completion_tokens > 0)"
        )
        return Spending(sends[0], *used, *lost)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _query(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            # Not "yield from": an iteration ended by an error would close its cursor after the connection.
            for row in self._connection.execute(statement, values):  # noqa: UP028
                yield row
        except sqlite3.Error as error:
            raise ledger_error(self.path, error) from error

    def _query_one(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise ledger_error(self.path, error) from error
        return row


def _connect_to_read(path: Path) -> sqlite3.Connection:
    address = f"{path.resolve().as_uri()}?mode=ro"
    try:
        # If there is no log and none can be created, the file is complete. Otherwise it is not "immutable": the newest
        # commits of a live run are in the log.
        if not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
            address += "&immutable=1"
        # The engine may read in another thread than the one that opened the file, which waits for it.
        connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        connection.execute("PRAGMA busy_timeout = 5000")
    except sqlite3.Error as error:
        raise ledger_error(path, error) from error
    return connection


def has_run(folder: Path) -> bool:
    """Return whether ``folder`` holds a run: its ledger exists and its first transaction is committed.

    Raises:
        LedgerError: If the file is damaged, belongs to another program or has an unknown schema.
    """
    path = folder / LEDGER_FILE
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # no permission, a name too long
        raise LedgerError(f"can't read {folder}: {describe_os_error(error)}") from None
    connection = _connect_to_read(path)
    try:
        empty = is_empty(connection, path)
    except sqlite3.Error as error:
        raise ledger_error(path, error) from error
    finally:
        connection.close()
    # The first commit of a run precedes its dataset, so a ledger without one next to a dataset was emptied later.
    if empty and (folder / "dataset" / "manifest.json").exists():
        raise LedgerError(f"{path} is empty, but a run was here; restore it from a backup, or remove it to start again")
    return not empty

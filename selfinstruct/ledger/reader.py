"""The reading side of the ledger: no lock, also while a run is at work."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import digest, loads
from selfinstruct.common.files import reason
from selfinstruct.errors import LedgerError, TemplateError
from selfinstruct.ledger.packing import unpack
from selfinstruct.ledger.schema import LEDGER_FILE, SEALED, check, is_empty, seal, trouble
from selfinstruct.prompts import Prompts
from selfinstruct.records import Completion, Failure, Outcome, Request

__all__ = ["InheritedOutcomes", "Reader", "RecordedOutcome", "Spending", "has_run"]


_REQUIRED = object()
_WORDS = ("seeds", "api", "version")  # metadata that is a string


@dataclass(frozen=True, slots=True)
class RecordedOutcome:
    """One outcome as stored, with the seconds that it took."""

    number: int
    outcome: Outcome
    seconds: float


class InheritedOutcomes:
    """Every answered request of a run, with its outcome and the texts that it names, as another ledger takes them in.

    Sends are not among it: what another run spent counts there.

    Attributes:
        until: Numbers below this are the heritage; 0 where nothing was answered.
        digest: SHA-256 over all of it, in order of number.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.until = reader.newest_outcome() + 1
        sha = hashlib.sha256()
        for number, request, body in reader._all(
            "SELECT k, requests.digest, outcomes.body FROM outcomes JOIN requests USING (k) ORDER BY k"
        ):
            sha.update(f"{number} {request} {digest(body)}\n".encode())
        self.digest = sha.hexdigest()

    @property
    def has_executions(self) -> bool:
        """Whether verifiers ran code in the run."""
        return self._reader.has_executions()

    def statements(self) -> Iterator[tuple[str, Iterator[tuple[Any, ...]]]]:
        """Statements to insert it, each with its rows."""
        reader = self._reader
        yield "INSERT OR IGNORE INTO texts VALUES (?, ?)", reader._all("SELECT digest, body FROM texts")
        answered = reader._rows("requests", "SELECT requests.* FROM requests JOIN outcomes USING (k)")
        yield "INSERT INTO requests VALUES (?, ?, ?, ?)", ((*row, seal(*row)) for row in answered)
        # Send 0: bought by another run.
        bought = ((*row[:3], 0, *row[4:]) for row in reader._rows("outcomes", "SELECT * FROM outcomes"))
        yield "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ((*row, seal(*row)) for row in bought)
        if self.has_executions:
            yield "INSERT INTO executions VALUES (?, ?, ?)", reader._all("SELECT * FROM executions")


@dataclass(frozen=True, slots=True)
class Spending:
    """What the ledger says was spent.

    Attributes:
        sends: Attempts that went out, failed ones included.
        prompt_tokens: As servers reported them.
        lost_prompt_tokens: Worst case of every send of which no usage is known: it may have been billed all the same.
    """

    sends: int
    prompt_tokens: int
    completion_tokens: int
    lost_prompt_tokens: int
    lost_completion_tokens: int


class Reader:
    """The reading side: needs no lock, and may look at a run while it is being written.

    Raises:
        LedgerError: There is no ledger in ``folder``, or none of a schema that this version knows.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_FILE
        self._prompts: dict[int, Prompts] = {}  # by the place of their era
        self._eras: list[dict[str, Any]] | None = None
        if not has_run(folder):
            raise LedgerError(f"{folder} holds no run; begin one with: selfinstruct generate {folder}")
        self._connection = _connect_to_read(self.path)

    def meta(self, key: str, default: Any = _REQUIRED) -> Any:
        """One entry of the metadata.

        Raises:
            LedgerError: There is no such entry, and no default.
        """
        row = self._one("SELECT * FROM meta WHERE key = ?", key)
        if row is None and default is not _REQUIRED:
            return default
        if row is None:
            raise LedgerError(f"{self.path}: no {key!r} in its metadata; the file is not whole")
        try:
            value = loads(self._whole("meta", row)[1])
        except ValueError as error:
            raise self._damaged(f"its metadata {key!r}", error) from None
        if value is not None and not isinstance(value, str if key in _WORDS else dict):
            raise self._damaged(f"its metadata {key!r}", f"found {type(value).__name__}")
        return value

    def _damaged(self, what: str, why: object) -> LedgerError:
        return LedgerError(f"{self.path}: {what} can't be read ({why}); the file is damaged: restore it from a backup")

    def text(self, name: str) -> bytes:
        """A template, the seeds or a long variable, by digest."""
        row = self._one("SELECT body FROM texts WHERE digest = ?", name)
        if row is None:
            raise LedgerError(f"{self.path}: the text {name[:12]} is missing; the file is not whole")
        body = bytes(row[0])
        if digest(body) != name:
            raise self._damaged(f"the text {name[:12]}", "it is not what it was")
        return body

    def request_digests(self, start: int = 0) -> dict[int, str]:
        """Number to digest of every request, from ``start`` on, that was ever sent."""
        rows = self._rows("requests", "SELECT * FROM requests WHERE k >= ?", start)
        return {number: name for number, name, _ in rows}

    def request_digest(self, number: int) -> str | None:
        """The digest of one request."""
        row = self._one("SELECT digest FROM requests WHERE k = ?", number)
        return None if row is None else str(row[0])

    def request(self, number: int) -> Request | None:
        """One request as it was sent, its text rendered again from the templates of its time."""
        row = self._one("SELECT * FROM requests WHERE k = ?", number)
        if row is None:
            return None
        _, name, body = self._whole("requests", row)
        try:
            request = unpack(loads(body), number, self._prompts_of(number), lambda one: self.text(one).decode("utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError, TemplateError) as error:
            raise self._damaged(f"request {number}", error) from None
        if request.digest != name:
            raise self._damaged(f"request {number}", "it is not what it was")
        return request

    def parents(self) -> Iterator[tuple[int, int | None]]:
        """Number and parent of every request that has an outcome, in order of number."""
        return self._all(
            "SELECT k, json_extract(CAST(requests.body AS TEXT), '$.parent') FROM requests JOIN outcomes USING (k)"
            " ORDER BY k"
        )

    def proposals(self) -> Iterator[tuple[int, str]]:
        """Number and stage of every request that was sent and followed no other, in order of number."""
        body = "CAST(body AS TEXT)"
        return self._all(
            f"SELECT k, json_extract({body}, '$.stage') FROM requests"
            f" WHERE json_extract({body}, '$.parent') IS NULL ORDER BY k"
        )

    def templates(self) -> dict[str, str]:
        """The run's templates: name to text."""
        return self._texts(self.meta("templates"))

    def eras(self) -> list[dict[str, Any]]:
        """Of a fork: whose templates the inherited requests were made from, each with ``until``, a number, and
        ``templates``, their digests by name.
        """
        if self._eras is None:
            self._eras = list(self.meta("history", {"eras": []})["eras"])
        return self._eras

    def _prompts_of(self, number: int) -> Prompts:
        eras = self.eras()
        era = next((place for place, one in enumerate(eras) if number < one["until"]), len(eras))
        if era not in self._prompts:
            texts = self._texts(eras[era]["templates"]) if era < len(eras) else self.templates()
            self._prompts[era] = Prompts(texts, "completion")
        return self._prompts[era]

    def _texts(self, digests: Mapping[str, str]) -> dict[str, str]:
        return {name: self.text(one).decode("utf-8") for name, one in digests.items()}

    def open_sends(self) -> dict[int, tuple[int, int, int]]:
        """Of each request without an outcome: how often it was sent, and the ids of its first and latest send."""
        rows = self._all(
            "SELECT k, COUNT(*), MIN(id), MAX(id) FROM sends WHERE k NOT IN (SELECT k FROM outcomes) GROUP BY k"
        )
        return {number: (count, first, latest) for number, count, first, latest in rows}

    def newest_answered(self) -> int:
        """The highest id of a send that brought a completion; 0 before the first."""
        row = self._one("SELECT MAX(send) FROM outcomes WHERE kind = 'completion'")
        return (row[0] if row else 0) or 0

    def has_executions(self) -> bool:
        """Whether the ledger has results of verifiers that ran code."""
        return self._one("SELECT 1 FROM sqlite_master WHERE name = 'executions'") is not None

    def executions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the stored results of verifiers that ran code, by key.

        Raises:
            LedgerError: An entry is damaged.
        """
        for key, body, checksum in self._all("SELECT * FROM executions") if self.has_executions() else ():
            if seal(key, body) != checksum:
                raise self._damaged(f"the result of the execution {key[:12]}", "its checksum is wrong")
            yield key, loads(body)

    def freeze(self) -> None:
        """See the run as it is now until the reader is closed, also while it is being written."""
        try:
            self._connection.execute("BEGIN")
        except sqlite3.Error as error:
            raise trouble(self.path, error) from error
        self._one("SELECT 1 FROM meta LIMIT 1")  # the first look decides which commits are seen

    def has_outcomes(self) -> bool:
        """True once anything was answered."""
        return self._one("SELECT 1 FROM outcomes LIMIT 1") is not None

    def outcomes(self, start: int = 0) -> Iterator[RecordedOutcome]:
        """Every outcome from number ``start`` on, in order of number; from 0 on, after a look at the whole file.

        Raises:
            LedgerError: The file is damaged.
        """
        if start == 0:
            check(self._connection, self.path)
            for _ in self._rows("sends", "SELECT * FROM sends"):
                pass
        for row in self._rows("outcomes", "SELECT * FROM outcomes WHERE k >= ? ORDER BY k", start):
            yield self._recorded(row)

    def newest_outcome(self) -> int:
        """The highest number that has an outcome; -1 before the first."""
        row = self._one("SELECT MAX(k) FROM outcomes")
        return -1 if row is None or row[0] is None else int(row[0])

    def answers(self) -> int:
        """How many requests have an outcome."""
        row = self._one("SELECT COUNT(*) FROM outcomes")
        return row[0] if row else 0

    def open(self) -> int:
        """How many requests were sent and have no outcome."""
        row = self._one("SELECT COUNT(*) FROM requests WHERE k NOT IN (SELECT k FROM outcomes)")
        return row[0] if row else 0

    def outcome(self, number: int) -> RecordedOutcome | None:
        """The outcome of one request."""
        row = self._one("SELECT * FROM outcomes WHERE k = ?", number)
        return None if row is None else self._recorded(self._whole("outcomes", row))

    def _recorded(self, row: tuple[Any, ...]) -> RecordedOutcome:
        number, kind, body, _, _, _, seconds = row
        return RecordedOutcome(number, self._outcome(number, kind, body), seconds)

    def _rows(self, table: str, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return (self._whole(table, row) for row in self._all(statement, *values))

    def _whole(self, table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """A row without its seal, which is looked at; those of schema 1 have none."""
        values = row[: len(SEALED[table])]
        if len(row) > len(values) and seal(*values) != row[-1]:
            raise self._damaged(f"the entry {row[0]!r} of {table}", "it is not what it was")
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
        """What was spent so far.

        Of a completion that its server did not count (``Usage.counted``) the send counts at its worst, and the figures
        don't. So does a failure: its last attempt may have been billed before it timed out or met a content filter.
        ``Budget.settle`` has the same rule.
        """
        (sends,) = self._all("SELECT COUNT(*) FROM sends")
        (used,) = self._all(
            "SELECT COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0) FROM outcomes"
            " WHERE kind = 'completion' AND prompt_tokens > 0 AND completion_tokens > 0 AND send > 0"
        )
        (lost,) = self._all(
            "SELECT COALESCE(SUM(worst_prompt), 0), COALESCE(SUM(worst_completion), 0) FROM sends WHERE NOT EXISTS"
            " (SELECT 1 FROM outcomes WHERE outcomes.k = sends.k AND outcomes.send = sends.id"
            " AND prompt_tokens > 0 AND completion_tokens > 0)"
        )
        return Spending(sends[0], *used, *lost)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            # Not "yield from": an iteration that an error cuts short would close its cursor after the connection.
            for row in self._connection.execute(statement, values):  # noqa: UP028
                yield row
        except sqlite3.Error as error:
            raise trouble(self.path, error) from error

    def _one(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise trouble(self.path, error) from error
        return row


def _connect_to_read(path: Path) -> sqlite3.Connection:
    address = f"{path.resolve().as_uri()}?mode=ro"
    try:
        # Where no log can be made, and there is none, the file is all there is. Else it is not "immutable": a live
        # run's newest commits are in the log.
        if not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
            address += "&immutable=1"
        connection = sqlite3.connect(address, uri=True)
        connection.execute("PRAGMA busy_timeout = 5000")
    except sqlite3.Error as error:
        raise trouble(path, error) from error
    return connection


def has_run(folder: Path) -> bool:
    """True when a run was begun in ``folder``: its ledger exists and its first commit was made.

    Raises:
        LedgerError: The file there is damaged, somebody else's, or of another schema.
    """
    path = folder / LEDGER_FILE
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # no permission, a name too long
        raise LedgerError(f"can't look into {folder}: {reason(error)}") from None
    connection = _connect_to_read(path)
    try:
        empty = is_empty(connection, path)
    except sqlite3.Error as error:
        raise trouble(path, error) from error
    finally:
        connection.close()
    # A run's first commit comes long before its dataset: where there is one, the ledger was emptied later.
    if empty and (folder / "dataset" / "manifest.json").exists():
        raise LedgerError(f"{path} is empty, but a run was here; restore it from a backup, or remove it to begin again")
    return not empty

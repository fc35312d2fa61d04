"""A run's verdicts, kept beside its ledger so that a later start need not reach them again.

``verdicts.sqlite`` is a cache, and can be deleted at any time: it holds nothing that does not follow from the ledger.
It is read only if it was written by the same code for the same run, and its last verdict was on an outcome that the
ledger holds. What was kept is appended, the rest of a snapshot is small and replaced.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import canonical, digest
from selfinstruct.engine.plan import RunPlan
from selfinstruct.engine.run_state import RunCheckpoint, RunState
from selfinstruct.engine.scheduler import SchedulerState
from selfinstruct.engine.stats import Stats
from selfinstruct.errors import SelfInstructError
from selfinstruct.ledger import Reader, pack, unpack
from selfinstruct.pool import AcceptedRow
from selfinstruct.records import Candidate, Request, Task
from selfinstruct.version import __version__

__all__ = ["VERDICTS_FILE", "VerdictCache"]

VERDICTS_FILE = "verdicts.sqlite"
_LAYOUT = 2
_SCHEMA = """
    PRAGMA journal_mode = WAL;
    BEGIN;
    CREATE TABLE snapshot (judged INTEGER NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL);
    CREATE TABLE kept (judged INTEGER PRIMARY KEY, body BLOB NOT NULL);
    COMMIT;
"""


class VerdictCache:
    """The cache of one run.

    Args:
        folder: The run directory.
        plan: The run's plan.
    """

    def __init__(self, folder: Path, plan: RunPlan) -> None:
        self._path = folder / VERDICTS_FILE
        self._plan = plan
        self._key = digest([plan.identity, __version__, _LAYOUT])
        self._judged = -1  # of the snapshot in the file; -1 where there is none of ours
        self._tasks = self._others = self._rows = 0  # of what was kept, how much is in the file

    def load(self, reader: Reader) -> RunCheckpoint | None:
        """The snapshot that was kept last, if it is of use."""
        if not self._path.is_file():
            return None
        try:
            with _opened(f"{self._path.resolve().as_uri()}?mode=ro") as connection:
                connection.execute("BEGIN")
                found = connection.execute("SELECT judged, body FROM snapshot WHERE key = ?", (self._key,)).fetchone()
                if found is None:
                    return None
                judged, body = found
                kept = [_unzip(one) for (one,) in connection.execute("SELECT body FROM kept ORDER BY judged")]
            snapshot = self._snapshot(_unzip(body), kept, reader)
        except (sqlite3.Error, zlib.error, ValueError, KeyError, TypeError, SelfInstructError):
            return None  # damaged, or of another time: all is judged again, and the file replaced
        if snapshot is not None:
            self._note(judged, snapshot)
        return snapshot

    def save(self, course: RunState) -> None:
        """Keep the course's snapshot. If that can't be written, the next start takes longer, and nothing else."""
        snapshot = course.snapshot
        if course.last is None or snapshot.standing.judged == self._judged:
            return
        body = _zip(self._packed(course, snapshot))
        new = _zip(
            {
                "tasks": [[task.id, task.instruction] for task in snapshot.tasks[self._tasks :]],
                "others": [[task.id, task.instruction] for task in snapshot.others[self._others :]],
                "rows": [_row(row) for row in snapshot.rows[self._rows :]],
            }
        )
        if self._judged < 0:
            self.forget()  # another time's, or damaged
        with contextlib.suppress(sqlite3.Error, OSError), _opened(self._path.resolve().as_uri()) as connection:
            if self._judged < 0:
                connection.executescript(_SCHEMA)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM snapshot")
            connection.execute("INSERT INTO snapshot VALUES (?, ?, ?)", (snapshot.standing.judged, self._key, body))
            connection.execute("INSERT INTO kept VALUES (?, ?)", (snapshot.standing.judged, new))
            connection.execute("COMMIT")
            self._note(snapshot.standing.judged, snapshot)

    def _note(self, judged: int, snapshot: RunCheckpoint) -> None:
        """What is in the file now."""
        self._judged = judged
        self._tasks, self._others, self._rows = len(snapshot.tasks), len(snapshot.others), len(snapshot.rows)

    def forget(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            for end in ("", "-wal", "-shm"):
                Path(f"{self._path}{end}").unlink(missing_ok=True)

    def _packed(self, course: RunState, snapshot: RunCheckpoint) -> dict[str, Any]:
        texts: dict[str, bytes] = {}

        def packed(request: Request) -> dict[str, Any]:
            value, long = pack(request)
            texts.update(long)
            return value

        assert course.last is not None
        number, outcome = course.last
        standing = snapshot.standing
        return {
            "last": [number, digest(canonical(outcome.to_json()))],
            "judged": standing.judged,
            "numbered": standing.numbered,
            "open": [[one.number, packed(one)] for one in standing.open.values()],
            "follow_ups": [packed(one) for one in standing.follow_ups],
            "claimed": sorted(standing.claimed),
            "accounts": standing.progress_by_method,
            "texts": {name: text.decode("utf-8") for name, text in texts.items()},
            "tasks": len(snapshot.tasks),
            "others": len(snapshot.others),
            "rows": len(snapshot.rows),
            "rows_before": snapshot.rows_before,
            "tally": snapshot.tally.to_json(),
            "barren": snapshot.unproductive_streak,
            "recent": snapshot.recent,
        }

    def _snapshot(self, value: Mapping[str, Any], kept: list[Any], reader: Reader) -> RunCheckpoint | None:
        number, sha = value["last"]
        recorded = reader.outcome(number)
        if recorded is None or digest(canonical(recorded.outcome.to_json())) != sha:
            return None
        if value["rows_before"] >= self._plan.settings.n:
            return None  # this target was reached before
        prompts, text = self._plan.prompts, value["texts"].__getitem__
        open_ = {number: unpack(one, number, prompts, text) for number, one in value["open"]}
        follow_ups = tuple(unpack(one, -1, prompts, text) for one in value["follow_ups"])
        tasks = [Task(*one) for part in kept for one in part["tasks"]]
        others = [Task(*one) for part in kept for one in part.get("others", ())]  # older files have none
        rows = [_read_row(one) for part in kept for one in part["rows"]]
        if (len(tasks), len(others), len(rows)) != (value["tasks"], value.get("others", 0), value["rows"]):
            return None
        standing = SchedulerState(
            value["judged"], value["numbered"], open_, follow_ups, frozenset(value["claimed"]), value["accounts"]
        )
        recent = [(bool(new), str(one)) for new, one in value["recent"]]
        return RunCheckpoint(
            standing, tasks, others, rows, value["rows_before"], Stats.from_json(value["tally"]), value["barren"],
            recent,
        )  # fmt: skip


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        yield connection
    finally:
        connection.close()


def _row(row: AcceptedRow) -> list[Any]:
    one = row.candidate
    return [row.id, row.task, one.instruction, one.input, one.output, one.span, one.task, one.extras]


def _read_row(value: list[Any]) -> AcceptedRow:
    name, of, instruction, given, output, span, task, extras = value
    candidate = Candidate(instruction, given, output, (span[0], span[1]), task, id=name)
    return AcceptedRow(name, of, candidate.with_extras(extras))


def _zip(value: Any) -> bytes:
    """Compressed; the checksum of zlib's format tells a flipped bit."""
    return zlib.compress(canonical(value), 1)


def _unzip(body: bytes) -> Any:
    return json.loads(zlib.decompress(body))

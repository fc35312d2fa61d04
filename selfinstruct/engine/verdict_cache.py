"""A cache of a run's verdicts, so that a later start need not filter every candidate again.

``verdicts.sqlite`` can be deleted at any time: everything in it follows from the ledger. It is used only if the same
version of the code wrote it for the same run, and if the ledger holds the outcome that was processed last. Accepted
tasks and rows are appended; the rest of a checkpoint is small and replaced.
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
_LAYOUT = 3  # part of the key: a cache of another layout is discarded
_SCHEMA = """
    PRAGMA journal_mode = WAL;
    BEGIN;
    CREATE TABLE checkpoint (decided INTEGER NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL);
    CREATE TABLE accepted (decided INTEGER PRIMARY KEY, body BLOB NOT NULL);
    COMMIT;
"""


class VerdictCache:
    """The verdict cache of one run.

    Args:
        folder: The run directory.
        plan: The plan of the run.
    """

    def __init__(self, folder: Path, plan: RunPlan) -> None:
        self._path = folder / VERDICTS_FILE
        self._plan = plan
        self._key = digest([plan.identity, __version__, _LAYOUT])
        self._decided = -1  # of the checkpoint in the file; -1 without a usable one
        self._tasks = self._others = self._rows = 0  # how many of each are in the file

    def load(self, reader: Reader) -> RunCheckpoint | None:
        """Return the latest checkpoint, or None if no usable one exists."""
        if not self._path.is_file():
            return None
        try:
            with _connect(f"{self._path.resolve().as_uri()}?mode=ro") as connection:
                connection.execute("BEGIN")
                row = connection.execute("SELECT decided, body FROM checkpoint WHERE key = ?", (self._key,)).fetchone()
                if row is None:
                    return None
                decided, body = row
                bodies = connection.execute("SELECT body FROM accepted ORDER BY decided")
                accepted = [_decompress(part) for (part,) in bodies]
            checkpoint = self._decode(_decompress(body), accepted, reader)
        except (sqlite3.Error, zlib.error, ValueError, KeyError, TypeError, SelfInstructError):
            return None  # damaged or written by other code: everything is filtered again, and the file replaced
        if checkpoint is not None:
            self._record_saved(decided, checkpoint)
        return checkpoint

    def save(self, state: RunState) -> None:
        """Save a checkpoint of ``state``. If that fails, the next start takes longer, and nothing else happens."""
        checkpoint = state.checkpoint()
        decided = checkpoint.scheduler.decided
        if state.last is None or decided == self._decided:
            return
        body = _compress(_encode(state, checkpoint))
        accepted = _compress(
            {
                "tasks": [[task.id, task.instruction] for task in checkpoint.tasks[self._tasks :]],
                "others": [[task.id, task.instruction] for task in checkpoint.others[self._others :]],
                "rows": [_encode_row(row) for row in checkpoint.rows[self._rows :]],
            }
        )
        if self._decided < 0:
            self.delete()  # of another run or version, or damaged
        with contextlib.suppress(sqlite3.Error, OSError), _connect(self._path.resolve().as_uri()) as connection:
            if self._decided < 0:
                connection.executescript(_SCHEMA)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM checkpoint")
            connection.execute("INSERT INTO checkpoint VALUES (?, ?, ?)", (decided, self._key, body))
            connection.execute("INSERT INTO accepted VALUES (?, ?)", (decided, accepted))
            connection.execute("COMMIT")
            self._record_saved(decided, checkpoint)

    def delete(self) -> None:
        """Delete the file."""
        with contextlib.suppress(OSError):
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _record_saved(self, decided: int, checkpoint: RunCheckpoint) -> None:
        self._decided = decided
        self._tasks, self._others, self._rows = len(checkpoint.tasks), len(checkpoint.others), len(checkpoint.rows)

    def _decode(self, value: Mapping[str, Any], accepted: list[Any], reader: Reader) -> RunCheckpoint | None:
        number, sha = value["last"]
        recorded = reader.outcome(number)
        if recorded is None or digest(canonical(recorded.outcome.to_json())) != sha:
            return None
        if value["rows_before"] >= self._plan.settings.n:
            return None  # the target was lowered, and was reached before this checkpoint
        prompts, text = self._plan.prompts, value["texts"].__getitem__
        open_ = {number: unpack(request, number, prompts, text) for number, request in value["open"]}
        follow_ups = tuple(unpack(request, -1, prompts, text) for request in value["follow_ups"])
        tasks = [Task(*fields) for part in accepted for fields in part["tasks"]]
        others = [Task(*fields) for part in accepted for fields in part["others"]]
        rows = [_decode_row(fields) for part in accepted for fields in part["rows"]]
        if (len(tasks), len(others), len(rows)) != (value["tasks"], value["others"], value["rows"]):
            return None
        scheduler = SchedulerState(
            value["decided"], value["numbered"], open_, follow_ups, frozenset(value["claimed"]), value["progress"]
        )
        recent = [(bool(new), str(instruction)) for new, instruction in value["recent"]]
        stats = Stats.from_json(value["stats"])
        streak = value["unproductive_streak"]
        return RunCheckpoint(scheduler, tasks, others, rows, value["rows_before"], stats, streak, recent)


def _encode(state: RunState, checkpoint: RunCheckpoint) -> dict[str, Any]:
    texts: dict[str, bytes] = {}

    def packed(request: Request) -> dict[str, Any]:
        value, long_texts = pack(request)
        texts.update(long_texts)
        return value

    assert state.last is not None
    number, outcome = state.last
    scheduler = checkpoint.scheduler
    return {
        "last": [number, digest(canonical(outcome.to_json()))],
        "decided": scheduler.decided,
        "numbered": scheduler.numbered,
        "open": [[request.number, packed(request)] for request in scheduler.open.values()],
        "follow_ups": [packed(request) for request in scheduler.follow_ups],
        "claimed": sorted(scheduler.claimed),
        "progress": scheduler.progress_by_method,
        "texts": {name: text.decode("utf-8") for name, text in texts.items()},
        "tasks": len(checkpoint.tasks),
        "others": len(checkpoint.others),
        "rows": len(checkpoint.rows),
        "rows_before": checkpoint.rows_before,
        "stats": checkpoint.stats.to_json(),
        "unproductive_streak": checkpoint.unproductive_streak,
        "recent": checkpoint.recent,
    }


@contextlib.contextmanager
def _connect(uri: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        yield connection
    finally:
        connection.close()


def _encode_row(row: AcceptedRow) -> list[Any]:
    candidate = row.candidate
    texts = [candidate.instruction, candidate.input, candidate.output]
    return [row.id, row.task, *texts, candidate.span, candidate.task, candidate.extras]


def _decode_row(fields: list[Any]) -> AcceptedRow:
    row_id, row_task, instruction, input_, output, (start, end), task, extras = fields
    candidate = Candidate(instruction, input_, output, (start, end), task, id=row_id).with_extras(extras)
    return AcceptedRow(row_id, row_task, candidate)


def _compress(value: Any) -> bytes:
    """Return the compressed JSON of ``value``; the checksum in zlib's format detects flipped bits."""
    return zlib.compress(canonical(value), 1)


def _decompress(body: bytes) -> Any:
    return json.loads(zlib.decompress(body))

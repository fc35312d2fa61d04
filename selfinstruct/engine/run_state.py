"""A line driven over recorded outcomes: the one way in which a ledger becomes rows.

The engine drives it with outcomes as they arrive, ``export`` and ``status`` with those of the ledger; there is no
second reading of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfinstruct.engine.inherited import NONE, InheritedRequests
from selfinstruct.engine.plan import RunPlan
from selfinstruct.engine.row_filters import FilterOutcome, FullComparison, no_request, row_text
from selfinstruct.engine.saturation import Saturation
from selfinstruct.engine.scheduler import Scheduler, SchedulerState
from selfinstruct.engine.stats import Stats
from selfinstruct.errors import RunChangedError
from selfinstruct.ledger import ExecutionJournal, Ledger, Reader
from selfinstruct.pool import AcceptedRow
from selfinstruct.records import Outcome, Task
from selfinstruct.verifiers import Journal, use_journal

__all__ = ["RunCheckpoint", "RunState"]

_KEEP_EVERY = 256  # judged requests between two snapshots that are kept


@dataclass(frozen=True)
class RunCheckpoint:
    """A course between two judgements: all that it takes to go on from there.

    Attributes:
        standing: Of the line.
        tasks, others, rows: Of its pool.
        rows_before: Rows before the last judged request: a target that this reaches was reached earlier.
        recent: Of the saturation.
    """

    standing: SchedulerState
    tasks: list[Task]
    others: list[Task]
    rows: list[AcceptedRow]
    rows_before: int
    tally: Stats
    unproductive_streak: int
    recent: list[tuple[bool, str]]


class RunState:
    """The line of a plan, with the outcomes that wait for their turn.

    Args:
        target: Rows after which nothing more is judged (N).
        recorded: Digest of every request that the ledger holds, by number: what is rebuilt must equal it.
        on_judged: Called with each judged request and its outcome.
        dense: See ``RowFilters``.
        history: What a fork begins with.
        journal: Results of verifiers that ran code; None runs it again.

    Attributes:
        keep: Called now and then between two judgements, to keep the snapshot.
        last: The request judged last and its outcome; None before the first.
        saturation: Whether the model repeats itself.
        unproductive_streak: Judged requests since the last one that produced a row, a pending task or a follow-up.

    Raises:
        RunChangedError: A rebuilt request differs from the recorded one.
    """

    def __init__(
        self,
        plan: RunPlan,
        target: int,
        recorded: Mapping[int, str] | None = None,
        on_judged: Callable[[FilterOutcome, Outcome], None] | None = None,
        *,
        dense: FullComparison = no_request,
        history: InheritedRequests = NONE,
        journal: Journal | None = None,
    ) -> None:
        self.target = target
        self.keep: Callable[[RunState], None] | None = None
        self.last: tuple[int, Outcome] | None = None
        self.tally = Stats()
        self.unproductive_streak = 0
        self.saturation = Saturation(plan.settings.saturation)
        self.waiting: dict[int, Outcome] = {}
        self.recorded = recorded or {}
        self._on_judged = on_judged
        self._journal = journal
        self._checked = history.until
        self._kept = self._rows_before = 0
        settings = plan.settings
        self.line = Scheduler(
            plan.strategy, plan.seeds, settings.filters, seed=settings.seed, lag=settings.lag, dense=dense,
            history=history,
        )  # fmt: skip
        self._check()

    @classmethod
    def of(
        cls,
        plan: RunPlan,
        reader: Reader,
        on_judged: Callable[[FilterOutcome, Outcome], None] | None = None,
        *,
        dense: FullComparison = no_request,
        snapshot: RunCheckpoint | None = None,
        keep: Callable[[RunState], None] | None = None,
        ledger: Ledger | None = None,
    ) -> RunState:
        """The course as far as the ledger's outcomes take it.

        Args:
            snapshot: One of this run to go on from, instead of judging all again.
            keep: See ``RunState.keep``.
            ledger: Stores the results of verifiers that run code.
        """
        start = snapshot.standing.judged if snapshot else 0
        history = InheritedRequests(plan.inherited, reader)
        digests = reader.request_digests(max(start, history.until))
        journal = ExecutionJournal(reader, ledger)
        course = cls(plan, plan.settings.n, digests, on_judged, dense=dense, history=history, journal=journal)
        course.keep = keep
        if snapshot is not None:
            course.restore(snapshot)
        course.drive(reader)
        return course

    def drive(self, reader: Reader) -> None:
        """Take in the ledger's outcomes, from where the line stands."""
        for recorded in reader.outcomes(self.line.judged):
            self.receive(recorded.number, recorded.outcome)

    @property
    def snapshot(self) -> RunCheckpoint:
        """Where it stands now."""
        pool = self.line.pool
        return RunCheckpoint(
            self.line.standing, pool.tasks, pool.others, pool.rows, self._rows_before, self.tally,
            self.unproductive_streak, self.saturation.recent,
        )  # fmt: skip

    def same(self, other: RunState) -> bool:
        """Whether both stand at the same place, with the same pool and counts."""
        return self._known == other._known

    @property
    def _known(self) -> tuple[Any, ...]:
        now = self.snapshot
        standing = now.standing
        open_ = {number: request.digest for number, request in standing.open.items()}
        queue = [request.digest for request in standing.follow_ups]
        rows = [(row.id, row.task, row_text(row.candidate), row.candidate.extras) for row in now.rows]
        place = standing.judged, standing.numbered, open_, queue, standing.claimed, standing.progress_by_method
        return place, now.tasks, now.others, rows, now.rows_before, now.tally, now.unproductive_streak, now.recent

    def restore(self, snapshot: RunCheckpoint) -> None:
        """Stand where another course of the same run stood.

        Raises:
            RunChangedError: Its open requests differ from the recorded ones.
        """
        self.line.restore(snapshot.standing, snapshot.tasks, snapshot.others, snapshot.rows)
        self.tally, self.unproductive_streak, self.saturation.recent = (
            snapshot.tally,
            snapshot.unproductive_streak,
            snapshot.recent,
        )
        self._rows_before = snapshot.rows_before
        self._kept = snapshot.standing.judged
        self._checked = max(snapshot.standing.judged, self._checked)
        self._check()

    @property
    def done(self) -> bool:
        """True when the target is reached."""
        return len(self.line.pool.rows) >= self.target

    @property
    def count(self) -> int:
        """Rows of the dataset so far."""
        return min(len(self.line.pool.rows), self.target)

    @property
    def rows(self) -> list[AcceptedRow]:
        """The dataset: the first N kept rows in order of (request, candidate)."""
        return self.line.pool.rows[: self.target]

    def receive(self, number: int, outcome: Outcome) -> None:
        """Take in an outcome, and judge all that has become due."""
        if number < self.line.judged:  # passed over in a fork's history
            return
        self.waiting[number] = outcome
        while not self.done and self.line.judged in self.waiting:
            due = self.waiting.pop(self.line.judged)
            self.last = self.line.judged, due
            self._rows_before = len(self.line.pool.rows)
            with use_journal(self._journal):
                judged = self.line.judge(due)
            if len(self.line.pool.rows) > self._rows_before:
                self.unproductive_streak = 0
            elif not judged.fruitful:
                self.unproductive_streak += 1
            self.tally.add(judged, due)
            self.saturation.add(judged)
            self._check()
            if self._on_judged:
                self._on_judged(judged, due)
            if self.keep is not None and self.line.judged - self._kept >= _KEEP_EVERY:
                self._kept = self.line.judged
                self.keep(self)

    def _check(self) -> None:
        for number in range(self._checked, self.line.numbered):
            digest = self.recorded.get(number)
            if digest is not None and digest != self.line.open[number].digest:
                raise RunChangedError(
                    f"request {number} is rebuilt differently from the one in the ledger: this version of "
                    "selfinstruct reads the run differently; use the version that made it, or start a new run"
                )
        self._checked = self.line.numbered

"""The state of a run: a scheduler driven by recorded outcomes. This is the only way in which a ledger becomes rows.

The engine feeds it outcomes as they arrive; ``export``, ``status`` and ``explain`` feed it recorded ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfinstruct.engine.inherited import NOTHING_INHERITED, InheritedRequests
from selfinstruct.engine.near_duplicates import row_text
from selfinstruct.engine.plan import RunPlan
from selfinstruct.engine.row_filters import FilterOutcome, FullComparison, no_request
from selfinstruct.engine.saturation import Saturation
from selfinstruct.engine.scheduler import Scheduler, SchedulerState
from selfinstruct.engine.stats import Stats
from selfinstruct.errors import RunChangedError
from selfinstruct.ledger import ExecutionJournal, Ledger, Reader
from selfinstruct.pool import AcceptedRow
from selfinstruct.records import Outcome, Task
from selfinstruct.verifiers import Journal, use_journal

__all__ = ["RunCheckpoint", "RunState"]

_CHECKPOINT_INTERVAL = 256  # processed requests between two checkpoints


@dataclass(frozen=True)
class RunCheckpoint:
    """The state of a run between two requests, sufficient to continue from there.

    Attributes:
        scheduler: State of the scheduler.
        tasks: Accepted tasks of the pool.
        others: Accepted texts of the pool that are not tasks.
        rows: Accepted rows of the pool.
        rows_before: Number of rows before the last processed request. A target up to this was reached earlier.
        stats: Counts so far.
        unproductive_streak: See ``RunState``.
        recent: Window of the saturation test.
    """

    scheduler: SchedulerState
    tasks: list[Task]
    others: list[Task]
    rows: list[AcceptedRow]
    rows_before: int
    stats: Stats
    unproductive_streak: int
    recent: list[tuple[bool, str]]


class RunState:
    """The scheduler of a plan and the outcomes that are waiting to be processed.

    Args:
        plan: The plan of the run.
        target: Number of rows after which nothing more is processed (N).
        recorded: Digest of every request in the ledger, by number. A rebuilt request must have the same digest.
        on_decided: Called with each processed request and its outcome.
        full_comparison: See ``RowFilters``.
        inherited: The requests that a fork starts with.
        journal: Stored results of verifiers that ran code; None runs the code again.

    Attributes:
        scheduler: The scheduler.
        on_checkpoint: Called at intervals, between two requests, to save a checkpoint.
        last: Number and outcome of the last processed request; None before the first.
        stats: Counts over all processed requests.
        saturation: Detection of a model that repeats itself.
        unproductive_streak: Processed requests since the last one that led to a row, a pending task or a follow-up.
        waiting: Outcomes that are stored and not processed, by number.

    Raises:
        RunChangedError: If a rebuilt request differs from the recorded one.
    """

    def __init__(
        self,
        plan: RunPlan,
        target: int,
        recorded: Mapping[int, str] | None = None,
        on_decided: Callable[[FilterOutcome, Outcome], None] | None = None,
        *,
        full_comparison: FullComparison = no_request,
        inherited: InheritedRequests = NOTHING_INHERITED,
        journal: Journal | None = None,
    ) -> None:
        self.target = target
        self.on_checkpoint: Callable[[RunState], None] | None = None
        self.last: tuple[int, Outcome] | None = None
        self.stats = Stats()
        self.unproductive_streak = 0
        self.saturation = Saturation(plan.settings.saturation)
        self.waiting: dict[int, Outcome] = {}
        self.recorded = recorded or {}
        self._on_decided = on_decided
        self._checked = inherited.until
        self._checkpointed = self._rows_before = 0
        self._journal = journal
        settings = plan.settings
        self.scheduler = Scheduler(
            plan.strategy,
            plan.seeds,
            plan.filters,
            seed=settings.seed,
            lag=settings.lag,
            answering=plan.answering,
            full_comparison=full_comparison,
            inherited=inherited,
            reader=plan.reader,
        )
        self._check_digests()

    @classmethod
    def from_ledger(
        cls,
        plan: RunPlan,
        reader: Reader,
        on_decided: Callable[[FilterOutcome, Outcome], None] | None = None,
        *,
        full_comparison: FullComparison = no_request,
        checkpoint: RunCheckpoint | None = None,
        on_checkpoint: Callable[[RunState], None] | None = None,
        ledger: Ledger | None = None,
    ) -> RunState:
        """Return the state after all outcomes of a ledger.

        Args:
            plan: The plan of the run.
            reader: The ledger of the run.
            on_decided: See ``RunState``.
            full_comparison: See ``RowFilters``.
            checkpoint: A checkpoint of this run to continue from, instead of processing everything again.
            on_checkpoint: See ``RunState.on_checkpoint``.
            ledger: The ledger that stores the results of verifiers that run code; None does not store them.

        Raises:
            RunChangedError: If a rebuilt request differs from the recorded one.
            LedgerError: If the ledger is damaged.
        """
        start = checkpoint.scheduler.decided if checkpoint else 0
        inherited = InheritedRequests(plan.inherited_until, reader)
        digests = reader.request_digests(max(start, inherited.until))
        state = cls(
            plan,
            plan.settings.n,
            digests,
            on_decided,
            full_comparison=full_comparison,
            inherited=inherited,
            journal=ExecutionJournal(reader, ledger),
        )
        state.on_checkpoint = on_checkpoint
        if checkpoint is not None:
            state.restore(checkpoint)
        for recorded in reader.outcomes(state.scheduler.decided):
            state.receive(recorded.number, recorded.outcome)
        return state

    def checkpoint(self) -> RunCheckpoint:
        """Return the current state. It shares the lists of the pool, which keep growing."""
        pool = self.scheduler.pool
        return RunCheckpoint(
            self.scheduler.state(),
            pool.tasks,
            pool.others,
            pool.rows,
            self._rows_before,
            self.stats,
            self.unproductive_streak,
            self.saturation.recent,
        )

    def equals(self, other: RunState) -> bool:
        """Return whether both states have the same scheduler state, pool and counts."""
        return self._comparable() == other._comparable()

    def _comparable(self) -> tuple[Any, ...]:
        current = self.checkpoint()
        state = current.scheduler
        open_ = {number: request.digest for number, request in state.open.items()}
        queue = [request.digest for request in state.follow_ups]
        rows = [(row.id, row.task, row_text(row.candidate), row.candidate.extras) for row in current.rows]
        return (
            (state.decided, state.numbered, open_, queue, state.claimed, state.progress_by_method),
            (current.tasks, current.others, rows, current.rows_before),
            (current.stats, current.unproductive_streak, current.recent),
        )

    def restore(self, checkpoint: RunCheckpoint) -> None:
        """Adopt a checkpoint of the same run.

        Raises:
            RunChangedError: If one of its open requests differs from the recorded one.
        """
        self.scheduler.restore(checkpoint.scheduler, checkpoint.tasks, checkpoint.others, checkpoint.rows)
        self.stats = checkpoint.stats
        self.unproductive_streak = checkpoint.unproductive_streak
        self.saturation.recent = checkpoint.recent
        self._rows_before = checkpoint.rows_before
        self._checkpointed = checkpoint.scheduler.decided
        self._checked = max(checkpoint.scheduler.decided, self._checked)
        self._check_digests()

    @property
    def done(self) -> bool:
        """Whether the target is reached."""
        return len(self.scheduler.pool.rows) >= self.target

    @property
    def count(self) -> int:
        """Number of rows of the dataset so far."""
        return min(len(self.scheduler.pool.rows), self.target)

    @property
    def rows(self) -> list[AcceptedRow]:
        """The dataset: the first N accepted rows, in order of (request, candidate)."""
        return self.scheduler.pool.rows[: self.target]

    def receive(self, number: int, outcome: Outcome) -> None:
        """Accept the outcome of a request, then process every outcome whose turn has come."""
        scheduler = self.scheduler
        if number < scheduler.decided:  # an inherited request that was skipped
            return
        self.waiting[number] = outcome
        while not self.done and scheduler.decided in self.waiting:
            self._process(self.waiting.pop(scheduler.decided))

    def _process(self, outcome: Outcome) -> None:
        scheduler = self.scheduler
        self.last = scheduler.decided, outcome
        self._rows_before = len(scheduler.pool.rows)
        with use_journal(self._journal):
            filtered = scheduler.process(outcome)
        if len(scheduler.pool.rows) > self._rows_before:
            self.unproductive_streak = 0
        elif not filtered.productive:
            self.unproductive_streak += 1
        self.stats.add(filtered, outcome)
        self.saturation.add(filtered)
        self._check_digests()
        if self._on_decided:
            self._on_decided(filtered, outcome)
        if self.on_checkpoint is not None and scheduler.decided - self._checkpointed >= _CHECKPOINT_INTERVAL:
            self._checkpointed = scheduler.decided
            self.on_checkpoint(self)

    def _check_digests(self) -> None:
        for number in range(self._checked, self.scheduler.numbered):
            digest = self.recorded.get(number)
            if digest is not None and digest != self.scheduler.open[number].digest:
                raise RunChangedError(
                    f"request {number} is rebuilt differently from the one in the ledger: this version of "
                    "selfinstruct reads the run differently; use the version that made it, or start a new run"
                )
        self._checked = self.scheduler.numbered

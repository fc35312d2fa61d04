"""The status of a run, recomputed from its ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.backends.batch.journal import BatchJournal
from selfinstruct.engine.forecast import Forecast
from selfinstruct.engine.plan import RunPlan, recorded_plan
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.stats import Stats
from selfinstruct.engine.verdict_cache import VERDICTS_FILE, VerdictCache
from selfinstruct.errors import LedgerError
from selfinstruct.ledger import Reader, Spending
from selfinstruct.records import Verdict

__all__ = ["ProposalWindow", "RunStatus", "status"]

_MAX_WINDOWS = 10


@dataclass(frozen=True)
class ProposalWindow:
    """A range of request numbers of a mixed run.

    Attributes:
        first: First request number of the range.
        last: Last request number of the range.
        proposals: Number of proposals (requests that are not follow-ups) of each method, by label.
    """

    first: int
    last: int
    proposals: Counter[str]


@dataclass(frozen=True)
class RunStatus:
    """The progress, counts and spending of a run.

    Attributes:
        folder: The run directory.
        plan: The plan of the run.
        rows: Number of rows of the dataset.
        target: The target (N).
        stats: Counts over all processed requests.
        spending: Requests and tokens spent.
        open: Number of requests that were sent and have no outcome.
        undecided: Number of stored outcomes that are not processed: beyond the target, or waiting for an earlier
            request.
        novelty: Fraction of the most recent instructions that were new; None before the first.
        batches: Number of batches at the server, for the ``openai-batch`` backend.
        batched: Number of requests in these batches.
        proposal_windows: Proposals of each method of a mixed run, over up to ten ranges of equal length.
        exhausted: Whether every request is processed and the strategy has nothing more to propose.
        repeated_tasks: Tasks that the novelty filter rejects before they are asked, see ``RowFilters.repeated_tasks``.
    """

    folder: Path
    plan: RunPlan
    rows: int
    target: int
    stats: Stats
    spending: Spending
    open: int
    undecided: int
    novelty: float | None
    batches: int = 0
    batched: int = 0
    proposal_windows: tuple[ProposalWindow, ...] = ()
    exhausted: bool = False
    repeated_tasks: Sequence[Verdict] = ()

    @property
    def complete(self) -> bool:
        """Whether the target is reached, or every task was processed in a run with one row per task."""
        some = self.rows > 0 or self.plan.counts_every_answer
        return self.rows >= self.target or (self.exhausted and self.plan.one_row_per_task and some)

    @property
    def forecast(self) -> Forecast | None:
        """The forecast of what remains to be requested; None before the first row, and for an exhausted strategy."""
        if self.exhausted:
            return None
        return Forecast.of(self.stats, self.target, self.plan.settings.budget)


def status(folder: Path, *, verify: bool = False) -> RunStatus:
    """Return the status of a run.

    Args:
        folder: The run directory. The run may be at work.
        verify: Filter every candidate again and compare the verdicts with those in the cache.

    Raises:
        LedgerError: If there is no readable run in ``folder``, or if ``verify`` finds that cached verdicts are wrong.
        RunChangedError: If this version of selfinstruct reads the ledger differently.
    """
    with Reader(folder) as reader:
        plan = recorded_plan(reader)
        checkpoint = VerdictCache(folder, plan).load(reader)
        reader.freeze()
        state = RunState.from_ledger(plan, reader, checkpoint=checkpoint)
        if verify:
            recomputed = RunState.from_ledger(plan, reader)
            if not state.equals(recomputed):
                raise LedgerError(
                    f"{folder}: the cached verdicts differ from the recomputed ones: {VERDICTS_FILE} is damaged, or "
                    "the code has changed; delete that file, and all candidates are filtered again"
                )
            state = recomputed
        batches = BatchJournal.read(folder).at_server
        return RunStatus(
            folder=folder,
            plan=plan,
            rows=state.count,
            target=state.target,
            stats=state.stats,
            spending=reader.spending(),
            open=reader.open(),
            undecided=len(state.waiting),
            novelty=state.saturation.novelty,
            batches=len(batches),
            batched=sum(len(batch.requests) for batch in batches),
            proposal_windows=_proposal_windows(reader) if plan.methods else (),
            exhausted=state.scheduler.exhausted,
            repeated_tasks=state.scheduler.repeated_tasks,
        )


def _proposal_windows(reader: Reader) -> tuple[ProposalWindow, ...]:
    proposals = [(number, stage.rpartition("/")[0]) for number, stage in reader.proposals()]
    if not proposals:
        return ()
    total = proposals[-1][0] + 1
    length = -(-total // _MAX_WINDOWS)
    counts: dict[int, Counter[str]] = {}
    for number, label in proposals:
        counts.setdefault(number // length, Counter())[label] += 1
    return tuple(
        ProposalWindow(index * length, min(total, (index + 1) * length) - 1, count)
        for index, count in sorted(counts.items())
    )

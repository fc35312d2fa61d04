"""What a run amounts to so far, recomputed from its ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.backends.batch.journal import BatchJournal
from selfinstruct.common.lock import RunLock
from selfinstruct.engine.forecast import Forecast
from selfinstruct.engine.plan import RunPlan, recorded_plan
from selfinstruct.engine.row_filters import FilterOutcome, every_request
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.stats import Stats
from selfinstruct.engine.verdict_cache import VERDICTS_FILE, VerdictCache
from selfinstruct.errors import LedgerError, RunLockedError, UsageError
from selfinstruct.ledger import LEDGER_FILE, Reader, Spending
from selfinstruct.runs.export import CANDIDATES, DATASET, Exported, export_course, export_formats, refresh
from selfinstruct.strategies.abilities import row_format

__all__ = ["Slice", "Status", "export_run", "status"]

_OWN = (LEDGER_FILE, VERDICTS_FILE, "run.lock", "config.yaml")


_SLICES = 10


@dataclass(frozen=True)
class Slice:
    """A part of a mixed run, by the numbers of its requests.

    Attributes:
        first, last: Numbers of the part's requests.
        proposals: By label, how many of the requests that followed no other.
    """

    first: int
    last: int
    proposals: Counter[str]


@dataclass(frozen=True)
class Status:
    """A run at a glance.

    Attributes:
        open: Requests that were sent and have no outcome.
        unjudged: Outcomes stored and not judged yet: after the target, or waiting for an earlier request.
        novelty: Share of the last instructions that were new; None before the first.
        batches, batched: Of the openai-batch backend: batches that the server has, and the requests in them.
        exhausted: Everything is judged, and the strategy has nothing more to ask.
        slices: Of a mixed run, how often each method asked, over its course: parts of like length, ten at most.
    """

    folder: Path
    plan: RunPlan
    rows: int
    target: int
    tally: Stats
    spending: Spending
    open: int
    unjudged: int
    novelty: float | None
    batches: int = 0
    batched: int = 0
    slices: tuple[Slice, ...] = ()
    exhausted: bool = False

    @property
    def complete(self) -> bool:
        """True when the rows are there, or every task was asked of a run that is to have a row for each."""
        return self.rows >= self.target or (self.exhausted and self.plan.is_one_for_each and self.rows > 0)

    @property
    def forecast(self) -> Forecast | None:
        """What is still to come; None before there is a row to judge by, and where nothing is."""
        if self.exhausted:
            return None
        return Forecast.of(self.tally, self.target, self.plan.settings.budget)


def status(folder: Path, *, verify: bool = False) -> Status:
    """Sum up a run. Needs no lock: the run may be at work.

    Args:
        verify: Judge everything again, and compare with the verdicts that were kept.

    Raises:
        LedgerError: There is no readable run in ``folder``, or the verdicts that were kept are not those reached now.
    """
    with Reader(folder) as reader:
        plan = recorded_plan(reader)
        verdicts = VerdictCache(folder, plan)
        snapshot = verdicts.load(reader)
        reader.freeze()
        course = RunState.of(plan, reader, snapshot=snapshot)
        if verify:
            again = RunState.of(plan, reader)
            if not course.same(again):
                raise LedgerError(
                    f"{folder}: the verdicts that were kept are not those reached now: {VERDICTS_FILE} is wrong, or "
                    "the code was changed since; delete that file, and all is judged again"
                )
            course = again
        batches = BatchJournal.read(folder).at_server
        return Status(
            folder=folder,
            plan=plan,
            rows=course.count,
            target=course.target,
            tally=course.tally,
            spending=reader.spending(),
            open=reader.open(),
            unjudged=len(course.waiting),
            novelty=course.saturation.novelty,
            batches=len(batches),
            batched=sum(len(one.requests) for one in batches),
            slices=_slices(reader) if plan.methods else (),
            exhausted=course.line.exhausted,
        )


def _slices(reader: Reader) -> tuple[Slice, ...]:
    proposals = [(number, stage.rpartition("/")[0]) for number, stage in reader.proposals()]
    if not proposals:
        return ()
    total = proposals[-1][0] + 1
    length = -(-total // _SLICES)
    counts: dict[int, Counter[str]] = {}
    for number, label in proposals:
        counts.setdefault(number // length, Counter())[label] += 1
    return tuple(
        Slice(place * length, min(total, (place + 1) * length) - 1, found) for place, found in sorted(counts.items())
    )


def export_run(folder: Path, name: str | None = None, path: Path | None = None) -> Exported:
    """Write a run's dataset in one format.

    Args:
        name: None for the layout that suits the run's strategy.
        path: Where to; None is the run's own dataset folder, whose manifest then follows.

    Raises:
        LedgerError: There is no readable run in ``folder``.
        UsageError: There is no such format.
    """
    if name is not None and name not in export_formats():
        raise UsageError(f"no format {name!r}; known: {', '.join(export_formats())}")
    if path is not None and path.parent.resolve() == folder.resolve() and path.name.startswith(_OWN):
        raise UsageError(f"{path} is a file of the run itself; write elsewhere with -o")
    if path is None and name != CANDIDATES:
        return _export_own(folder, name)
    judged: list[FilterOutcome] = []
    with Reader(folder) as reader:
        plan = recorded_plan(reader)
        if name == CANDIDATES:
            course = RunState.of(plan, reader, lambda one, _: judged.append(one), dense=every_request)
        else:
            course = RunState.of(plan, reader, snapshot=VerdictCache(folder, plan).load(reader))
    name = name or row_format(plan.strategy)
    return export_course(course, name, path or folder / DATASET / f"{name}.jsonl", judged)


def _export_own(folder: Path, name: str | None) -> Exported:
    """Under the run's lock: a run at work may finish meanwhile, and its newer dataset must not be replaced."""
    with Reader(folder):
        pass  # no lock file in a directory that holds no run
    try:
        lock = RunLock(folder)
    except RunLockedError as error:
        raise RunLockedError(f"{error}; or write elsewhere with -o") from None
    try:
        with Reader(folder) as reader:
            plan = recorded_plan(reader)
            return refresh(
                folder, plan, RunState.of(plan, reader, snapshot=VerdictCache(folder, plan).load(reader)), name
            )
    finally:
        lock.release()

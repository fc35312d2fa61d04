"""The Python functions behind the commands: make a run, look at it, refine it, export it.

Every function takes a run directory as ``str`` or ``Path``. Functions that only read need no lock and may be called
while another process works on the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.backends import AdaptiveBackend, BackendObserver, BatchBackend, open_backend
from selfinstruct.backends.reward import RewardBackend
from selfinstruct.common.codec import Json, canonical
from selfinstruct.common.config import merge, to_yaml
from selfinstruct.common.files import write_atomic
from selfinstruct.engine.dispatch.budget import Budget, worst_case
from selfinstruct.engine.dispatch.reasoning import RoomForReasoning, RoomyBackend
from selfinstruct.engine.identity import require_same_identity
from selfinstruct.engine.loop import Engine
from selfinstruct.engine.plan import RunPlan, make_plan, recorded_plan
from selfinstruct.engine.progress import RunProgress
from selfinstruct.engine.row_filters import FilteredCandidate, FilterOutcome
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.saturation import Saturation
from selfinstruct.engine.stats import Stats
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.errors import SelfInstructError
from selfinstruct.evaluation.answers import read_answers
from selfinstruct.evaluation.compare import RunComparison, compare_runs
from selfinstruct.evaluation.contamination import (
    Contamination,
    measure_contamination,
    read_contamination,
    write_contamination,
)
from selfinstruct.evaluation.scores import Scores, score_run, write_scores
from selfinstruct.ledger import Ledger, Reader, has_run
from selfinstruct.pool import AcceptedRow
from selfinstruct.records import Request, Verdict
from selfinstruct.runs.compare import Comparison
from selfinstruct.runs.compare import compare as compare_datasets
from selfinstruct.runs.explain import Explanation
from selfinstruct.runs.explain import explain as explain_candidate
from selfinstruct.runs.export import ExportResult, update_dataset
from selfinstruct.runs.export import export as export_dataset
from selfinstruct.runs.fork import RefilterResult
from selfinstruct.runs.fork import fork as create_fork
from selfinstruct.runs.fork import refilter as create_refiltered
from selfinstruct.runs.listing import RunListing
from selfinstruct.runs.listing import list_runs as list_runs_below
from selfinstruct.runs.retry import RetryResult
from selfinstruct.runs.retry import retry as reopen_failures
from selfinstruct.runs.status import RunStatus
from selfinstruct.runs.status import status as compute_status
from selfinstruct.runs.tune import TuneResult
from selfinstruct.runs.tune import tune as try_settings

__all__ = [
    "EvaluateResult",
    "GenerateResult",
    "Run",
    "ShowProgress",
    "compare",
    "diff",
    "evaluate",
    "explain",
    "export",
    "fork",
    "generate",
    "list_runs",
    "open_run",
    "preview",
    "refilter",
    "retry",
    "status",
    "tune",
]

ShowProgress = Callable[[RunProgress], AbstractContextManager[None]]
"""Displays the progress of a run while its context is open."""


@dataclass(frozen=True)
class GenerateResult:
    """The outcome of ``generate`` or ``fork``.

    Attributes:
        folder: The run directory.
        ending: Why the run stopped: ``complete``, ``exhausted``, ``stalled``, ``unnamed``, ``saturated``, ``budget``,
            ``time`` or ``interrupted``.
        was_complete: True if the run was complete before the call, so nothing was sent.
        plan: Settings, seeds, prompts and strategy of the run.
        rows: The rows of the dataset.
        stats: Counts of requests, verdicts and tokens.
        saturation: How new the last instructions were.
        exported: The dataset file.
        completions: Completions in the ledger, including ones that no row of this dataset needs.
        in_batches: Requests in batches that the server is still processing.
        remarks: What this invocation found out about the servers: parameters that they refuse, usage that they do not
            report.
        cancelled: Requests that were cancelled while they were under way; they stay open.
        cancelled_tokens: Worst case of the tokens that the cancelled requests may have cost.
        repeated_tasks: Tasks that the novelty filter rejects before they are asked, see ``RowFilters.repeated_tasks``.
    """

    folder: Path
    ending: str
    was_complete: bool
    plan: RunPlan
    rows: list[AcceptedRow]
    stats: Stats
    saturation: Saturation
    exported: ExportResult
    completions: int
    in_batches: int = 0
    remarks: tuple[str, ...] = ()
    cancelled: int = 0
    cancelled_tokens: int = 0
    repeated_tasks: Sequence[Verdict] = ()

    @property
    def every_task_was_asked(self) -> bool:
        """True if the run was to make one row per task and has asked for all of them."""
        some = bool(self.rows) or self.plan.counts_every_answer
        return self.ending == "exhausted" and self.plan.one_row_per_task and some

    @property
    def succeeded(self) -> bool:
        """True if the dataset has the rows that were asked for, or every task was asked."""
        return self.ending == "complete" or self.every_task_was_asked


def generate(
    folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    show: ShowProgress | None = None,
    verify: bool = False,
    on_notice: Callable[[str], None] = lambda _: None,
) -> GenerateResult:
    """Start a run or resume it, until it has N rows or something else ends it.

    Args:
        folder: The run directory.
        settings: Settings as in a configuration file, for example ``{"strategy": "alpaca", "n": 30}``. An existing run
            keeps its own settings where they are left out.
        show: Displays the progress; by default nothing is displayed.
        verify: Recompute all verdicts instead of resuming from the stored ones.
        on_notice: Called, before anything is sent, with each notice about what was left out of the seed file.

    Raises:
        UsageError: A setting, seed file or template is wrong; nothing was sent.
        LedgerError: The run is in use, unreadable, or was started with other settings.
        BackendError: The server or the account is at fault; completions received so far are stored and exported.
    """
    folder = Path(folder)
    plan = make_plan(settings or {}, folder)
    for notice in plan.notices:
        on_notice(notice)
    with Ledger(folder, plan.meta(), plan.texts()) as ledger, Reader(folder) as reader:
        if not reader.has_outcomes() and any(
            canonical(reader.meta(key)) != canonical(value) for key, value in plan.meta().items()
        ):
            ledger.reset(plan.meta(), plan.texts())  # for example after a first attempt with a wrong model name
        require_same_identity(plan, reader, folder)
        verdicts = VerdictCache(folder, plan)
        checkpoint = None if verify else verdicts.load(reader)
        state = RunState.from_ledger(plan, reader, checkpoint=checkpoint, on_checkpoint=verdicts.save, ledger=ledger)
        if canonical(reader.meta("config")) != canonical(plan.values()):  # only now is the ledger known to be sound
            ledger.set_meta("config", plan.values())
        write_atomic(folder / "config.yaml", [to_yaml(plan.values())])
        was_complete, ended = state.done, _Ended("complete")
        try:
            if not was_complete and state.scheduler.exhausted:  # known without starting a model
                ended = _Ended("exhausted")
            elif not was_complete:
                ended = _run(folder, plan, state, ledger, reader, show or (lambda _: nullcontext()))
        except SelfInstructError:
            with contextlib.suppress(SelfInstructError):  # on a full disk, report the first error
                update_dataset(folder, plan, state)
            raise
        ledger.flush()
        exported = update_dataset(folder, plan, state)
        verdicts.save(state)
        completions = reader.answers()
    return GenerateResult(
        folder=folder,
        ending=ended.ending,
        was_complete=was_complete,
        plan=plan,
        rows=state.rows,
        stats=state.stats,
        saturation=state.saturation,
        exported=exported,
        completions=completions,
        in_batches=ended.in_batches,
        remarks=tuple(ended.remarks),
        cancelled=len(ended.cancelled),
        cancelled_tokens=sum(sum(worst_case(request)) for request in ended.cancelled),
        repeated_tasks=state.scheduler.repeated_tasks,
    )


@dataclass(frozen=True)
class EvaluateResult:
    """The outcome of ``evaluate``.

    Attributes:
        run: How the run ended.
        scores: The scores of everything that was answered so far.
        contamination: What the training data reveals of the items; None if it was never compared.
    """

    run: GenerateResult
    scores: Scores
    contamination: Contamination | None = None

    @property
    def succeeded(self) -> bool:
        """True if every item has an outcome."""
        return not self.scores.missing


def evaluate(
    folder: str | Path,
    suites: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    trained_on: str | Path | None = None,
    show: ShowProgress | None = None,
    on_notice: Callable[[str], None] = lambda _: None,
) -> EvaluateResult:
    """Ask a model the items of suites, once each and greedily, and score its answers; or resume such a run.

    The scores are stored in the run as ``scores.json``, recomputed from the ledger.

    Args:
        folder: The run directory.
        suites: The suites, each as ``NAME=FILE`` or ``NAME=FOLDER``; an existing run keeps its own if there are none.
        settings: Settings as in a configuration file, for example ``{"evaluate": {"limit": 100}}``.
        trained_on: Training data of the model; the run records how many of its rows reveal items.
        show: Displays the progress; by default nothing is displayed.
        on_notice: Called, before anything is sent, with each notice.

    Raises:
        UsageError: A setting or a suite is wrong; nothing was sent.
        LedgerError: The run is in use, unreadable, or was started with other settings.
        BackendError: The server or the account is at fault; completions received so far are stored.
    """
    folder = Path(folder)
    chosen = evaluate_settings(suites, settings or {})
    measured = None if trained_on is None else measure_contamination(make_plan(chosen, folder).seeds, trained_on)
    result = generate(folder, chosen, show=show, on_notice=on_notice)
    with Ledger(folder, {}, {}) as ledger:
        scores = score_run(read_answers(folder, ledger))
    write_scores(scores)
    if measured is not None:
        write_contamination(folder, measured)
    return EvaluateResult(result, scores, read_contamination(folder))


def evaluate_settings(suites: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that evaluates: the given ones, the strategy and the suites."""
    chosen = {"evaluate": {"suites": list(suites)}} if suites else {}
    return merge(merge(settings, {"strategy": "evaluate"}), chosen)


def preview(folder: str | Path, settings: Mapping[str, Any] | None = None) -> list[Request]:
    """Return the requests that ``generate`` would send next, without sending or writing anything.

    Args:
        folder: The run directory; it need not exist.
        settings: As for ``generate``.

    Raises:
        UsageError: A setting, seed file or template is wrong.
        LedgerError: The run is unreadable or was started with other settings.
    """
    folder = Path(folder)
    plan = make_plan(settings or {}, folder)
    if not has_run(folder):
        return list(RunState(plan, plan.settings.n).scheduler.open.values())
    with Reader(folder) as reader:
        if not reader.has_outcomes():
            state = RunState(plan, plan.settings.n)
        else:
            require_same_identity(plan, reader, folder)
            state = RunState.from_ledger(plan, reader)
    if state.done:
        return []
    return [request for number, request in state.scheduler.open.items() if number not in state.waiting]


def fork(
    folder: str | Path,
    new_folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    show: ShowProgress | None = None,
) -> GenerateResult:
    """Start a run with the completions of another run under other settings, and continue it.

    No completion is requested twice. Resume the new run with ``generate(new_folder)``.

    Args:
        folder: Directory of the run to copy from.
        new_folder: Directory of the new run.
        settings: Settings that differ from the other run's. The strategy must stay.
        show: Displays the progress; by default nothing is displayed.

    Raises:
        UsageError: A setting is wrong, ``new_folder`` holds a run, or ``folder`` has no completion yet.
        LedgerError: A run can't be read or written.
        BackendError: As for ``generate``.
    """
    create_fork(Path(folder), Path(new_folder), settings or {})
    return generate(new_folder, show=show)


def refilter(folder: str | Path, new_folder: str | Path, settings: Mapping[str, Any] | None = None) -> RefilterResult:
    """Filter the completions of a run again under other settings, into a new run; send nothing.

    Args:
        folder: Directory of the run to copy from.
        new_folder: Directory of the new run; ``generate(new_folder)`` continues it.
        settings: Settings that differ from the other run's. The strategy must stay.

    Raises:
        UsageError: A setting is wrong, ``new_folder`` holds a run, or ``folder`` has no completion yet.
        LedgerError: A run can't be read or written.
    """
    return create_refiltered(Path(folder), Path(new_folder), settings or {})


def retry(folder: str | Path, failed: Collection[str] = (), *, dry_run: bool = False) -> RetryResult:
    """Reopen the recorded failures of a run; ``generate(folder)`` asks for them again.

    Args:
        folder: The run directory.
        failed: Codes of the failures to reopen, as ``status`` counts them; empty for all.
        dry_run: Change nothing.

    Raises:
        UsageError: Batches at the server have not been collected.
        LedgerError: There is no readable run, or it is in use.
    """
    return reopen_failures(Path(folder), failed, dry_run=dry_run)


def tune(folder: str | Path, grid: Mapping[str, Sequence[Any]]) -> Iterator[TuneResult]:
    """Yield the result of every combination of filter settings, computed from the ledger alone.

    Args:
        folder: The run directory.
        grid: Values to try for each dotted key, for example ``{"filters.novelty.threshold": [0.5, 0.7]}``.

    Raises:
        UsageError: A key is not a filter setting, or a value is not allowed.
        LedgerError: The run can't be read.
    """
    return try_settings(Path(folder), grid)


def status(folder: str | Path, *, verify: bool = False) -> RunStatus:
    """Return the progress of a run: rows, requests, verdicts, tokens.

    Args:
        folder: The run directory.
        verify: Recompute all verdicts and compare them with the stored ones.

    Raises:
        LedgerError: There is no readable run, or the stored verdicts differ from the recomputed ones.
    """
    return compute_status(Path(folder), verify=verify)


def explain(folder: str | Path, name: str | int) -> Explanation:
    """Return the history of a row or candidate: prompts, completions, and every verdict.

    Args:
        folder: The run directory.
        name: Number of a row in the dataset, from 1, the id of a candidate, such as ``17.2``, or an item of an
            evaluation, such as ``verified/row_3``.

    Raises:
        UsageError: There is no such row or candidate.
        LedgerError: There is no readable run.
    """
    return explain_candidate(Path(folder), str(name))


def diff(first: str | Path, second: str | Path) -> Comparison:
    """Compare the datasets of two runs: rows in common, and why each other row is missing.

    Raises:
        LedgerError: There is no readable run in one of the directories.
    """
    return compare_datasets(Path(first), Path(second))


def compare(*folders: str | Path, detect: float = 0.05, shared: bool = False) -> RunComparison:
    """Compare evaluations with the first of them, item by item.

    Args:
        folders: Run directories of ``evaluate``; at least two.
        detect: A true difference, for the number of items that would show it with a power of 80%; above 0.
        shared: Compare over the items that the runs share where they asked different ones.

    Raises:
        UsageError: A run is no evaluation, or the runs asked different items and ``shared`` is false.
        LedgerError: There is no readable run in one of the directories.
    """
    return compare_runs([Path(folder) for folder in folders], detect=detect, shared=shared)


def list_runs(folder: str | Path = "runs") -> list[RunListing]:
    """List the run in a directory and those directly below it, by path, with their status.

    Raises:
        UsageError: There is no such directory.
    """
    return list_runs_below(Path(folder))


def export(folder: str | Path, layout: str | None = None, path: str | Path | None = None) -> ExportResult:
    """Write the dataset of a run as JSONL.

    Args:
        folder: The run directory.
        layout: ``alpaca``, ``messages``, ``sharegpt``, ``prompt-completion``, ``preference``, ``rl`` or ``candidates``;
            by default the layout of the run's own dataset.
        path: The file to write; by default one in the run's dataset folder, whose manifest is updated.

    Raises:
        UsageError: There is no such layout, it can't hold the rows, or there is nothing to write.
        LedgerError: There is no readable run.
    """
    return export_dataset(Path(folder), layout, None if path is None else Path(path))


@dataclass(frozen=True)
class Run:
    """A read-only handle on a run directory, made by ``open_run``.

    Every method reads the ledger again, so a handle on a run at work stays current.

    Attributes:
        folder: The run directory.
    """

    folder: Path

    def rows(self) -> list[AcceptedRow]:
        """Return the rows of the dataset, in its order."""
        with Reader(self.folder) as reader:
            reader.freeze()
            plan = recorded_plan(reader)
            return RunState.from_ledger(plan, reader, checkpoint=VerdictCache(self.folder, plan).load(reader)).rows

    def rejects(self) -> list[FilteredCandidate]:
        """Return the rejected candidates with their verdicts, in the order of their requests."""
        rejected: list[FilteredCandidate] = []

        def collect(outcome: FilterOutcome, _: object) -> None:
            rejected.extend(candidate for candidate in outcome.candidates if not candidate.kept)

        with Reader(self.folder) as reader:
            reader.freeze()
            RunState.from_ledger(recorded_plan(reader), reader, collect)
        return rejected

    def status(self) -> RunStatus:
        """Return the progress of the run; see ``status``."""
        return status(self.folder)

    def explain(self, name: str | int) -> Explanation:
        """Return the history of a row or candidate; see ``explain``."""
        return explain(self.folder, name)

    def export(self, layout: str | None = None, path: str | Path | None = None) -> ExportResult:
        """Write the dataset as JSONL; see ``export``."""
        return export(self.folder, layout, path)


def open_run(folder: str | Path) -> Run:
    """Open an existing run for reading; it may be at work in another process.

    Raises:
        LedgerError: There is no readable run in ``folder``.
    """
    with Reader(Path(folder)):
        return Run(Path(folder))


@dataclass(frozen=True)
class _Ended:
    """How a loop ended; see ``Engine``."""

    ending: str
    in_batches: int = 0
    cancelled: Sequence[Request] = ()
    remarks: Sequence[str] = ()


@dataclass
class _RunObserver(BackendObserver):
    """Keeps with a run what its backend finds out, and shows it."""

    folder: Path
    plan: RunPlan
    ledger: Ledger
    progress: RunProgress

    def options_changed(self, options: Mapping[str, Json], remark: str) -> None:
        self.progress.remark(remark)
        values = self.plan.values()
        backend = self.plan.settings.backend
        values[backend] = {**values[backend], **options}
        self.ledger.set_meta("config", values)
        write_atomic(self.folder / "config.yaml", [to_yaml(values)])

    def usage_missing(self, server: str) -> None:
        budget = self.plan.settings.budget
        limits = {"--max-tokens": budget.max_tokens, "--max-cost": budget.max_cost}
        if names := " and ".join(name for name, limit in limits.items() if limit is not None):
            self.progress.remark(
                f"{server} does not report how many tokens it counts: {names} counts each of its answers at the worst "
                "case, the bytes of the prompt and the full limit of the answer"
            )


def _run(folder: Path, plan: RunPlan, state: RunState, ledger: Ledger, reader: Reader, show: ShowProgress) -> _Ended:
    """Run the loop to its end."""
    setting = plan.settings.reasoning_tokens if plan.capabilities.limits_reasoning else 0
    room = RoomForReasoning(setting, reasons=state.stats.reasoning_tokens > 0)
    budget = Budget(plan.settings.budget, reader.spending(), room)
    progress = RunProgress(
        plan.settings.n, state.stats, plan.settings.budget, rows=state.count, rows_before=state.count
    )

    def show_servers(servers: str) -> None:
        progress.servers = servers

    backend = open_backend(plan.settings.backend, plan.backend_options, show_servers)
    if isinstance(backend, AdaptiveBackend):
        backend.observe(_RunObserver(folder, plan, ledger, progress))
    if isinstance(backend, BatchBackend):
        backend.open_journal(folder, progress.notify)
        backend.use_room(room.held, room.observe)
    elif plan.capabilities.limits_reasoning:
        option = plan.capabilities.reasoning_option
        remedy = f"--set {plan.settings.backend}.{option}=false" if option else ""
        backend = RoomyBackend(backend, room, remedy)
    judge = _judge(plan)
    engine = Engine(plan, state, ledger, reader, backend, budget, progress, judge)

    async def main() -> _Ended:
        loop = asyncio.get_running_loop()
        # Signal handlers can be set in the main thread only, and not in a notebook's worker or a test's thread.
        with contextlib.suppress(ValueError, RuntimeError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, engine.interrupt)
        try:
            return _Ended(await engine.run(), engine.in_batches, engine.cancelled, progress.remarks)
        finally:
            await backend.close()
            if judge is not None:
                await judge.close()

    with show(progress):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(main())
        with ThreadPoolExecutor(1) as executor:  # a notebook's thread has a running loop and can't hold another
            return executor.submit(lambda: asyncio.run(main())).result()


def _judge(plan: RunPlan) -> RewardBackend | None:
    """Return the reward model of a run; None without one, and for a replay, which answers from a ledger."""
    quality = plan.settings.quality
    if quality is None or quality.reward is None or plan.settings.backend == "replay":
        return None
    return RewardBackend(quality.reward.model, quality.reward.identity)

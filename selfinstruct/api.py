"""One invocation of a run from end to end: plan, ledger, loop. ``generate`` is the Python and the CLI entry."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.backends import BatchBackend, open_backend
from selfinstruct.common.codec import canonical
from selfinstruct.common.config import to_yaml
from selfinstruct.common.files import write_atomic
from selfinstruct.engine.dispatch.budget import Budget
from selfinstruct.engine.identity import require_same_identity
from selfinstruct.engine.loop import Engine
from selfinstruct.engine.plan import RunPlan, make_plan
from selfinstruct.engine.progress import RunProgress
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.saturation import Saturation
from selfinstruct.engine.stats import Stats
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.errors import SelfInstructError
from selfinstruct.ledger import Ledger, Reader, has_run
from selfinstruct.pool import AcceptedRow
from selfinstruct.records import Request
from selfinstruct.runs.export import ExportResult, update_dataset

__all__ = ["GenerateResult", "Show", "generate", "preview"]

Show = Callable[[RunProgress], AbstractContextManager[Any]]
"""Shows a run's progress while its context is open."""


@dataclass(frozen=True)
class GenerateResult:
    """How an invocation ended.

    Attributes:
        ending: ``complete``, ``exhausted``, ``stalled``, ``saturated``, ``budget``, ``time`` or ``interrupted``.
        already: The run was complete before: nothing was sent.
        left: Requests that were under way at the end and that the server goes on with: batches.
        rows: The dataset.
        exported: The dataset's file.
    """

    folder: Path
    ending: str
    already: bool
    plan: RunPlan
    rows: list[AcceptedRow]
    stats: Stats
    saturation: Saturation
    exported: ExportResult
    left: int = 0


def generate(
    folder: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    show: Show | None = None,
    verify: bool = False,
) -> GenerateResult:
    """Begin a run, or go on with it, until it has N rows or something else ends it.

    Args:
        folder: The run directory.
        settings: As in a configuration file (``{"strategy": "alpaca", "n": 30}``); what an existing run's settings
            leave out is the run's own.
        show: Shows progress; nothing is shown without it.
        verify: Judge everything again that the run was answered, instead of going on from the verdicts that were kept.

    Raises:
        UsageError: A setting, seed file or template is wrong; nothing was sent.
        LedgerError: The run is another's, in use, changed or unreadable.
        BackendError: The server or the account is at fault; what was received is stored and exported.
    """
    folder = Path(folder)
    plan = make_plan(settings or {}, folder)
    with Ledger(folder, plan.meta(), plan.texts()) as ledger, Reader(folder) as reader:
        if not reader.has_outcomes() and any(
            canonical(reader.meta(key)) != canonical(value) for key, value in plan.meta().items()
        ):
            ledger.reset(plan.meta(), plan.texts())  # after a first attempt with a wrong model name, say
        require_same_identity(plan, reader, folder)
        verdicts = VerdictCache(folder, plan)
        state = RunState.from_ledger(
            plan, reader, checkpoint=None if verify else verdicts.load(reader), on_checkpoint=verdicts.save
        )
        if canonical(reader.meta("config")) != canonical(plan.values()):  # only now: the ledger is whole
            ledger.set_meta("config", plan.values())
        write_atomic(folder / "config.yaml", [to_yaml(plan.values())])
        already, ending, left = state.done, "complete", 0
        try:
            if not already and state.scheduler.exhausted:  # no model is needed to see that
                ending = "exhausted"
            elif not already:
                ending, left = _run(folder, plan, state, ledger, reader, show or (lambda _: nullcontext()))
        except SelfInstructError:
            with contextlib.suppress(SelfInstructError):  # on a full disk the first error is the one to tell
                update_dataset(folder, plan, state)
            raise
        exported = update_dataset(folder, plan, state)
        verdicts.save(state)
    return GenerateResult(folder, ending, already, plan, state.rows, state.stats, state.saturation, exported, left)


def preview(folder: str | Path, settings: Mapping[str, Any]) -> list[Request]:
    """The requests that would go out next, without sending or writing anything.

    Raises:
        UsageError: A setting, seed file or template is wrong.
        LedgerError: The run is another's or unreadable.
    """
    folder = Path(folder)
    plan = make_plan(settings, folder)
    if not has_run(folder):
        return list(RunState(plan, plan.settings.n).scheduler.open.values())
    with Reader(folder) as reader:
        if reader.has_outcomes():
            require_same_identity(plan, reader, folder)
        state = RunState.from_ledger(plan, reader) if reader.has_outcomes() else RunState(plan, plan.settings.n)
    return (
        []
        if state.done
        else [request for number, request in state.scheduler.open.items() if number not in state.waiting]
    )


def _run(folder: Path, plan: RunPlan, state: RunState, ledger: Ledger, reader: Reader, show: Show) -> tuple[str, int]:
    """How it ended, and how many requests the server goes on with."""
    budget = Budget(plan.settings.budget, reader.spending())
    progress = RunProgress(
        plan.settings.n, state.stats, plan.settings.budget, rows=state.count, rows_before=state.count
    )

    def tell(servers: str) -> None:
        progress.servers = servers

    backend = open_backend(plan.settings.backend, plan.backend_options, tell)
    if isinstance(backend, BatchBackend):
        backend.keep_in(folder, progress.notify)
    engine = Engine(plan, state, ledger, reader, backend, budget, progress)

    async def main() -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        # Outside the main thread (a notebook's worker, a test) there are no signal handlers to set.
        with contextlib.suppress(ValueError, RuntimeError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, engine.interrupt)
        try:
            return await engine.run(), engine.left
        finally:
            await backend.close()

    with show(progress):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(main())
        with ThreadPoolExecutor(1) as pool:  # called from a loop, as in a notebook: this thread has no room for another
            return pool.submit(lambda: asyncio.run(main())).result()

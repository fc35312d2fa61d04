"""Forks: new runs that inherit the outcomes of another run under other settings, so that nothing is bought twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.config import to_yaml
from selfinstruct.common.files import write_atomic
from selfinstruct.engine.forecast import Forecast
from selfinstruct.engine.plan import forked_plan, recorded_plan
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.stats import Stats
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.errors import UsageError
from selfinstruct.ledger import InheritedOutcomes, Ledger, Reader, has_run
from selfinstruct.runs.compare import Comparison, compare
from selfinstruct.runs.export import ExportResult, update_dataset

__all__ = ["RefilterResult", "fork", "inherited_outcomes", "refilter"]


@dataclass(frozen=True)
class RefilterResult:
    """A fork whose inherited outcomes were filtered under other settings, without sending anything.

    Attributes:
        rows: Number of rows of the new run.
        target: Its target (N).
        stats: Counts over its processed requests.
        queued: Follow-ups of tasks that are kept only under the new settings; ``generate`` would send them first.
        forecast: What the missing rows would take; None if no row was kept or none is missing.
        comparison: The old dataset compared with the new one.
        exported: The new dataset file.
    """

    rows: int
    target: int
    stats: Stats
    queued: int
    forecast: Forecast | None
    comparison: Comparison
    exported: ExportResult


def fork(source: Path, folder: Path, settings: Mapping[str, Any]) -> None:
    """Create a run that starts with all outcomes of another run. ``generate`` continues it.

    Args:
        source: The run directory to inherit from.
        folder: The directory of the new run.
        settings: Settings that differ from ``source``, in the form of a configuration file. The strategy
            can't change.

    Raises:
        UsageError: If a setting is wrong, ``folder`` holds a run or ``source`` has no outcomes.
        LedgerError: If a run can't be read or written.
    """
    if has_run(folder):
        raise UsageError(
            f"{folder} already holds a run; continue it with: selfinstruct generate {folder}; or name another directory"
        )
    with Reader(source) as reader:
        reader.freeze()
        inherited = inherited_outcomes(reader)
        plan = forked_plan(settings, reader, inherited)
        with Ledger(folder, plan.meta(), plan.texts(), inherited):
            write_atomic(folder / "config.yaml", [to_yaml(plan.values())])


def refilter(source: Path, folder: Path, settings: Mapping[str, Any]) -> RefilterResult:
    """Create a fork, filter its inherited outcomes and export the dataset, without sending anything.

    Args:
        source: See ``fork``.
        folder: See ``fork``.
        settings: See ``fork``.

    Returns:
        The new dataset compared with the old one, and what ``generate`` would do next.

    Raises:
        UsageError: See ``fork``.
        LedgerError: See ``fork``.
    """
    fork(source, folder, settings)
    with Ledger(folder, {}, {}) as ledger, Reader(folder) as reader:
        plan = recorded_plan(reader)
        verdicts = VerdictCache(folder, plan)
        state = RunState.from_ledger(plan, reader, on_checkpoint=verdicts.save, ledger=ledger)
        ledger.flush()
        exported = update_dataset(folder, plan, state)
        verdicts.save(state)
    return RefilterResult(
        rows=state.count,
        target=state.target,
        stats=state.stats,
        queued=state.scheduler.queued,
        forecast=None if state.done else Forecast.of(state.stats, state.target, plan.settings.budget),
        comparison=compare(source, folder),
        exported=exported,
    )


def inherited_outcomes(reader: Reader) -> InheritedOutcomes:
    """Return the outcomes that a fork of a run inherits.

    Raises:
        UsageError: If the run has no outcomes.
    """
    inherited = InheritedOutcomes(reader)
    if not inherited.until:
        raise UsageError(f"{reader.path.parent} has no completions yet, so there is nothing to filter again")
    return inherited

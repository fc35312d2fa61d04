"""Another run out of what one run was answered: the same completions, other settings, and nothing bought twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.config import merge, to_yaml
from selfinstruct.common.files import write_atomic
from selfinstruct.engine.forecast import Forecast
from selfinstruct.engine.plan import forked_plan, recorded_plan
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.stats import Stats
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.errors import UsageError
from selfinstruct.ledger import InheritedOutcomes, Ledger, Reader, has_run
from selfinstruct.runs.compare import Comparison, compare
from selfinstruct.runs.export import Exported, refresh

__all__ = ["Refiltered", "Tried", "inherit", "refilter", "tune"]

_ALL = 2**62  # rows: as many as there are


@dataclass(frozen=True)
class Refiltered:
    """A run judged again under other settings, with nothing sent.

    Attributes:
        rows, target: Of the new run.
        queued: Follow-ups of tasks that are kept now and were not then: what would be asked first.
        forecast: What the rows that are missing would take; None if no row was kept, or none is missing.
        comparison: The old dataset beside the new one.
    """

    rows: int
    target: int
    tally: Stats
    queued: int
    forecast: Forecast | None
    comparison: Comparison
    exported: Exported


@dataclass(frozen=True)
class Tried:
    """What a run's answers come to under one choice of settings.

    Attributes:
        values: The settings, by dotted key.
        rows: Rows that would be kept of all answers, whatever the target.
        queued: As of ``Refiltered``: tasks whose answers are not in the ledger, so that ``rows`` tells too little.
    """

    values: Mapping[str, Any]
    rows: int
    queued: int
    tally: Stats


def inherit(source: Path, folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a run in ``folder`` that begins with all that ``source`` was answered. ``generate`` goes on with it.

    Args:
        settings: What is to differ from the source's settings, as in a configuration file.

    Raises:
        UsageError: A setting is wrong; there is a run in ``folder``; nothing was answered yet in ``source``.
        LedgerError: A run can't be read or written.
    """
    if has_run(folder):
        raise UsageError(f"{folder} holds a run; go on with it: selfinstruct generate {folder}; or name another folder")
    with Reader(source) as reader:
        reader.freeze()
        heritage = _heritage(reader)
        plan = forked_plan(settings, reader, heritage)
        with Ledger(folder, plan.meta(), plan.texts(), heritage):
            write_atomic(folder / "config.yaml", [to_yaml(plan.values())])


def refilter(source: Path, folder: Path, settings: Mapping[str, Any]) -> Refiltered:
    """``inherit``, then judge and export, and send nothing.

    Raises:
        UsageError, LedgerError: As ``inherit``.
    """
    inherit(source, folder, settings)
    with Ledger(folder, {}, {}) as ledger, Reader(folder) as reader:
        plan = recorded_plan(reader)
        verdicts = VerdictCache(folder, plan)
        course = RunState.of(plan, reader, keep=verdicts.save, ledger=ledger)
        ledger.flush()
        exported = refresh(folder, plan, course)
        verdicts.save(course)
    forecast = None if course.done else Forecast.of(course.tally, course.target, plan.settings.budget)
    return Refiltered(
        course.count, course.target, course.tally, course.line.queued, forecast, compare(source, folder), exported
    )


def tune(folder: Path, grid: Mapping[str, Sequence[Any]]) -> Iterator[Tried]:
    """Judge a run's answers under every combination of settings, from its ledger alone.

    Args:
        grid: Dotted keys of filter settings, each with the values to try.

    Raises:
        UsageError: A key is no filter's, or a value not allowed.
        LedgerError: The run can't be read.
    """
    for key in grid:
        if not key.startswith("filters."):
            raise UsageError(f"{key!r} is no setting of a filter (filters.novelty.threshold is one)")
    with Reader(folder) as reader:
        reader.freeze()
        heritage = _heritage(reader)
        for choice in itertools.product(*grid.values()):
            values = dict(zip(grid, choice, strict=True))
            given: dict[str, Any] = {"n": _ALL}
            for key, value in values.items():
                given = merge(given, _nested(key, value))
            course = RunState.of(forked_plan(given, reader, heritage), reader)
            yield Tried(values, len(course.rows), course.line.queued, course.tally)


def _heritage(reader: Reader) -> InheritedOutcomes:
    heritage = InheritedOutcomes(reader)
    if not heritage.until:
        raise UsageError(f"{reader.path.parent} was not answered yet: there is nothing to judge again")
    return heritage


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    found: dict[str, Any] = value
    return found

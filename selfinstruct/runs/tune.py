"""A grid search over filter settings, evaluated on the recorded outcomes of a run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.config import merge
from selfinstruct.engine.plan import forked_plan, recorded_plan
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.stats import Stats
from selfinstruct.errors import UsageError
from selfinstruct.ledger import Reader
from selfinstruct.runs.fork import inherited_outcomes

__all__ = ["TuneResult", "tune"]

_NO_LIMIT = 2**62  # a target that no run reaches


@dataclass(frozen=True)
class TuneResult:
    """The yield of a run's completions under one combination of settings.

    Attributes:
        values: The settings, by dotted key.
        rows: Rows that would be kept, regardless of the target.
        queued: Tasks that are kept only under these settings: rejected in the run, or not asked. Their answers are not
            in the ledger, so ``rows`` is a lower bound.
        stats: Counts over all processed requests.
    """

    values: Mapping[str, Any]
    rows: int
    queued: int
    stats: Stats


def tune(folder: Path, grid: Mapping[str, Sequence[Any]]) -> Iterator[TuneResult]:
    """Filter the completions of a run under every combination of settings. Nothing is sent or written.

    Args:
        folder: The run directory. The run may be at work.
        grid: Values to try for each setting, by dotted key (``filters.novelty.threshold``); None disables a filter.

    Yields:
        One result for each combination, in the order of ``itertools.product``.

    Raises:
        UsageError: If a key is not a filter setting, a value is not allowed or the run has no outcomes.
        LedgerError: If the run can't be read.
    """
    for key in grid:
        if not key.startswith("filters."):
            raise UsageError(f"{key!r} is not a filter setting; an example is filters.novelty.threshold")
    with Reader(folder) as reader:
        reader.freeze()
        inherited = inherited_outcomes(reader)
        not_asked = _repeated_tasks(RunState(recorded_plan(reader), _NO_LIMIT))
        for combination in itertools.product(*grid.values()):
            values = dict(zip(grid, combination, strict=True))
            settings: dict[str, Any] = {"n": _NO_LIMIT}
            for key, value in values.items():
                settings = merge(settings, _nested(key, value))
            state = RunState.from_ledger(forked_plan(settings, reader, inherited), reader)
            queued = state.scheduler.queued + len(not_asked - _repeated_tasks(state))
            yield TuneResult(values, len(state.rows), queued, state.stats)


def _repeated_tasks(state: RunState) -> set[str]:
    """Return the ids of the tasks that novelty rejects before they are asked."""
    return {str(verdict.detail["task"]) for verdict in state.scheduler.repeated_tasks}


def _nested(key: str, value: Any) -> dict[str, Any]:
    """Return ``{"a": {"b": value}}`` for the dotted key ``a.b``."""
    *parents, last = key.split(".")
    nested: dict[str, Any] = {last: value}
    for parent in reversed(parents):
        nested = {parent: nested}
    return nested

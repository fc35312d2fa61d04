"""Advice on a run whose answers mostly fail for one reason that a setting can mend: they are not complete."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from selfinstruct.engine.dispatch.reasoning import CODE, FIRST_ROOM
from selfinstruct.engine.plan import RunPlan
from selfinstruct.engine.stats import Stats, UnfinishedKey
from selfinstruct.reasons import RejectReason, ended
from selfinstruct.records.endings import CUT, IN_REASONING, NOT_NAMED
from selfinstruct.strategies.shared.stage import Stage

__all__ = ["advice"]

_AROUND = frozenset({RejectReason.PREAMBLE, RejectReason.TRAILING, RejectReason.OVER_COUNT})  # no row is lost by these
_AT_LIMIT = frozenset({RejectReason.TRUNCATED, *map(ended, CUT)})
_LEAST = 3  # unfinished answers worth a word
_ROWS = 4  # rows for each of them, above which they do not matter
_QUALITY_STAGES = {"candidates": "candidates", "judge": "judging", "tags": "tagging"}


def advice(plan: RunPlan, stats: Stats) -> tuple[str, ...]:
    """Return a sentence on the main reason for which candidates were lost, if a setting can mend it; else nothing."""
    return tuple(_advice(plan, stats))


def _advice(plan: RunPlan, stats: Stats) -> Iterator[str]:
    counts = stats.unfinished
    at_limit = Counter({key: count for key, count in counts.items() if key.reason in _AT_LIMIT})
    in_reasoning = _sum(counts, ended(IN_REASONING)) + stats.failures[CODE]
    unnamed = _sum(counts, ended(NOT_NAMED))
    others = [
        count
        for reasons in (stats.rejected, stats.discarded)
        for reason, count in reasons.items()
        if reason not in _AROUND and reason not in {key.reason for key in counts}
    ]
    most = max((at_limit.total(), in_reasoning, unnamed))
    if stats.names_no_ending:
        most = unnamed
    elif most < _LEAST or most <= max(others, default=0) or most * _ROWS < stats.rows:
        return
    if most == in_reasoning:
        option = plan.capabilities.reasoning_option
        off = f", or switch reasoning off with --set {plan.settings.backend}.{option}=false" if option else ""
        room = max(4 * (plan.settings.reasoning_tokens or 0), 4 * FIRST_ROOM)
        yield (
            f"the model's reasoning took the whole limit of {most} answers, the main reason why rows are missing: "
            f"allow more with --set reasoning_tokens={room}{off}"
        )
    elif most == unnamed:
        yield (
            f"the server names no finish reason for {most} answers, so that none of them counts as complete: if they "
            "are, begin a new run or a fork with --set 'accept_endings=[unknown]'"
        )
    else:
        (key, count), *_ = at_limit.most_common(1)
        yield (
            f"the token limit cut {most} answers, the main reason why rows are missing; {count} of them in the stage "
            f"{key.stage}, whose limit is {key.limit}: raise it in a new run or a fork with --set "
            f"{_setting(plan, key)}={2 * key.limit}"
        )


def _sum(counts: Counter[UnfinishedKey], reason: str) -> int:
    return sum(count for key, count in counts.items() if key.reason == reason)


def _setting(plan: RunPlan, key: UnfinishedKey) -> str:
    """Return the dotted key of the limit of a stage."""
    label, _, name = key.stage.rpartition("/")
    if plan.settings.quality is not None and name in _QUALITY_STAGES:
        return f"quality.{_QUALITY_STAGES[name]}.max_tokens"
    methods = {method.label: (method.name, method.options) for method in plan.methods}
    section, options = methods.get(label, (plan.settings.strategy, plan.strategy_options))
    return f"{section}.{_stage_option(options, name, key.limit)}.max_tokens"


def _stage_option(options: Any, name: str, limit: int) -> str:
    """Return the option with this limit, by preference the one that is called like the stage."""
    values = ((field.name, getattr(options, field.name)) for field in dataclasses.fields(options))
    stages = {field: value for field, value in values if isinstance(value, Stage)}
    called = name.replace("-", "_")
    limits = [field for field, stage in stages.items() if stage.max_tokens == limit]
    return called if called in limits or not limits else limits[0]

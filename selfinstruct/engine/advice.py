"""Advice on a run whose answers mostly fail for one reason that a setting can mend: they are not complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from selfinstruct.engine.dispatch.reasoning import CODE, FIRST_ROOM
from selfinstruct.engine.plan import RunPlan
from selfinstruct.engine.stage_settings import stage_key
from selfinstruct.engine.stats import Stats, UnfinishedKey
from selfinstruct.reasons import RejectReason, ended
from selfinstruct.records.endings import CUT, IN_REASONING, NOT_NAMED

__all__ = ["advice"]

_AROUND = frozenset({RejectReason.PREAMBLE, RejectReason.TRAILING, RejectReason.OVER_COUNT})  # no row is lost by these
_AT_LIMIT = frozenset({RejectReason.TRUNCATED, *map(ended, CUT)})
_LEAST = 3  # unfinished answers worth a word
_NAMED = 5  # endings that a sentence names
_ROWS = 4  # rows for each of them, above which they do not matter


def advice(plan: RunPlan, stats: Stats) -> tuple[str, ...]:
    """Return a sentence on the main reason for which candidates were lost, if a setting can mend it; else nothing."""
    return tuple(_advice(plan, stats))


def _advice(plan: RunPlan, stats: Stats) -> Iterator[str]:
    counts = stats.unfinished
    at_limit = Counter({key: count for key, count in counts.items() if key.reason in _AT_LIMIT})
    in_reasoning = _sum(counts, ended(IN_REASONING)) + stats.failures[CODE]
    unknown = stats.unknown_endings
    others = [
        count
        for reasons in (stats.rejected, stats.discarded)
        for reason, count in reasons.items()
        if reason not in _AROUND and reason not in {key.reason for key in counts}
    ]
    most = max((at_limit.total(), in_reasoning, unknown.total()))
    if stats.names_no_complete_ending:
        most = unknown.total()
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
    elif most == unknown.total():
        yield (
            f"{_endings(unknown)}, so that none of them counts as complete: if they are, begin a new run or a fork "
            f"with --set 'accept_endings=[{', '.join(sorted(dict(unknown.most_common(_NAMED))))}]'"
        )
    else:
        (key, count), *_ = at_limit.most_common(1)
        yield (
            f"the token limit cut {most} answers, the main reason why rows are missing; {count} of them in the stage "
            f"{key.stage}, whose limit is {key.limit}: raise it in a new run or a fork with --set "
            f"{stage_key(plan, key.stage, key.limit)}.max_tokens={2 * key.limit}"
        )


def _endings(unknown: Counter[str]) -> str:
    """Return how many answers end in a way that is not known, in words."""
    if unknown.keys() == {NOT_NAMED}:
        return f"the server names no finish reason for {unknown.total()} answers"
    names = ", ".join(f"{name} {count}" for name, count in unknown.most_common(_NAMED))
    return f"the server ends {unknown.total()} answers with finish reasons that are not known ({names})"


def _sum(counts: Counter[UnfinishedKey], reason: str) -> int:
    return sum(count for key, count in counts.items() if key.reason == reason)

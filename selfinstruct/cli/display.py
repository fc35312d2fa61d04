"""The live view of a run: a panel on a terminal, a plain line every few seconds elsewhere; and figures in words."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from selfinstruct.common.console import format_duration, plural, show
from selfinstruct.engine.progress import RunProgress
from selfinstruct.records import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["repeated_tasks_in_words", "repeated_tasks_to_json", "show_progress"]

_PHASES = {"loading": "loading the model", "draining": "finishing what is under way"}


_SHOWN = 3  # repeated tasks that are named in a line


def repeated_tasks_in_words(verdicts: Sequence[Verdict]) -> str:
    """Return the number of tasks that resemble an earlier one, and the first of them."""
    names = [f"{verdict.detail['task']} ({verdict.nearest}, {verdict.score:.2f})" for verdict in verdicts[:_SHOWN]]
    more = ", ..." if len(verdicts) > _SHOWN else ""
    resemble = "resembles" if len(verdicts) == 1 else "resemble"
    count = plural(len(verdicts), "task")
    return f"{count} that {resemble} an earlier one (filters.novelty): {', '.join(names)}{more}"


def repeated_tasks_to_json(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """Return the JSON form of the tasks that resemble an earlier one."""
    return [
        {"task": verdict.detail["task"], "nearest": verdict.nearest, "score": verdict.score} for verdict in verdicts
    ]


def show_progress(progress: RunProgress) -> AbstractContextManager[None]:
    """Show ``progress`` on standard error while the context is open."""
    return show(lambda: _render(progress), lambda: _plain_line(progress))


def _plain_line(progress: RunProgress) -> str:
    """Return the progress as one line."""
    stats = progress.stats
    parts = [f"{progress.rows}/{progress.target} rows"]
    if stats.acceptance is not None:
        parts.append(f"{stats.acceptance:.0%} of {stats.instructions} instructions kept")
    if rejected := progress.rejected(4):
        parts.append(f"rejected: {rejected}")
    if progress.phase == "loading":
        parts.append("loading the model")
    else:
        parts.append(f"{progress.received} answers, {progress.in_flight} in flight")
        parts.append(f"{progress.tokens_per_second:.0f} tokens/s")
        if stats.reasoning_tokens:
            parts.append(f"{stats.reasoning_tokens / stats.completion_tokens:.0%} of tokens for reasoning")
        if stats.cached is not None:
            parts.append(f"{stats.cached:.0%} of prompts cached")
        remaining = format_duration(progress.seconds_left)
        parts.append(f"{remaining} left" if progress.phase == "running" else progress.phase)
        if progress.phase == "running" and (forecast := progress.forecast):
            parts.append(forecast.in_words())
    parts += [text for text in (progress.servers, progress.notice) if text]
    return " | ".join(parts)


def _render(progress: RunProgress) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    stats = progress.stats
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(f"{progress.rows}/{progress.target} rows", style="bold"),
        ProgressBar(total=progress.target, completed=progress.rows, width=40),
        Text(_PHASES.get(progress.phase, "")),
    )
    figures = Table.grid(padding=(0, 2))
    rate = "-" if stats.acceptance is None else f"{stats.acceptance:.0%}"
    figures.add_row("accepted", f"{rate} of {stats.instructions} instructions parsed")
    figures.add_row("rejected", progress.rejected(6) or "-")
    speed = "-" if progress.phase == "loading" else f"{progress.tokens_per_second:.0f} tokens/s"
    figures.add_row("speed", f"{speed}, {progress.in_flight} in flight, {progress.received} answers")
    if stats.reasoning_tokens:
        figures.add_row("reasoning", f"{stats.reasoning_tokens:,} of {stats.completion_tokens:,} tokens")
    if stats.cached is not None:
        figures.add_row("cache", f"{stats.cached:.0%} of the prompts' tokens")
    figures.add_row("time left", format_duration(progress.seconds_left))
    if forecast := progress.forecast:
        figures.add_row("to go", forecast.in_words())
    if progress.servers:
        figures.add_row("servers", Text(progress.servers, style="yellow"))
    if progress.notice:
        figures.add_row("notice", Text(progress.notice, style="yellow"))
    return Group(head, figures)

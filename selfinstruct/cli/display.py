"""The live view of a run, or of a pass over a file: a panel on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from selfinstruct.engine.progress import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["plain_line", "plural", "say", "show_lines", "show_panel", "show_progress"]

_PLAIN_EVERY_S = 5.0


def plural(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def say(text: str, *, err: bool = False) -> None:
    """Print a line; that nobody reads it any more (``| head -1``, a terminal that is gone) is no reason to stop.

    Raises:
        OSError: Standard output can't take it for another reason: a full disk, say.
    """
    try:
        click.echo(text, err=err)
    except OSError as error:
        if not err and not isinstance(error, BrokenPipeError):
            raise
        # What is still in the buffer would fail again when Python ends, and change the exit code.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
            os.close(nowhere)


@contextmanager
def show_progress(progress: Progress) -> Iterator[None]:
    """Show ``progress`` on standard error while the context is open."""
    if sys.stderr and sys.stderr.isatty():
        with show_panel(lambda: _render(progress)):
            yield
    else:
        with show_lines(lambda: plain_line(progress)):
            yield


@contextmanager
def show_lines(line: Callable[[], str], *, last: bool = True) -> Iterator[None]:
    """Print a line every few seconds when it has changed, and, with ``last``, once at the end."""
    stopped = threading.Event()

    def tell() -> None:
        before = ""
        while not stopped.wait(_PLAIN_EVERY_S):
            if (now := line()) != before:
                say(now, err=True)
                before = now

    thread = threading.Thread(target=tell, name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        if last:
            say(line(), err=True)


def plain_line(progress: Progress) -> str:
    """One line that says where the run is."""
    tally = progress.tally
    parts = [f"{progress.rows}/{progress.target} rows"]
    if tally.acceptance is not None:
        parts.append(f"{tally.acceptance:.0%} of {tally.instructions} instructions kept")
    if rejected := progress.rejected(4):
        parts.append(f"rejected: {rejected}")
    if progress.phase == "loading":
        parts.append("loading the model")
    else:
        parts.append(f"{progress.received} answers, {progress.in_flight} in flight")
        parts.append(f"{progress.tokens_per_second:.0f} tokens/s")
        left = _clock(progress.seconds_left)
        parts.append(f"{left} left" if progress.phase == "running" else progress.phase)
    if progress.notice:
        parts.append(progress.notice)
    return " | ".join(parts)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def show_panel(render: Callable[[], RenderableType]) -> Iterator[None]:
    """Draw what ``render`` gives, again and again, on a terminal."""
    from rich.console import Console
    from rich.live import Live

    with Live(get_renderable=render, console=Console(stderr=True), refresh_per_second=4):
        yield


def _render(progress: Progress) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    tally = progress.tally
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(f"{progress.rows}/{progress.target} rows", style="bold"),
        ProgressBar(total=progress.target, completed=progress.rows, width=40),
        Text({"loading": "loading the model", "draining": "finishing what is under way"}.get(progress.phase, "")),
    )
    figures = Table.grid(padding=(0, 2))
    rate = "-" if tally.acceptance is None else f"{tally.acceptance:.0%}"
    figures.add_row("accepted", f"{rate} of {tally.instructions} instructions parsed")
    figures.add_row("rejected", progress.rejected(6) or "-")
    speed = "-" if progress.phase == "loading" else f"{progress.tokens_per_second:.0f} tokens/s"
    figures.add_row("speed", f"{speed}, {progress.in_flight} in flight, {progress.received} answers")
    figures.add_row("time left", _clock(progress.seconds_left))
    if progress.notice:
        figures.add_row("notice", Text(progress.notice, style="yellow"))
    return Group(head, figures)

"""What a training run shows: a panel on a terminal, plain lines elsewhere; and the documents of a dry run."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from finetune.training.progress import TrainingProgress
from selfinstruct.common.console import echo, format_duration, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finetune.session import Preview

__all__ = ["plain_line", "show_preview", "show_progress"]

_PHASES = {
    "loading": "loading the model",
    "reading": "reading the dataset",
    "evaluating": "measuring the loss on held-out text",
    "answering": "writing sample answers",
    "training": "training",
    "saving": "saving",
    "done": "done",
}


def show_progress(progress: TrainingProgress) -> AbstractContextManager[None]:
    """Show ``progress`` on standard error while the context is open."""
    return show(lambda: _render(progress), lambda: plain_line(progress), last=False)  # the report comes


def plain_line(progress: TrainingProgress) -> str:
    """One line that says where the run is."""
    parts = [_PHASES[progress.phase]]
    if progress.phase == "training":
        parts = [f"step {progress.step}/{progress.steps}", f"epoch {progress.epoch:.2f}", *_figures(progress)]
        parts.append(f"{format_duration(progress.seconds_left)} left")
    if progress.notice:
        parts.append(progress.notice)
    return " | ".join(parts)


def _figures(progress: TrainingProgress) -> list[str]:
    """What is known so far of loss and speed; the share of the peak only where the peak is known."""
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.mfu is not None:
        parts.append(f"MFU {progress.mfu:.1%}")
    return parts


def _render(progress: TrainingProgress) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    if progress.steps:
        head.add_row(
            Text(f"step {progress.step}/{progress.steps}", style="bold"),
            ProgressBar(total=progress.steps, completed=progress.step, width=40),
            Text("" if progress.phase == "training" else _PHASES[progress.phase]),
        )
    else:
        head.add_row(Text(_PHASES[progress.phase], style="bold"))
    figures = Table.grid(padding=(0, 2))
    if progress.steps:
        figures.add_row("epoch", f"{progress.epoch:.2f}")
        figures.add_row("now", ", ".join(_figures(progress)) or "-")
        figures.add_row("time left", format_duration(progress.seconds_left))
    if progress.notice:
        figures.add_row("notice", Text(progress.notice, style="yellow"))
    return Group(head, figures)


def show_preview(preview: Preview) -> None:
    """Print what a run would do: what is supervised is coloured on a terminal, and in ⟦ ⟧ elsewhere."""
    from finetune.report import coloured, preview_lines

    if not sys.stdout.isatty():
        for line in preview_lines(preview):
            echo(line)
        return
    from rich.console import Console

    console = Console(highlight=False)
    for line in preview_lines(preview):
        console.print(coloured(line), soft_wrap=True)

"""Display of a training run: a panel on a terminal, plain lines elsewhere; and the preview of a dry run."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from finetune.training.progress import TrainingProgress
from selfinstruct.common.console import echo, format_duration, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from finetune.preparation import Preview

__all__ = ["show_preview", "show_progress"]

_PHASES = {
    "loading": "loading the model",
    "reading": "reading the dataset",
    "reference": "computing the probabilities of the reference",
    "evaluating": "measuring the loss on held-out text",
    "answering": "writing sample answers",
    "training": "training",
    "saving": "saving",
    "done": "done",
}


def show_progress(progress: TrainingProgress) -> AbstractContextManager[None]:
    """Show ``progress`` on standard error while the context is open."""
    return show(lambda: _render(progress), lambda: _plain_line(progress), last=False)  # the report follows


def _plain_line(progress: TrainingProgress) -> str:
    """Return the state of a run as one line."""
    parts = [_PHASES[progress.phase]]
    if progress.phase == "training":
        parts = [f"step {progress.step}/{progress.steps}", f"epoch {progress.epoch:.2f}", *_metrics(progress)]
        parts.append(f"{format_duration(progress.seconds_left)} left")
    if progress.notice:
        parts.append(progress.notice)
    return " | ".join(parts)


def _metrics(progress: TrainingProgress) -> list[str]:
    """Return loss, speed and MFU, as far as they are known."""
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

    header = Table.grid(padding=(0, 2))
    if progress.steps:
        header.add_row(
            Text(f"step {progress.step}/{progress.steps}", style="bold"),
            ProgressBar(total=progress.steps, completed=progress.step, width=40),
            Text("" if progress.phase == "training" else _PHASES[progress.phase]),
        )
    else:
        header.add_row(Text(_PHASES[progress.phase], style="bold"))
    details = Table.grid(padding=(0, 2))
    if progress.steps:
        details.add_row("epoch", f"{progress.epoch:.2f}")
        details.add_row("now", ", ".join(_metrics(progress)) or "-")
        details.add_row("time left", format_duration(progress.seconds_left))
    if progress.notice:
        details.add_row("notice", Text(progress.notice, style="yellow"))
    return Group(header, details)


def show_preview(preview: Preview) -> None:
    """Print the preview of a run, with supervised text coloured on a terminal and in ⟦ ⟧ elsewhere."""
    from finetune.report import coloured, preview_lines

    if not sys.stdout.isatty():
        for line in preview_lines(preview):
            echo(line)
        return
    from rich.console import Console

    console = Console(highlight=False)
    for line in preview_lines(preview):
        console.print(coloured(line), soft_wrap=True)

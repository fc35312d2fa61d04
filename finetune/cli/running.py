"""One call of a command that trains: its checks, the preview or the training, and the report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from finetune.options import TrainingOptions
from finetune.recipes import load_options
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo
from selfinstruct.common.files import write_atomic

if TYPE_CHECKING:
    from finetune.preparation import Preview
    from finetune.session import TrainingResult

__all__ = ["Functions", "run_training"]


class Functions(NamedTuple):
    """The functions of a kind of training.

    Attributes:
        require_readable: Raises an error for data with a row that can't be read.
        preview: Takes model, data and options.
        train: Takes model, data, folder and options, and the functions ``show`` and ``notify``.
    """

    require_readable: Callable[[str], None]
    preview: Callable[[str | None, str, Any], Preview]
    train: Callable[..., TrainingResult]


def run_training(
    ctx: click.Context,
    load: Callable[[], Functions],
    *,
    kind: type[TrainingOptions] = TrainingOptions,
    model: str | None,
    data: str,
    recipe: str,
    config: Path | None,
    assignments: tuple[str, ...],
    output: Path | None,
    dry_run: bool,
    report: Path | None,
    as_json: bool,
    skip_malformed: bool,
    quiet: bool,
) -> None:
    """Preview or train, and report.

    Args:
        load: Imports and returns the functions, once the options are known to be valid: they import torch.
        kind: The settings.
    """
    options = load_options(recipe, config, assignments, kind=kind)
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output'.", ctx)
    if (report or as_json) and not dry_run:
        raise click.UsageError("--report and --json belong to --dry-run.", ctx)
    functions = load()
    if not skip_malformed:
        functions.require_readable(data)
    if output is None or dry_run:
        _write_preview(functions.preview(model, data, options), report, as_json=as_json)
        return
    from finetune.display import show_progress
    from finetune.report import result_lines
    from finetune.training.distributed import is_main_process

    show = _show_nothing if quiet else show_progress
    result = functions.train(model, data, output, options, show=show, notify=lambda line: echo(line, err=True))
    for line in result_lines(result) if is_main_process() else ():
        echo(line)
    if not result.complete:
        ctx.exit(130)


def _write_preview(preview: Preview, report: Path | None, *, as_json: bool) -> None:
    """Print a preview, and write a line of JSON to ``report`` for each row that is not trained on."""
    from finetune.display import show_preview
    from finetune.report import preview_json, unread_json

    if report is not None:
        write_atomic(report, [f"{dumps(row)}\n".encode() for row in unread_json(preview.unread)])
    if as_json:
        echo(dumps(preview_json(preview)))
    else:
        show_preview(preview)


def _show_nothing(_: object) -> AbstractContextManager[None]:
    return nullcontext()

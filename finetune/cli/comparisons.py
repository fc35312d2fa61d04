"""What ``finetune prefer`` and ``finetune reward`` have in common: options, preview, report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finetune.cli.previews import write_preview
from finetune.options import TrainingOptions
from finetune.recipes import load_options, recipe_names
from selfinstruct.common.console import echo

if TYPE_CHECKING:
    from finetune.preparation import Preview
    from finetune.session import TrainingResult

__all__ = ["run_comparison", "run_options"]

_PATH = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


def run_options(recipe: str, kind: type[TrainingOptions]) -> Callable[[Command], Command]:
    """Return a decorator with the options of a training run.

    Args:
        recipe: The default recipe.
        kind: The settings.
    """
    options = [
        click.option("--model", metavar="NAME", help="Model to start from: a folder, a .gguf file or a hub name.  "
                     "[default: the embedded SmolLM2-135M]"),
        click.option("--data", required=True, metavar="PATH",
                     help="Compared answers: a file (.jsonl, .jsonl.gz, .json, .parquet), a run with preference "
                     "data, a datasets directory, a hub name."),
        click.option("--recipe", metavar="NAME", default=recipe, show_default=True,
                     help=f"Settings to start from: {', '.join(recipe_names(kind))}."),
        click.option("--config", type=_PATH, help="YAML file of settings that override the recipe."),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
                     help="Override a setting of recipe and file. May be repeated."),
        click.option("-o", "--output", type=_PATH, metavar="OUT", help="Directory of the run and its model. Not needed "
                     "with --dry-run."),
        click.option("--dry-run", is_flag=True,
                     help="Show documents, steps and predicted memory; train and write nothing."),
        click.option("--report", type=_PATH, metavar="FILE", help="With --dry-run: write a line of JSON for each row "
                     "or answer that is not trained on."),
        click.option("--json", "as_json", is_flag=True, help="With --dry-run: print JSON."),
        click.option("--skip-malformed/--no-skip-malformed", default=True, show_default=True,
                     help="Leave out rows that can't be read, and count them; or refuse the data."),
        click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
    ]  # fmt: skip

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def run_comparison(
    ctx: click.Context,
    kind: type[TrainingOptions],
    preview: Callable[[str | None, str, Any], Preview],
    train: Callable[..., TrainingResult],
    *,
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
        kind: The settings.
        preview, train: The functions of ``finetune.preferences``.
    """
    options = load_options(recipe, config, assignments, kind=kind)
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output'.", ctx)
    if (report or as_json) and not dry_run:
        raise click.UsageError("--report and --json belong to --dry-run.", ctx)
    from finetune.data.pairs import require_comparisons
    from finetune.display import show_progress
    from finetune.report import result_lines
    from finetune.training.distributed import is_main_process

    if not skip_malformed:
        require_comparisons(data)
    if output is None or dry_run:
        write_preview(preview(model, data, options), report, as_json=as_json)
        return
    show = _show_nothing if quiet else show_progress
    result = train(model, data, output, options, show=show, notify=lambda line: echo(line, err=True))
    for line in result_lines(result) if is_main_process() else ():
        echo(line)
    if not result.complete:
        ctx.exit(130)


def _show_nothing(_: object) -> AbstractContextManager[None]:
    return nullcontext()

"""The options that ``finetune prefer`` and ``finetune reward`` have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from finetune.options import TrainingOptions
from finetune.recipes import recipe_names

__all__ = ["run_options"]

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

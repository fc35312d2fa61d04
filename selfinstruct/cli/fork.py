"""``selfinstruct fork``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from selfinstruct.api import generate
from selfinstruct.cli.display import show_progress
from selfinstruct.cli.generate import finish
from selfinstruct.cli.settings import located, run_options, settings_of
from selfinstruct.runs.fork import fork

_PATH = click.Path(path_type=Path)


@click.command("fork")
@click.argument("run_dir", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, metavar="NEW_DIR", help="Directory of the new run.")
@run_options
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(ctx: click.Context, /, run_dir: Path, output: Path, quiet: bool, **options: Any) -> None:
    """Begin a run in NEW_DIR with all that RUN_DIR was answered, under other settings, and go on.

    The answers are judged again, in their order, and none is asked for twice. A task that is kept now and was not then
    is followed up first. Only the strategy must stay; what is not given is RUN_DIR's own. To go on after a stop:
    selfinstruct generate NEW_DIR.

    \b
    Examples:
      selfinstruct fork runs/demo -o runs/more --set filters.novelty.threshold=0.8 -n 200
      selfinstruct fork runs/demo -o runs/larger --backend openai --model gpt-5-mini --max-requests 500
    """
    settings, lines = settings_of(run_dir, options)
    with located(options["config"], lines):
        fork(run_dir, output, settings)
        result = generate(output, show=None if quiet else show_progress)
    finish(ctx, result)

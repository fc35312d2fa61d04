"""``selfinstruct fork``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from selfinstruct.api import fork
from selfinstruct.cli.display import show_progress
from selfinstruct.cli.generate import finish
from selfinstruct.cli.options import json_option
from selfinstruct.cli.settings import located, run_options, settings_of

_PATH = click.Path(path_type=Path)


@click.command("fork")
@click.argument("run_dir", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, metavar="NEW_DIR", help="Directory of the new run.")
@run_options
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, run_dir: Path, output: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Start a run in NEW_DIR with the completions of RUN_DIR under other settings, and continue it.

    The completions are filtered again, in their order; none is requested twice. Tasks that are kept now and were
    rejected before are followed up first. The strategy must stay; all other settings default to RUN_DIR's. To resume
    after a stop: selfinstruct generate NEW_DIR.

    \b
    Examples:
      selfinstruct fork runs/demo -o runs/more --set filters.novelty.threshold=0.8 -n 200
      selfinstruct fork runs/demo -o runs/larger --backend openai --model gpt-5-mini --max-requests 500
    """
    settings, lines = settings_of(run_dir, options)
    with located(options["config"], lines):
        result = fork(run_dir, output, settings, show=None if quiet else show_progress)
    finish(ctx, result, as_json=as_json)

"""``selfinstruct respond``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from selfinstruct.cli.generate import generate_options, run_generate
from selfinstruct.cli.settings import settings_of
from selfinstruct.errors import UsageError
from selfinstruct.ledger import has_run


@click.command("respond")
@click.argument("run_dir", type=click.Path(path_type=Path))
@generate_options
@click.pass_context
def command(ctx: click.Context, /, run_dir: Path, **options: Any) -> None:
    """Answer the tasks of a file or a run (generate with the strategy respond).

    Each task is sent to the model unchanged and becomes a row with the answer; -n defaults to the number of tasks.
    respond.systems draws a system prompt for each task from a set (builtin, or a file); respond.reasoning requests
    the reasoning and keeps it apart from the answer. The same command, or generate, resumes a run that stopped.

    \b
    Examples:
      selfinstruct respond runs/answers --from tasks.jsonl
      selfinstruct respond runs/answers --from tasks.txt --set respond.systems=builtin
      selfinstruct respond runs/thought --from runs/demo --set respond.reasoning=true
    """
    settings, lines = settings_of(run_dir, {**options, "strategy": "respond"})
    if not (options["source"] or has_run(run_dir) or "seeds" in settings):
        raise UsageError("which tasks are to be answered? Name a file or a run: --from PATH")
    run_generate(ctx, run_dir, settings, lines, options)

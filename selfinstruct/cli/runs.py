"""``selfinstruct runs``."""

from __future__ import annotations

from pathlib import Path

import click

from selfinstruct.api import list_runs
from selfinstruct.cli.options import json_option
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo, strip_control_chars
from selfinstruct.runs.listing import RunListing

_HEADINGS = ("run", "rows", "kept", "strategy", "backend", "models", "tokens out")


@click.command("runs")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("runs"))
@json_option
def command(folder: Path, as_json: bool) -> None:
    """List the runs below DIR (default: runs) with their progress.

    \b
    Examples:
      selfinstruct runs
      selfinstruct runs /data/runs --json
    """
    runs = list_runs(folder)
    if as_json:
        echo(dumps({"runs": [_to_json(run) for run in runs]}))
        return
    if not runs:
        echo(f"no run in {folder}")
        return
    lines = [_HEADINGS, *map(_cells, runs)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cells(run: RunListing) -> tuple[str, ...]:
    if run.status is None:
        return str(run.folder), "-", "-", f"can't be read: {' '.join(run.error.split())[:90]}", "", "", ""
    stats, settings = run.status.stats, run.status.plan.settings
    return (
        str(run.folder),
        f"{run.status.rows}/{run.status.target}",
        "-" if stats.acceptance is None else f"{stats.acceptance:.0%}",
        settings.strategy,
        settings.backend,
        strip_control_chars(", ".join(sorted(stats.models))) or "-",
        f"{stats.completion_tokens:,}",
    )


def _to_json(run: RunListing) -> dict[str, object]:
    if run.status is None:
        return {"run": str(run.folder), "error": run.error}
    stats, settings = run.status.stats, run.status.plan.settings
    return {
        "run": str(run.folder),
        "rows": run.status.rows,
        "target": run.status.target,
        "complete": run.status.complete,
        "acceptance": stats.acceptance,
        "strategy": settings.strategy,
        "backend": settings.backend,
        "models": dict(stats.models),
        "completion_tokens": stats.completion_tokens,
    }

"""``selfinstruct runs``."""

from __future__ import annotations

from pathlib import Path

import click

from selfinstruct.common.console import echo, strip_control_chars
from selfinstruct.errors import SelfInstructError, UsageError
from selfinstruct.ledger import LEDGER_FILE
from selfinstruct.runs.status import status


@click.command("runs")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("runs"))
def command(folder: Path) -> None:
    """List the runs below DIR (default: runs), with what each came to.

    \b
    Examples:
      selfinstruct runs
      selfinstruct runs /data/runs
    """
    if not folder.is_dir():
        raise UsageError(f"there is no directory {folder}")
    found = sorted(path.parent for path in (*folder.glob(LEDGER_FILE), *folder.glob(f"*/{LEDGER_FILE}")))
    if not found:
        echo(f"no run in {folder}")
        return
    head: tuple[str, ...] = ("run", "rows", "kept", "strategy", "backend", "models", "tokens out")
    lines = [head, *map(_line, found)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    for line in lines:
        echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _line(path: Path) -> tuple[str, ...]:
    try:
        found = status(path)
    except SelfInstructError as error:
        return str(path), "-", "-", f"can't be read: {' '.join(str(error).split())[:90]}", "", "", ""
    stats, settings = found.stats, found.plan.settings
    return (
        str(path),
        f"{found.rows}/{found.target}",
        "-" if stats.acceptance is None else f"{stats.acceptance:.0%}",
        settings.strategy,
        settings.backend,
        strip_control_chars(", ".join(sorted(stats.models))) or "-",
        f"{stats.completion_tokens:,}",
    )

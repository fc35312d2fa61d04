"""``selfinstruct refilter``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from selfinstruct.cli.settings import located, run_options, settings_of
from selfinstruct.common.console import echo, plural
from selfinstruct.runs.compare import Comparison, UnmatchedRow
from selfinstruct.runs.fork import refilter

_PATH = click.Path(path_type=Path)


@click.command("refilter")
@click.argument("run_dir", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, metavar="NEW_DIR", help="Directory of the new run.")
@run_options
def command(run_dir: Path, output: Path, **options: Any) -> None:
    """Judge all that RUN_DIR was answered again under other settings, into NEW_DIR; send nothing.

    Shown is what the new dataset has lost and gained, why, and what going on would send. NEW_DIR is a run like any
    other: selfinstruct generate NEW_DIR goes on with it.

    \b
    Examples:
      selfinstruct refilter runs/demo -o runs/strict --set filters.novelty.threshold=0.5
      selfinstruct refilter runs/demo -o runs/clean --set filters.near_duplicate.threshold=0.6 -n 1000
    """
    settings, lines = settings_of(run_dir, options)
    with located(options["config"], lines):
        found = refilter(run_dir, output, settings)
    judged, compared = found.stats.requests, found.comparison
    echo(f"{output}: {found.rows} of {plural(found.target, 'row')}, from {plural(judged, 'answer')} of {run_dir}; "
        "nothing was sent")  # fmt: skip
    echo(f"rows: {compared.common} kept, {len(compared.lost)} lost{_why(compared.lost)}, "
        f"{len(compared.gained)} gained{_why(compared.gained, 'before: ')}")  # fmt: skip
    if found.rows < found.target:
        first = f"{plural(found.queued, 'follow-up')} of tasks that are kept now, then new ones"
        rest = f"; {found.forecast.in_words()}" if found.forecast else ""
        echo(f"selfinstruct generate {output} would send {first if found.queued else 'new requests'}{rest}")
    echo(f"dataset: {found.exported.path} (sha256 {found.exported.sha256[:12]})")


def _why(missing: tuple[UnmatchedRow, ...], head: str = "") -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in Comparison.reasons(missing))
    return f" ({head}{reasons})" if reasons else ""

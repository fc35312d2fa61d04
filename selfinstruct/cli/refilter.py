"""``selfinstruct refilter``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from selfinstruct.api import refilter
from selfinstruct.cli.export import dataset_to_json
from selfinstruct.cli.options import json_option
from selfinstruct.cli.settings import located, run_options, settings_of
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo, plural
from selfinstruct.runs.compare import Comparison, UnmatchedRow
from selfinstruct.runs.fork import RefilterResult

_PATH = click.Path(path_type=Path)


@click.command("refilter")
@click.argument("run_dir", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, metavar="NEW_DIR", help="Directory of the new run.")
@run_options
@json_option
def command(run_dir: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Filter all completions of RUN_DIR again under other settings, into NEW_DIR; send nothing.

    The summary shows which rows the new dataset has lost and gained, why, and what continuing the run would send.
    NEW_DIR is a run like any other: selfinstruct generate NEW_DIR continues it.

    \b
    Examples:
      selfinstruct refilter runs/demo -o runs/strict --set filters.novelty.threshold=0.5
      selfinstruct refilter runs/demo -o runs/clean --set filters.near_duplicate.threshold=0.6 -n 1000
    """
    settings, lines = settings_of(run_dir, options)
    with located(options["config"], lines):
        result = refilter(run_dir, output, settings)
    if as_json:
        echo(dumps(_to_json(output, result)))
        return
    compared = result.comparison
    echo(f"{output}: {result.rows} of {plural(result.target, 'row')}, from {plural(result.stats.requests, 'answer')} "
        f"of {run_dir}; nothing was sent")  # fmt: skip
    echo(f"rows: {compared.common} kept, {len(compared.lost)} lost{_reasons(compared.lost)}, "
        f"{len(compared.gained)} gained{_reasons(compared.gained, 'before: ')}")  # fmt: skip
    if result.rows < result.target:
        first = f"{plural(result.queued, 'follow-up')} of tasks that are kept now, then new ones"
        rest = f"; {result.forecast.in_words()}" if result.forecast else ""
        echo(f"selfinstruct generate {output} would send {first if result.queued else 'new requests'}{rest}")
    echo(f"dataset: {result.exported.path} (sha256 {result.exported.sha256[:12]})")


def _reasons(rows: tuple[UnmatchedRow, ...], prefix: str = "") -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in Comparison.reasons(rows))
    return f" ({prefix}{reasons})" if reasons else ""


def _to_json(folder: Path, result: RefilterResult) -> dict[str, object]:
    compared = result.comparison
    return {
        "run": str(folder),
        "rows": result.rows,
        "target": result.target,
        "requests": result.stats.requests,
        "common": compared.common,
        "lost": dict(Comparison.reasons(compared.lost)),
        "gained": dict(Comparison.reasons(compared.gained)),
        "waiting": result.queued,
        "forecast": None if result.forecast is None else dataclasses.asdict(result.forecast),
        **dataset_to_json(result.exported),
    }

"""``selfinstruct tune``."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import click
import yaml

from selfinstruct.api import tune
from selfinstruct.cli.options import json_option
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo
from selfinstruct.errors import UsageError
from selfinstruct.runs.tune import TuneResult

_DEFAULT = "filters.novelty.threshold=0.5,0.6,0.7,0.8,0.9"


@click.command("tune")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=V1,V2,...",
    default=(_DEFAULT,),
    show_default=True,
    help="Values of a filter setting. If the option is repeated, every combination is tried.",
)
@json_option
def command(run_dir: Path, grid: tuple[str, ...], as_json: bool) -> None:
    """Show how many rows of a run each combination of filter settings would keep; send and write nothing.

    Every combination filters all completions again. 'waiting' counts tasks that would be kept and were rejected in the
    run: they have no answer yet, and 'fork' would request it.

    \b
    Examples:
      selfinstruct tune runs/demo
      selfinstruct tune runs/demo --grid filters.novelty.threshold=0.6,0.7 --grid filters.copied=null
    """
    values = dict(_read(text) for text in grid)
    results = tune(run_dir, values)
    if as_json:
        echo(dumps({"run": str(run_dir), "results": [_to_json(result) for result in results]}))
        return
    first = next(results)  # fails before anything is printed
    names = [key.removeprefix("filters.").removesuffix(".threshold") for key in values]
    widths = [max(len(name), 6) for name in names]
    head = "  ".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    echo(f"{head}  instructions  tasks   rows  acceptance  waiting")
    for result in chain([first], results):
        stats = result.stats
        cells = "  ".join(
            f"{_cell(value):>{width}}" for value, width in zip(result.values.values(), widths, strict=True)
        )
        rate = "-" if stats.acceptance is None else f"{stats.acceptance:.1%}"
        tasks = stats.tasks or result.rows  # a strategy whose tasks arrive as whole rows counts no tasks
        echo(f"{cells}  {stats.instructions:>12,}  {tasks:>5,}  {result.rows:>5,}  {rate:>10}  {result.queued:>7,}")


def _read(text: str) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise UsageError(f"--grid {text!r}: write it as key=value,value, for example {_DEFAULT}")
    try:
        return key.strip(), [yaml.safe_load(value) for value in values.split(",")]
    except yaml.YAMLError:
        raise UsageError(f"--grid {text!r}: {values!r} is not a list of values separated by commas") from None


def _cell(value: Any) -> str:
    return "off" if value is None else str(value)


def _to_json(result: TuneResult) -> dict[str, Any]:
    stats = result.stats
    return {
        "settings": dict(result.values), "requests": stats.requests, "instructions": stats.instructions,
        "tasks": stats.tasks, "rows": result.rows, "acceptance": stats.acceptance, "waiting": result.queued,
        "rejected": dict(stats.rejected),
    }  # fmt: skip

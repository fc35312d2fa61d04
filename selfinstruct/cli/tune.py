"""``selfinstruct tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo
from selfinstruct.errors import UsageError
from selfinstruct.runs.tune import TuneResult, tune

_DEFAULT = "filters.novelty.threshold=0.5,0.6,0.7,0.8,0.9"


@click.command("tune")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=V1,V2,...",
    default=(_DEFAULT,),
    show_default=True,
    help="Values of a filter setting; given several times, every combination is tried.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(run_dir: Path, grid: tuple[str, ...], as_json: bool) -> None:
    """Show what a run's answers come to under a grid of filter settings; send and write nothing.

    Every combination judges all answers again. 'waiting' are tasks that are kept under it and were not in the run: they
    have no answer yet, and 'fork' would ask for it.

    \b
    Examples:
      selfinstruct tune runs/demo
      selfinstruct tune runs/demo --grid filters.novelty.threshold=0.6,0.7 --grid filters.copied=null
    """
    wanted = dict(_read(one) for one in grid)
    names = [key.removeprefix("filters.").removesuffix(".threshold") for key in wanted]
    if not as_json:
        head = "  ".join(f"{name:>{max(len(name), 6)}}" for name in names)
        echo(f"{head}  instructions  tasks   rows  acceptance  waiting")
    for found in tune(run_dir, wanted):
        if as_json:
            echo(dumps(_values(found)))
            continue
        values = "  ".join(
            f"{_shown(value):>{max(len(name), 6)}}" for name, value in zip(names, found.values.values(), strict=True)
        )
        rate = "-" if found.stats.acceptance is None else f"{found.stats.acceptance:.1%}"
        tasks = found.stats.tasks or found.rows  # where each task is a row, there are no drafts
        echo(
            f"{values}  {found.stats.instructions:>12,}  {tasks:>5,}  {found.rows:>5,}  {rate:>10}  {found.queued:>7,}"
        )


def _read(text: str) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    if not equals or not values.strip():
        raise UsageError(f"--grid {text!r}: write it as key=value,value, for example {_DEFAULT}")
    try:
        return key.strip(), [yaml.safe_load(value) for value in values.split(",")]
    except yaml.YAMLError:
        raise UsageError(f"--grid {text!r}: {values!r} is no list of values with commas between them") from None


def _shown(value: Any) -> str:
    return "off" if value is None else str(value)


def _values(found: TuneResult) -> dict[str, Any]:
    stats = found.stats
    return {
        **found.values, "requests": stats.requests, "instructions": stats.instructions, "tasks": stats.tasks,
        "rows": found.rows, "acceptance": stats.acceptance, "waiting": found.queued, "rejected": dict(stats.rejected),
    }  # fmt: skip

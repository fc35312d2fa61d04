"""``selfinstruct diff``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from selfinstruct.api import diff
from selfinstruct.cli.options import json_option
from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.runs.compare import Comparison, UnmatchedRow

_PATH = click.Path(path_type=Path)
_MOST_ROWS = 5  # shown of each run


@click.command("diff")
@click.argument("run_a", type=_PATH)
@click.argument("run_b", type=_PATH)
@json_option
def command(run_a: Path, run_b: Path, as_json: bool) -> None:
    """Compare the datasets of two runs: the rows that only one of them has, and what the other run made of them.

    Two rows are the same if their instruction, input and output are.

    \b
    Examples:
      selfinstruct diff runs/demo runs/stricter
      selfinstruct diff runs/demo runs/stricter --json
    """
    comparison = diff(run_a, run_b)
    lost, gained = comparison.lost, comparison.gained
    if as_json:
        echo(dumps({"common": comparison.common, "lost": _to_json(lost), "gained": _to_json(gained)}))
        return
    counts = f"{len(lost):,} in {run_a} alone, {len(gained):,} in {run_b} alone"
    echo(f"{plural(comparison.common, 'row')} in both, {counts}")
    for line in (*_lines(lost, run_a, run_b), *_lines(gained, run_b, run_a)):
        echo(strip_control_chars(line))


def _lines(rows: tuple[UnmatchedRow, ...], run: Path, other: Path) -> Iterator[str]:
    if not rows:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in Comparison.reasons(rows))
    yield f"in {run} alone; in {other}: {reasons}"
    for missing in rows[:_MOST_ROWS]:
        candidate = f" ({missing.candidate})" if missing.candidate else ""
        instruction = " ".join(missing.row.candidate.instruction.split())[:80]
        yield f"  row {missing.position}: {instruction} | {missing.reason}{candidate}"
    if len(rows) > _MOST_ROWS:
        yield f"  and {plural(len(rows) - _MOST_ROWS, 'other row')}"


def _to_json(rows: tuple[UnmatchedRow, ...]) -> list[Json]:
    return [
        {
            "row": missing.position, "id": missing.row.id, "reason": missing.reason, "candidate": missing.candidate,
            "instruction": missing.row.candidate.instruction, "input": missing.row.candidate.input,
            "output": missing.row.candidate.output,
        }
        for missing in rows
    ]  # fmt: skip

"""``selfinstruct diff``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.runs.compare import Comparison, UnmatchedRow, compare

_PATH = click.Path(path_type=Path)
_SHOWN = 5  # rows of each kind


@click.command("diff")
@click.argument("run_a", type=_PATH)
@click.argument("run_b", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every row.")
def command(run_a: Path, run_b: Path, as_json: bool) -> None:
    """Compare the datasets of two runs: rows of one alone, and what the other made of them.

    Rows are the same if instruction, input and output are.

    \b
    Examples:
      selfinstruct diff runs/demo runs/stricter
      selfinstruct diff runs/demo runs/stricter --json
    """
    found = compare(run_a, run_b)
    if as_json:
        echo(dumps({"common": found.common, "lost": _values(found.lost), "gained": _values(found.gained)}))
        return
    counts = f"{len(found.lost):,} in {run_a} alone, {len(found.gained):,} in {run_b} alone"
    echo(f"{plural(found.common, 'row')} in both, {counts}")
    for line in (*_lines(found.lost, run_a, run_b), *_lines(found.gained, run_b, run_a)):
        echo(strip_control_chars(line))


def _lines(missing: tuple[UnmatchedRow, ...], here: Path, there: Path) -> Iterator[str]:
    if not missing:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in Comparison.reasons(missing))
    yield f"in {here} alone; in {there}: {reasons}"
    for one in missing[:_SHOWN]:
        where = f" ({one.candidate})" if one.candidate else ""
        yield f"  row {one.position}: {' '.join(one.row.candidate.instruction.split())[:80]} | {one.reason}{where}"
    if len(missing) > _SHOWN:
        yield f"  and {plural(len(missing) - _SHOWN, 'other row')}"


def _values(missing: tuple[UnmatchedRow, ...]) -> list[Json]:
    return [
        {
            "row": one.position, "id": one.row.id, "reason": one.reason, "candidate": one.candidate,
            "instruction": one.row.candidate.instruction, "input": one.row.candidate.input,
            "output": one.row.candidate.output,
        }
        for one in missing
    ]  # fmt: skip

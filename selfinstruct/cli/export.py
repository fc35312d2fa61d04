"""``selfinstruct export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from selfinstruct.api import export
from selfinstruct.cli.options import json_option
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo, plural
from selfinstruct.runs.export import ExportResult, export_formats
from selfinstruct.runs.partial_formats import PARTIAL_FORMATS

_NAMED = 10  # rows that are named when a format leaves them out


@click.command("export")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--format", "name", type=click.Choice(export_formats()),
              help="Layout of a row. 'preference' holds the rows that have a preference pair, 'rl' prompts with "
              "verifiers for TRL's GRPOTrainer and verl; 'candidates' lists every candidate with its verdicts.  "
              "[default: the layout of the run's own dataset]")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: RUN_DIR/dataset/FORMAT.jsonl]")
@json_option
def command(run_dir: Path, name: str | None, output: Path | None, as_json: bool) -> None:
    """Write a run's dataset in a training format, as JSONL.

    \b
    Examples:
      selfinstruct export runs/demo --format messages
      selfinstruct export runs/demo --format sharegpt -o demo.jsonl
      selfinstruct export runs/demo --format candidates -o why.jsonl
      selfinstruct export runs/judged --format preference
      selfinstruct export runs/verified --format rl
    """
    exported = export(run_dir, name, output)
    if as_json:
        counts = {"left_out": len(exported.left_out), "left_out_rows": list(exported.left_out)}
        echo(dumps({**dataset_to_json(exported), **counts}))
        return
    left_out = f"; {_describe(exported.left_out, PARTIAL_FORMATS[name].part)}" if name and exported.left_out else ""
    echo(f"{exported.path}: {plural(exported.rows, 'line')} (sha256 {exported.sha256[:12]}){left_out}")


def _describe(left_out: Sequence[int], part: str) -> str:
    named = ", ".join(map(str, left_out[:_NAMED]))
    others = f" and {len(left_out) - _NAMED:,} more" if len(left_out) > _NAMED else ""
    return f"{plural(len(left_out), 'row')} without a {part} left out ({named}{others})"


def dataset_to_json(exported: ExportResult) -> dict[str, str | int]:
    """Return the JSON form of a dataset file."""
    return {"dataset": str(exported.path), "lines": exported.rows, "sha256": exported.sha256}

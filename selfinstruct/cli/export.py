"""``selfinstruct export``."""

from __future__ import annotations

from pathlib import Path

import click

from selfinstruct.common.console import plural
from selfinstruct.runs.export import export, export_formats


@click.command("export")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--format", "name", type=click.Choice(export_formats()),
              help="Layout of a row; 'preference' holds the rows that have a pair; 'candidates' lists every candidate "
              "with its verdicts.  [default: that of the run's own dataset]")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: RUN_DIR/dataset/FORMAT.jsonl]")
def command(run_dir: Path, name: str | None, output: Path | None) -> None:
    """Write a run's dataset in a training format, as JSONL.

    \b
    Examples:
      selfinstruct export runs/demo --format messages
      selfinstruct export runs/demo --format sharegpt -o demo.jsonl
      selfinstruct export runs/demo --format candidates -o why.jsonl
      selfinstruct export runs/judged --format preference
    """
    done = export(run_dir, name, output)
    left_out = f"; {plural(done.left_out, 'row')} without a pair left out" if done.left_out else ""
    click.echo(f"{done.path}: {plural(done.rows, 'line')} (sha256 {done.sha256[:12]}){left_out}")

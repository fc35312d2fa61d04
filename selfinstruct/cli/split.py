"""``selfinstruct split``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from selfinstruct.cli.options import FiniteRange, json_option, skip_malformed_option
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo
from selfinstruct.filtering import split_file


@click.command("split")
@click.argument("source", metavar="IN")
@click.option("-o", "--output", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Folder of the two files, train and held-out.")  # fmt: skip
@click.option("--held-out", type=FiniteRange(0, 1, min_open=True, max_open=True), default=0.1, show_default=True,
              help="Fraction of the rows to hold out.")  # fmt: skip
@click.option("--threshold", type=FiniteRange(0, 1, min_open=True), default=0.8, show_default=True,
              help="Jaccard similarity from which two prompts are near-duplicates.")  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the draw.")
@click.option("--column", metavar="FIELD", help="Field to compare; default: the prompt of the row's layout.")
@click.option("--format", "ending", type=click.Choice(["jsonl", "jsonl.gz", "parquet"]), default="jsonl",
              show_default=True, help="Format of the two files.")  # fmt: skip
@skip_malformed_option
@json_option
def command(
    source: str,
    folder: Path,
    held_out: float,
    threshold: float,
    seed: int,
    column: str | None,
    ending: str,
    skip_malformed: bool,
    as_json: bool,
) -> None:
    """Split the rows of IN into a training and a held-out file that share no near-duplicates.

    A row goes where its near-duplicates and the rows with the same question go, so that a figure on the held-out file
    is not a figure on rows that were trained on. IN is a file, a run or a folder, as in selfinstruct filter.

    \b
    Examples:
      selfinstruct split rows.jsonl -o parts
      selfinstruct split runs/demo -o parts --held-out 0.2 --seed 7
      selfinstruct split rows.parquet -o parts --format parquet --threshold 0.7
    """

    def report(message: str) -> None:
        echo(message, err=True)

    summary = split_file(
        source, folder, held_out=held_out, threshold=threshold, seed=seed, column=column, ending=f".{ending}",
        on_malformed=report if skip_malformed else None,
    )  # fmt: skip
    if as_json:
        echo(dumps({"output": str(folder), **dataclasses.asdict(summary)}))
        return
    total = summary.train + summary.held_out
    echo(f"rows       {total:,} in {summary.groups:,} groups, the largest of {summary.largest:,}")
    echo(f"train      {summary.train:,}")
    echo(f"held out   {summary.held_out:,} ({summary.held_out / total:.1%})")
    if summary.malformed:
        echo(f"malformed  {summary.malformed:,}")

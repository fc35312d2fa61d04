"""``selfinstruct seeds``."""

from __future__ import annotations

from pathlib import Path

import click

from selfinstruct.seeds import check_seeds


@click.group("seeds")
def command() -> None:
    """Work with files of seed tasks."""


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--threshold", type=float, default=0.7, show_default=True, help="ROUGE-L from which a pair is too alike.")
@click.pass_context
def check(ctx: click.Context, file: Path, threshold: float) -> None:
    """Report on a file of seed tasks, with the line of whatever is wrong.

    Reads the public layout (id, name, instruction, instances, is_classification) and plain instruction/input/output,
    each with or without a verifier (docs/verifiers.md).
    Exits with 1 when something should be mended.

    \b
    Example:
      selfinstruct seeds check my_tasks.jsonl
    """
    report = check_seeds(file, threshold=threshold)
    for line in (*report.errors, *report.warnings):
        click.echo(line, err=True)
    share = report.with_input / report.tasks if report.tasks else 0.0
    score, one, other = report.closest
    click.echo(f"tasks              {report.tasks} ({report.instances} instances)")
    click.echo(f"classification     {report.classification}")
    click.echo(f"with an input      {report.with_input} ({share:.0%})")
    click.echo(f"median words       {report.median_words} an instruction")
    click.echo(f"closest pair       ROUGE-L {score:.3f} (lines {one} and {other})")
    domains = ", ".join(f"{name} {count}" for name, count in report.domains.items())
    click.echo(f"domains            {len(report.domains)}" + (f": {domains}" if domains else ""))
    click.echo(f"errors             {len(report.errors)}")
    click.echo(f"warnings           {len(report.warnings)}")
    if not report.ok:
        ctx.exit(1)

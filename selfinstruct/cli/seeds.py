"""``selfinstruct seeds``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from selfinstruct.cli.options import FiniteRange, json_option, skip_malformed_option
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo
from selfinstruct.seeds import SeedReport, check_seeds


@click.group("seeds")
def command() -> None:
    """Work with files of seed tasks."""


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    type=FiniteRange(0, 1),
    default=0.7,
    show_default=True,
    help="ROUGE-L from which two instructions are too alike.",
)
@skip_malformed_option
@json_option
@click.pass_context
def check(ctx: click.Context, file: Path, threshold: float, skip_malformed: bool, as_json: bool) -> None:
    """Report on a file of seed tasks, with the line of everything that is wrong.

    Reads the public layout (id, name, instruction, instances, is_classification), plain instruction/input/output, each
    with or without a verifier (docs/verifiers.md), and other layouts of one question with its answer (docs/layouts.md).
    Exits with 1 if there are errors or warnings; with --skip-malformed, errors are counted and don't matter.

    \b
    Examples:
      selfinstruct seeds check my_tasks.jsonl
      selfinstruct seeds check my_tasks.jsonl --json
    """
    report = check_seeds(file, threshold=threshold)
    if as_json:
        score, *lines = report.closest
        closest = {"score": score, "lines": lines}
        echo(dumps({"file": str(file), "ok": report.ok, **dataclasses.asdict(report), "closest": closest}))
    else:
        _print_report(report)
    if report.warnings or not report.tasks or (report.errors and not skip_malformed):
        ctx.exit(1)


def _print_report(report: SeedReport) -> None:
    for line in (*report.errors, *report.warnings):
        echo(line, err=True)
    for notice in report.notices:
        echo(f"note: {notice}", err=True)
    share = report.with_input / report.tasks if report.tasks else 0.0
    score, line_a, line_b = report.closest
    echo(f"tasks              {report.tasks} ({report.instances} instances)")
    echo(f"classification     {report.classification}")
    echo(f"with an input      {report.with_input} ({share:.0%})")
    echo(f"median words       {report.median_words} an instruction")
    closest = (
        f"ROUGE-L {score:.3f} (lines {line_a} and {line_b})" if line_a else "none, since fewer than two can be read"
    )
    echo(f"closest pair       {closest}")
    domains = ", ".join(f"{name} {count}" for name, count in report.domains.items())
    echo(f"domains            {len(report.domains)}" + (f": {domains}" if domains else ""))
    echo(f"errors             {len(report.errors)}")
    echo(f"warnings           {len(report.warnings)}")

"""``selfinstruct retry``."""

from __future__ import annotations

from pathlib import Path

import click

from selfinstruct.api import retry
from selfinstruct.cli.options import json_option
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.runs.retry import RetryResult


@click.command("retry")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--failed",
    "codes",
    multiple=True,
    metavar="CODE",
    help="Reopen only failures with this code, as status lists them. May be repeated.  [default: all]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be reopened; change nothing.")
@json_option
def command(run_dir: Path, codes: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Reopen the failed requests of a run, so that they are asked again.

    A failure is recorded as final only if other requests were answered under the same conditions. If it was wrong all
    the same, for example in a run of an older version whose account had no credit left, retry makes the request open
    again: selfinstruct generate RUN_DIR sends it, and its row can still be made. No completion is lost or requested
    twice. Until the reopened requests are answered, the dataset ends before the first of them.

    \b
    Examples:
      selfinstruct retry runs/demo
      selfinstruct retry runs/demo --failed bad_request
    """
    result = retry(run_dir, codes, dry_run=dry_run)
    if as_json:
        echo(dumps(_to_json(result)))
        return
    echo(strip_control_chars(_summary(result, codes, dry_run=dry_run)))


def _summary(result: RetryResult, codes: tuple[str, ...], *, dry_run: bool) -> str:
    remaining = _counts(result)
    if not result.reopened:
        which = f" with the code {' or '.join(codes)}" if codes else ""
        return f"{result.folder}: no recorded failure{which}; nothing to reopen{remaining}"
    counts = ", ".join(f"{code} {count}" for code, count in result.reopened.most_common())
    verb = "would be reopened" if dry_run else "reopened"
    text = f"{result.folder}: {plural(result.reopened.total(), 'failed request')} {verb}: {counts}{remaining}"
    return text if dry_run else f"{text}. To ask again: selfinstruct generate {result.folder}"


def _counts(result: RetryResult) -> str:
    counts = ", ".join(f"{code} {count}" for code, count in result.remaining.most_common())
    return f" (still recorded as failed: {counts})" if counts else ""


def _to_json(result: RetryResult) -> dict[str, object]:
    return {
        "run": str(result.folder),
        "reopened": dict(result.reopened),
        "remaining": dict(result.remaining),
    }

"""``selfinstruct status``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from selfinstruct.codec import dumps
from selfinstruct.report import Status, status


@click.command("status")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run_dir: Path, as_json: bool) -> None:
    """Show how far a run is, and why candidates were rejected.

    Everything is recomputed from the ledger, also while the run is at work.

    \b
    Examples:
      selfinstruct status runs/demo
      selfinstruct status runs/demo --json
    """
    found = status(run_dir)
    if as_json:
        click.echo(dumps(_values(found)))
        return
    tally, settings = found.tally, found.plan.settings
    state = "complete" if found.complete else "not complete"
    click.secho(f"{run_dir}: {found.rows} of {found.target} rows, {state}", bold=True)
    rows = [
        ("strategy", settings.strategy),
        ("backend", settings.backend),
        ("models", ", ".join(sorted(tally.models)) or "none yet"),
        ("requests", f"{tally.requests} judged, {found.unjudged} stored for later, {found.open} without an outcome"),
        ("stages", _counts(tally.stages)),
        ("instructions", f"{tally.instructions} parsed"),
        ("acceptance", "-" if tally.acceptance is None else f"{tally.acceptance:.1%} (rows / parsed instructions)"),
        ("rejected", _counts(tally.rejected)),
        ("discarded text", _counts(tally.discarded)),
        ("failed requests", _counts(tally.failures)),
        ("tokens", f"{tally.prompt_tokens:,} in ({tally.cached_tokens:,} cached), {tally.completion_tokens:,} out"),
        ("sends", f"{found.spending.sends}, worst case of the unanswered: {_lost(found):,} tokens"),
    ]
    for name, value in rows:
        click.echo(f"  {name:<16} {value}")


def _lost(found: Status) -> int:
    return found.spending.lost_prompt_tokens + found.spending.lost_completion_tokens


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"


def _values(found: Status) -> dict[str, object]:
    tally = found.tally
    return {
        "run": str(found.folder),
        "rows": found.rows,
        "target": found.target,
        "complete": found.complete,
        "strategy": found.plan.settings.strategy,
        "backend": found.plan.settings.backend,
        "requests": tally.requests,
        "unjudged": found.unjudged,
        "open": found.open,
        "instructions": tally.instructions,
        "acceptance": tally.acceptance,
        "stages": dict(tally.stages),
        "rejected": dict(tally.rejected),
        "discarded": dict(tally.discarded),
        "failures": dict(tally.failures),
        "models": dict(tally.models),
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "sends": found.spending.sends,
        "lost_tokens": _lost(found),
    }

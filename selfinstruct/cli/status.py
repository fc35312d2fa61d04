"""``selfinstruct status``."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.engine.stats import Stats
from selfinstruct.runs.status import RunStatus, status

_LEAST_S = 2.0  # between two looks of --watch
_SHARE = 4.0  # and this many times what a look took: a large run is not kept busy with being looked at


@click.command("status")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--watch", is_flag=True, help="Show it again and again, until the run is complete or Ctrl-C.")
@click.option("--verify", is_flag=True, help="Judge all answers again, and compare with the verdicts that were kept.")
def command(run_dir: Path, as_json: bool, watch: bool, verify: bool) -> None:
    """Show how far a run is, and why candidates were rejected, also while it is at work.

    \b
    Examples:
      selfinstruct status runs/demo
      selfinstruct status runs/demo --watch
    """
    while True:
        began = time.monotonic()
        found = status(run_dir, verify=verify)
        took = time.monotonic() - began
        if watch and not as_json:
            click.clear()
        _show(found, as_json=as_json)
        if not watch or found.complete or found.exhausted:
            return
        time.sleep(max(_LEAST_S, _SHARE * took))


def _show(found: RunStatus, *, as_json: bool) -> None:
    if as_json:
        echo(dumps(_values(found)))
        return
    stats, settings = found.stats, found.plan.settings
    state = "complete" if found.complete else "not complete"
    if found.exhausted and found.rows < found.target:
        state += ": every task was asked" if found.complete else ": the strategy has nothing more to ask"
    click.secho(f"{found.folder}: {found.rows} of {found.target} rows, {state}", bold=True)
    rows = [
        ("strategy", _strategy(found)),
        ("backend", settings.backend),
        ("models", ", ".join(sorted(stats.models)) or "none yet"),
        ("requests", f"{stats.requests} judged, {found.undecided} stored for later, {found.open} without an outcome"),
        ("stages", _counts(stats.stages)),
        ("instructions", f"{stats.instructions} parsed"),
        ("acceptance", "-" if stats.acceptance is None else f"{stats.acceptance:.1%} (rows / parsed instructions)"),
        ("rejected", _counts(stats.rejected)),
        ("discarded text", _counts(stats.discarded)),
        ("failed requests", _counts(stats.failures)),
        ("tokens", f"{stats.prompt_tokens:,} in ({_cached(stats)}), {stats.completion_tokens:,} out"),
        ("novelty", "-" if found.novelty is None else f"{found.novelty:.0%} of the last instructions were new"),
        ("to go", found.forecast.in_words() if found.forecast and not found.complete else "-"),
        ("sends", f"{found.spending.sends}, worst case of the unanswered: {_lost(found):,} tokens"),
    ]
    if found.batches:
        rows.append(("batches", f"{found.batches} at the server, with {plural(found.batched, 'request')}"))
    for name, value in rows:
        click.echo(f"  {name:<16} {strip_control_chars(value)}")
    for line in _methods(found):
        click.echo(f"  {strip_control_chars(line)}")
    for table, lines in stats.tables.items():
        click.echo(f"  {strip_control_chars(table)}")
        width = max(map(len, lines))
        for line, counts in lines.items():
            click.echo(f"    {strip_control_chars(line):<{width}}  {strip_control_chars(_counts(counts))}")


def _strategy(found: RunStatus) -> str:
    settings = found.plan.settings
    if not found.plan.methods:
        return settings.strategy
    weights = ", ".join(f"{one.label} {one.weight:g}" for one in found.plan.methods)
    return f"{settings.strategy} of {weights}" + ("; weights follow what they bring" if settings.adapt else "")


def _methods(found: RunStatus) -> Iterator[str]:
    """What each method of a mixed run took and brought, and how often it was asked over the run's course."""
    shares = found.stats.by_method
    if not shares:
        return
    width = max(len("requests 9999-9999"), *map(len, shares))
    proposals = sum(one.proposals for one in shares.values())
    yield f"{'methods':<{width + 2}}  proposals   share   tokens    rows  rows per 1,000 tokens"
    for label, one in shares.items():
        rate = "-" if one.rate is None else f"{one.rate:.2f}"
        share = one.proposals / proposals if proposals else 0.0
        yield f"  {label:<{width}}  {one.proposals:>9,}  {share:>6.0%}  {one.tokens:>7,}  {one.rows:>6,}  {rate:>21}"
    yield f"{'share of proposals':<{width + 2}}  " + "  ".join(f"{label:>4}" for label in shares)
    for part in found.proposal_windows:
        total = sum(part.proposals.values())
        parts = "  ".join(f"{part.proposals[label] / total:>{max(4, len(label))}.0%}" for label in shares)
        yield f"  {f'requests {part.first}-{part.last}':<{width}}  {parts}"


def _cached(stats: Stats) -> str:
    return f"{stats.cached_tokens:,} cached" + ("" if stats.cached is None else f": {stats.cached:.0%}")


def _lost(found: RunStatus) -> int:
    return found.spending.lost_prompt_tokens + found.spending.lost_completion_tokens


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"


def _values(found: RunStatus) -> dict[str, object]:
    stats = found.stats
    return {
        "run": str(found.folder),
        "rows": found.rows,
        "target": found.target,
        "complete": found.complete,
        "exhausted": found.exhausted,
        "strategy": found.plan.settings.strategy,
        "backend": found.plan.settings.backend,
        "requests": stats.requests,
        "unjudged": found.undecided,
        "open": found.open,
        "batches": found.batches,
        "batched": found.batched,
        "instructions": stats.instructions,
        "acceptance": stats.acceptance,
        "novelty": found.novelty,
        "forecast": None if found.forecast is None else dataclasses.asdict(found.forecast),
        "stages": dict(stats.stages),
        "rejected": dict(stats.rejected),
        "discarded": dict(stats.discarded),
        "failures": dict(stats.failures),
        "methods": {label: {**dataclasses.asdict(one), "rows_per_1000_tokens": one.rate}
                    for label, one in stats.by_method.items()},
        "proposals": [{"first": one.first, "last": one.last, "methods": dict(sorted(one.proposals.items()))}
                      for one in found.proposal_windows],
        "tables": {table: {line: dict(counts) for line, counts in lines.items()}
                   for table, lines in stats.tables.items()},
        "models": dict(stats.models),
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "completion_tokens": stats.completion_tokens,
        "sends": found.spending.sends,
        "lost_tokens": _lost(found),
    }  # fmt: skip

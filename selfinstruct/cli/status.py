"""``selfinstruct status``."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from selfinstruct.api import status
from selfinstruct.cli.display import repeated_tasks_in_words, repeated_tasks_to_json
from selfinstruct.cli.options import json_option
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.engine.advice import advice
from selfinstruct.engine.stats import Stats
from selfinstruct.runs.status import RunStatus

_LEAST_WAIT_S = 2.0  # between two readings of --watch
_WAIT_FACTOR = 4.0  # at least this multiple of the last reading's duration, so that a large run keeps its CPU time


@click.command("status")
@click.argument("run_dir", type=click.Path(path_type=Path))
@json_option
@click.option("--watch", is_flag=True, help="Repeat until the run is complete; with --json, one object a line.")
@click.option("--verify", is_flag=True, help="Recompute all verdicts, and compare them with the stored ones.")
def command(run_dir: Path, as_json: bool, watch: bool, verify: bool) -> None:
    """Show the progress of a run, and why candidates were rejected. The run may be at work.

    \b
    Examples:
      selfinstruct status runs/demo
      selfinstruct status runs/demo --watch
    """
    while True:
        began = time.monotonic()
        current = status(run_dir, verify=verify)
        seconds = time.monotonic() - began
        if watch and not as_json:
            click.clear()
        if as_json:
            echo(dumps(_to_json(current)))
        else:
            _show(current)
        if not watch or current.complete or current.exhausted:
            return
        time.sleep(max(_LEAST_WAIT_S, _WAIT_FACTOR * seconds))


def _show(current: RunStatus) -> None:
    stats, settings = current.stats, current.plan.settings
    state = "complete" if current.complete else "not complete"
    if current.exhausted and current.rows < current.target:
        state += ": every task was asked" if current.complete else ": the strategy has nothing more to ask"
    click.secho(f"{current.folder}: {current.rows} of {current.target} rows, {state}", bold=True)
    forecast = current.forecast.in_words() if current.forecast and not current.complete else "-"
    requests = f"{stats.requests} processed, {current.undecided} stored for later, {current.open} without an outcome"
    lines = [
        ("strategy", _strategy(current)),
        ("backend", settings.backend),
        ("models", ", ".join(sorted(stats.models)) or "none yet"),
        ("requests", requests),
        ("stages", _counts(stats.stages)),
        ("instructions", f"{stats.instructions} parsed"),
        ("acceptance", "-" if stats.acceptance is None else f"{stats.acceptance:.1%} (rows / parsed instructions)"),
        ("rejected", _counts(stats.rejected)),
        ("discarded text", _counts(stats.discarded)),
        ("failed requests", _counts(stats.failures)),
        (
            "tokens",
            f"{stats.prompt_tokens:,} in ({_cached(stats)}), {stats.completion_tokens:,} out{_reasoning(stats)}",
        ),
        ("novelty", "-" if current.novelty is None else f"{current.novelty:.0%} of the last instructions were new"),
        ("to go", forecast),
        ("sends", f"{current.spending.sends}, worst case of the unanswered: {_lost_tokens(current):,} tokens"),
    ]
    if current.repeated_tasks:
        lines.append(("not asked", repeated_tasks_in_words(current.repeated_tasks)))
    if current.batches:
        lines.append(("batches", f"{current.batches} at the server, with {plural(current.batched, 'request')}"))
    for name, value in lines:
        echo(f"  {name:<16} {strip_control_chars(value)}")
    for line in (*advice(current.plan, stats), *_methods(current)):
        echo(f"  {strip_control_chars(line)}")
    for table, rows in stats.tables.items():
        echo(f"  {strip_control_chars(table)}")
        width = max(map(len, rows))
        for row, counts in rows.items():
            echo(f"    {strip_control_chars(row):<{width}}  {strip_control_chars(_counts(counts))}")


def _strategy(current: RunStatus) -> str:
    settings, methods = current.plan.settings, current.plan.methods
    if not methods:
        return settings.strategy
    weights = ", ".join(f"{method.label} {method.weight:g}" for method in methods)
    return f"{settings.strategy} of {weights}" + ("; weights follow what they bring" if settings.adapt else "")


def _methods(current: RunStatus) -> Iterator[str]:
    """Yield a table of the methods of a mixed run, and one of their shares of the proposals over time."""
    shares = current.stats.by_method
    if not shares:
        return
    width = max(len("requests 9999-9999"), *map(len, shares))
    proposals = sum(share.proposals for share in shares.values())
    yield f"{'methods':<{width + 2}}  proposals   share   tokens    rows  rows per 1,000 tokens"
    for label, share in shares.items():
        rate = "-" if share.rate is None else f"{share.rate:.2f}"
        part = share.proposals / proposals if proposals else 0.0
        figures = f"{share.proposals:>9,}  {part:>6.0%}  {share.tokens:>7,}  {share.rows:>6,}  {rate:>21}"
        yield f"  {label:<{width}}  {figures}"
    yield f"{'share of proposals':<{width + 2}}  " + "  ".join(f"{label:>4}" for label in shares)
    for piece in current.proposal_windows:
        total = sum(piece.proposals.values())
        parts = "  ".join(f"{piece.proposals[label] / total:>{max(4, len(label))}.0%}" for label in shares)
        yield f"  {f'requests {piece.first}-{piece.last}':<{width}}  {parts}"


def _reasoning(stats: Stats) -> str:
    return f", {stats.reasoning_tokens:,} of them for reasoning" if stats.reasoning_tokens else ""


def _cached(stats: Stats) -> str:
    return f"{stats.cached_tokens:,} cached" + ("" if stats.cached is None else f": {stats.cached:.0%}")


def _lost_tokens(current: RunStatus) -> int:
    return current.spending.lost_prompt_tokens + current.spending.lost_completion_tokens


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"


def _to_json(current: RunStatus) -> dict[str, object]:
    stats = current.stats
    return {
        "run": str(current.folder),
        "rows": current.rows,
        "target": current.target,
        "complete": current.complete,
        "exhausted": current.exhausted,
        "strategy": current.plan.settings.strategy,
        "backend": current.plan.settings.backend,
        "requests": stats.requests,
        "unjudged": current.undecided,
        "open": current.open,
        "batches": current.batches,
        "batched": current.batched,
        "instructions": stats.instructions,
        "acceptance": stats.acceptance,
        "novelty": current.novelty,
        "forecast": None if current.forecast is None else dataclasses.asdict(current.forecast),
        "stages": dict(stats.stages),
        "rejected": dict(stats.rejected),
        "repeated_tasks": repeated_tasks_to_json(current.repeated_tasks),
        "discarded": dict(stats.discarded),
        "failures": dict(stats.failures),
        "methods": {label: {**dataclasses.asdict(share), "rows_per_1000_tokens": share.rate}
                    for label, share in stats.by_method.items()},
        "proposals": [{"first": piece.first, "last": piece.last, "methods": dict(sorted(piece.proposals.items()))}
                      for piece in current.proposal_windows],
        "tables": {table: {row: dict(counts) for row, counts in rows.items()}
                   for table, rows in stats.tables.items()},
        "models": dict(stats.models),
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "completion_tokens": stats.completion_tokens,
        "reasoning_tokens": stats.reasoning_tokens,
        "advice": list(advice(current.plan, stats)),
        "sends": current.spending.sends,
        "lost_tokens": _lost_tokens(current),
    }  # fmt: skip

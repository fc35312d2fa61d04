"""``selfinstruct generate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from selfinstruct.api import GenerateResult, generate, preview
from selfinstruct.cli.display import show_progress
from selfinstruct.cli.settings import located, run_options, settings_of
from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.ledger import Reader
from selfinstruct.strategies import strategy_names

_PATH = click.Path(path_type=Path)

_ENDINGS = {
    "complete": "complete",
    "exhausted": "{asked}",
    "stalled": "stopped: {patience} requests brought nothing, for the reasons above; change model or sampling in a new "
    "run, or go on with a larger --set patience=",
    "saturated": "novelty exhausted: of the last {window} instructions, {repeated:.0%} resemble what is there already",
    "budget": "stopped at the budget; raise it and give the same command to go on",
    "time": "stopped at the time limit; give the same command to go on",
    "interrupted": "stopped; every answer that arrived is kept, give the same command to go on",
}
_COLLECTED_BY = {  # what brings the answers of requests that the server still has; else the same command does
    "complete": "more rows (-n)",
    "stalled": "a larger --set patience=",
    "saturated": "--set saturation.novelty=0",
}
_SATURATED = (
    "In a new run, a higher temperature, a larger model, more seeds (--seeds) or a higher filters.novelty.threshold "
    "bring more; this one goes on with --set saturation.novelty=0"
)


_OPTIONS = (
    click.option(
        "--from",
        "source",
        type=_PATH,
        metavar="PATH",
        help="What a strategy that works on tasks begins with: a run, or a file of rows, with answers or without. With "
        "--backend replay, and for all other strategies: the recorded run that replay answers from.",
    ),
    run_options,
    click.option("--dry-run", is_flag=True, help="Print the first requests; send and write nothing."),
    click.option(
        "--verify", is_flag=True, help="Judge all answers again instead of trusting the verdicts that were kept."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
)


def generate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of ``generate``, but for the strategy."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("generate")
@click.argument("run_dir", type=_PATH)
@click.option("--strategy", help=f"Method of synthesis: {', '.join(strategy_names())}.  [default: self-instruct]")
@generate_options
@click.pass_context
def command(ctx: click.Context, /, run_dir: Path, **options: Any) -> None:
    """Generate a dataset into RUN_DIR, or go on with the run that is there.

    On an existing run, options not given are the run's own. Free to change are -n, concurrency, budgets, retry, base
    URL and key; all else belongs to the run for life. Ctrl-C stops cleanly: nothing new is sent, what is under way is
    stored; the same command goes on.

    Exit codes: 0 the rows are made; 1 stopped before that, or failed; 2 something in the command, the settings or a
    file must change first; 130 interrupted.

    \b
    Examples:
      selfinstruct generate runs/demo -n 30
      selfinstruct generate runs/demo -n 60
      selfinstruct generate runs/mine --strategy alpaca --seeds my_tasks.jsonl
      selfinstruct generate runs/api --backend openai --model gpt-5-mini --max-requests 500
      selfinstruct generate runs/local --backend openai --base-url http://localhost:8000/v1 --model qwen
      selfinstruct generate runs/cheap --backend openai-batch --model gpt-5-mini -n 5000
      selfinstruct generate runs/fleet --backend openai --model qwen --base-url http://a:8000/v1 --base-url http://b:8000/v1
      selfinstruct generate runs/answers --strategy respond --from my_tasks.jsonl
      selfinstruct generate runs/again --backend replay --from runs/demo -n 30
    """
    settings, lines = settings_of(run_dir, options)
    begin(ctx, run_dir, settings, lines, options)


def begin(
    ctx: click.Context, run_dir: Path, settings: Mapping[str, Any], lines: Mapping[str, int], options: Mapping[str, Any]
) -> None:
    """Begin or go on with the run of these settings, or only preview it.

    Args:
        settings, lines: As ``settings_of`` gives them.
        options: Those of ``generate_options``.
    """
    with located(options["config"], lines):
        if options["dry_run"]:
            _print_preview(run_dir, settings)
            return
        show = None if options["quiet"] else show_progress
        result = generate(run_dir, settings, show=show, verify=options["verify"])
    finish(ctx, result)


def finish(ctx: click.Context, result: GenerateResult) -> None:
    """Tell how a run ended, and end with its exit code."""
    _print_result(result)
    if result.ending == "interrupted":
        ctx.exit(130)
    if result.ending != "complete" and not _worked_off(result):
        ctx.exit(1)


def _worked_off(result: GenerateResult) -> bool:
    """Whether no more than a row for each task was wanted, and every task was asked: there is no more to be had."""
    return result.ending == "exhausted" and result.plan.one_row_per_task and bool(result.rows)


def _print_preview(run_dir: Path, settings: Mapping[str, Any]) -> None:
    requests = preview(run_dir, settings)
    for request in requests[:3]:
        sampling = request.sampling
        click.secho(f"--- request {request.number}: {request.stage}, up to {sampling.max_tokens} tokens, "
                    f"temperature {sampling.temperature}", bold=True)  # fmt: skip
        for turn in request.turns:
            text = strip_control_chars(turn.text)
            click.echo(text if turn.role == "prompt" else f"[{turn.role}]\n{text}")
    click.secho(f"--- {len(requests)} requests would go out next; nothing was sent or written", bold=True)


def _print_result(result: GenerateResult) -> None:
    stats, target = result.stats, result.plan.settings.n
    if result.already:
        with Reader(result.folder) as reader:
            answers = reader.answers()
        # After a smaller -n the dataset is shorter than it was: what it was made of is still there.
        part = f", from {stats.requests} of the {answers} answers in its ledger" if stats.requests < answers else ""
        echo(f"{result.folder} is complete: {plural(len(result.rows), 'row')}{part}. Ask for more with -n.")
    else:
        if result.ending != "complete":
            for name, counts in (
                ("rejected", stats.rejected),
                ("discarded", stats.discarded),
                ("failed", stats.failures),
            ):
                if counts:
                    echo(f"{name}: " + ", ".join(f"{reason} {count}" for reason, count in counts.most_common(8)))
        settings, novelty = result.plan.settings, result.saturation.novelty
        ending = _ENDINGS[result.ending].format(
            patience=settings.patience,
            window=settings.saturation.window,
            repeated=1 - (novelty or 0),
            asked="every task was asked" if _worked_off(result) else "stopped: the strategy has nothing more to ask",
        )
        echo(f"{result.folder}: {ending}")
        if result.left:
            how = _COLLECTED_BY.get(result.ending, "the same command")
            echo(f"{plural(result.left, 'request')} under way in batches: the server goes on with them, {how} will "
                "collect their answers")  # fmt: skip
        if result.ending == "saturated":
            for text in result.saturation.samples:
                echo(f"  such as: {strip_control_chars(' '.join(text.split())[:100])}")
            echo(_SATURATED)
        rate = f", {stats.acceptance:.0%} of {stats.instructions} instructions" if stats.acceptance is not None else ""
        echo(f"{len(result.rows)} of {plural(target, 'row')}{rate}, {plural(stats.requests, 'request')}, "
                   f"{stats.completion_tokens:,} tokens generated")  # fmt: skip
    echo(f"dataset: {result.exported.path} (sha256 {result.exported.sha256[:12]})")

"""``selfinstruct generate``, and the functions that ``respond``, ``fork`` and ``evaluate`` share with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from selfinstruct.api import GenerateResult, generate, preview
from selfinstruct.cli.display import repeated_tasks_in_words, repeated_tasks_to_json, show_progress
from selfinstruct.cli.export import dataset_to_json
from selfinstruct.cli.options import json_option
from selfinstruct.cli.settings import located, run_options, settings_of
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.engine.advice import advice
from selfinstruct.engine.plan import make_plan
from selfinstruct.engine.stats import Stats
from selfinstruct.records import Request
from selfinstruct.strategies import STRATEGIES

_PATH = click.Path(path_type=Path)

_PREVIEWED = 3  # requests that --dry-run prints whole
_ENDINGS = {
    "complete": "complete",
    "exhausted": "stopped: the strategy has nothing more to ask",
    "stalled": "stopped: {patience} requests in a row brought nothing, for the reasons above; change the model or the "
    "sampling in a new run, or continue with a larger --set patience=",
    "unnamed": "stopped: no answer counts as complete, since the server names no finish reason that marks one",
    "saturated": "novelty exhausted: of the last {window} instructions, {repeated:.0%} resemble earlier ones",
    "budget": "stopped at the budget; raise it and repeat the command to continue",
    "time": "stopped at the time limit; repeat the command to continue",
    "interrupted": "stopped; every answer that arrived is stored, repeat the command to continue",
}
_COLLECTED_BY = {  # the option that also fetches the answers of batches; for other endings the same command does
    "complete": "more rows (-n)",
    "stalled": "a larger --set patience=",
    "saturated": "--set saturation.novelty=0",
}
_SATURATED = (
    "In a new run, a higher temperature, a larger model, more seeds (--seeds) or a higher filters.novelty.threshold "
    "help; this run continues with --set saturation.novelty=0"
)

_OPTIONS = (
    click.option(
        "--from",
        "source",
        type=_PATH,
        metavar="PATH",
        help="Tasks that the strategy works on: a run, or a file of rows, with or without answers. With --backend "
        "replay, and for strategies that work on no tasks: the recorded run that replay answers from.",
    ),
    run_options,
    click.option("--dry-run", is_flag=True, help="Print the first requests; send and write nothing."),
    click.option("--verify", is_flag=True, help="Recompute all verdicts instead of resuming from the stored ones."),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
    json_option,
)


def generate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of ``generate`` to a command, except ``--strategy``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("generate")
@click.argument("run_dir", type=_PATH)
@click.option("--strategy", help=f"Method of synthesis: {', '.join(STRATEGIES)}, or a plugin's.  "
              "[default: self-instruct]")  # fmt: skip
@generate_options
@click.pass_context
def command(ctx: click.Context, /, run_dir: Path, **options: Any) -> None:
    """Generate a dataset into RUN_DIR, or resume the run in it.

    An existing run keeps its settings where options are left out. -n, concurrency, budgets, retry, base URL and key
    can be changed at any time; all other settings are fixed for the life of a run. Ctrl-C stops cleanly: no new
    request is sent, and answers under way are stored; the same command continues.

    Exit codes: 0 the rows are made; 1 the run stopped before that, or failed; 2 something in the command, the settings
    or a file must change first; 130 interrupted.

    \b
    Examples:
      selfinstruct generate runs/demo -n 30
      selfinstruct generate runs/demo -n 60
      selfinstruct generate runs/mine --strategy alpaca --seeds my_tasks.jsonl
      selfinstruct generate runs/api --backend openai --model gpt-5-mini --max-requests 500
      selfinstruct generate runs/local --backend openai --base-url http://localhost:8000/v1 --model qwen
      selfinstruct generate runs/cheap --backend openai-batch --model gpt-5-mini -n 5000
      selfinstruct generate runs/several --backend openai --model qwen --base-url http://a:8000/v1 --base-url http://b:8000/v1
      selfinstruct generate runs/answers --strategy respond --from my_tasks.jsonl
      selfinstruct generate runs/again --backend replay --from runs/demo -n 30
    """
    settings, lines = settings_of(run_dir, options)
    run_generate(ctx, run_dir, settings, lines, options)


def run_generate(
    ctx: click.Context, run_dir: Path, settings: Mapping[str, Any], lines: Mapping[str, int], options: Mapping[str, Any]
) -> None:
    """Start, resume or preview a run, and print the result.

    Args:
        ctx: Context of the command.
        run_dir: The run directory.
        settings, lines: The values that ``settings_of`` returned.
        options: Values of ``generate_options``.
    """
    with located(options["config"], lines):
        if options["dry_run"]:
            run_preview(run_dir, settings, as_json=options["as_json"])
            return
        show = None if options["quiet"] else show_progress
        result = generate(run_dir, settings, show=show, verify=options["verify"], on_notice=print_notice)
    finish(ctx, result, as_json=options["as_json"])


def run_preview(run_dir: Path, settings: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the first requests of a run; send and write nothing."""
    requests = preview(run_dir, settings)
    _print_preview(requests, make_plan(settings, run_dir).notices, as_json=as_json)


def print_notice(notice: str) -> None:
    """Print what was left out of a file, on standard error."""
    echo(f"note: {notice}", err=True)


def finish(ctx: click.Context, result: GenerateResult, *, as_json: bool) -> None:
    """Print how a run ended, and exit with its code."""
    if as_json:
        echo(dumps(_to_json(result)))
    else:
        for line in _lines(result):
            echo(line)
    if result.ending == "interrupted":
        ctx.exit(130)
    if not result.succeeded:
        ctx.exit(1)


def _print_preview(requests: list[Request], notices: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        first = [_request_to_json(request) for request in requests[:_PREVIEWED]]
        echo(dumps({"requests": len(requests), "first": first, "notices": list(notices)}))
        return
    for notice in notices:
        print_notice(notice)
    for request in requests[:_PREVIEWED]:
        sampling = request.sampling
        click.secho(f"--- request {request.number}: {request.stage}, up to {sampling.max_tokens} tokens, "
                    f"temperature {sampling.temperature}", bold=True)  # fmt: skip
        for turn in request.turns:
            text = strip_control_chars(turn.text)
            echo(text if turn.role == "prompt" else f"[{turn.role}]\n{text}")
    click.secho(f"--- {len(requests)} requests would go out next; nothing was sent or written", bold=True)


def _request_to_json(request: Request) -> dict[str, object]:
    turns = [{"role": turn.role, "text": turn.text} for turn in request.turns]
    return {
        "request": request.number, "stage": request.stage, "sampling": request.sampling.to_json(), "turns": turns,
    }  # fmt: skip


def _lines(result: GenerateResult) -> Iterator[str]:
    stats, target = result.stats, result.plan.settings.n
    if result.was_complete:
        # After a smaller -n the dataset is shorter than before, but the ledger still holds all completions.
        shorter = stats.requests < result.completions
        part = f", from {stats.requests} of the {result.completions} answers in its ledger" if shorter else ""
        yield f"{result.folder} is complete: {plural(len(result.rows), 'row')}{part}. Ask for more with -n."
    else:
        yield from _ending(result)
        rate = f", {stats.acceptance:.0%} of {stats.instructions} instructions" if stats.acceptance is not None else ""
        yield (f"{len(result.rows)} of {plural(target, 'row')}{rate}, {plural(stats.requests, 'request')}, "
               f"{stats.completion_tokens:,} tokens generated{_reasoning(stats)}")  # fmt: skip
        yield from advice(result.plan, stats)
    yield from result.remarks
    yield f"dataset: {result.exported.path} (sha256 {result.exported.sha256[:12]})"


def _reasoning(stats: Stats) -> str:
    return f", {stats.reasoning_tokens:,} of them for reasoning" if stats.reasoning_tokens else ""


def _ending(result: GenerateResult) -> Iterator[str]:
    """Yield why the run stopped, and how to continue."""
    stats, settings = result.stats, result.plan.settings
    if result.ending != "complete":
        for name, counts in (("rejected", stats.rejected), ("discarded", stats.discarded), ("failed", stats.failures)):
            if counts:
                yield f"{name}: " + ", ".join(f"{reason} {count}" for reason, count in counts.most_common(8))
    if result.repeated_tasks:
        yield f"not asked: {repeated_tasks_in_words(result.repeated_tasks)}"
    message = "every task was asked" if result.every_task_was_asked else _ENDINGS[result.ending]
    repeated = 1 - (result.saturation.novelty or 0)
    message = message.format(patience=settings.patience, window=settings.saturation.window, repeated=repeated)
    yield f"{result.folder}: {message}"
    if result.in_batches:
        collected_by = _COLLECTED_BY.get(result.ending, "the same command")
        yield (f"{plural(result.in_batches, 'request')} under way in batches: the server continues with them, "
               f"{collected_by} will collect their answers")  # fmt: skip
    if result.cancelled:
        yield (f"{plural(result.cancelled, 'request')} under way cancelled, to be sent again when the run continues; "
               f"the worst case of {result.cancelled_tokens:,} tokens is counted")  # fmt: skip
    if result.ending == "saturated":
        for text in result.saturation.samples:
            yield f"  such as: {strip_control_chars(' '.join(text.split())[:100])}"
        yield _SATURATED


def _to_json(result: GenerateResult) -> dict[str, object]:
    stats = result.stats
    return {
        "run": str(result.folder),
        "ending": result.ending,
        "succeeded": result.succeeded,
        "rows": len(result.rows),
        "target": result.plan.settings.n,
        "acceptance": stats.acceptance,
        "requests": stats.requests,
        "instructions": stats.instructions,
        "rejected": dict(stats.rejected),
        "repeated_tasks": repeated_tasks_to_json(result.repeated_tasks),
        "discarded": dict(stats.discarded),
        "failures": dict(stats.failures),
        "notices": list(result.plan.notices),
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "reasoning_tokens": stats.reasoning_tokens,
        "advice": list(advice(result.plan, stats)),
        "in_batches": result.in_batches,
        "cancelled": result.cancelled,
        "cancelled_tokens": result.cancelled_tokens,
        "remarks": list(result.remarks),
        **dataset_to_json(result.exported),
    }

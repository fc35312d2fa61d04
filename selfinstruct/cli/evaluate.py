"""``selfinstruct evaluate``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from selfinstruct.api import EvaluateResult, evaluate, evaluate_settings
from selfinstruct.cli.display import show_progress
from selfinstruct.cli.generate import print_notice, run_preview
from selfinstruct.cli.options import json_option
from selfinstruct.cli.scores import show_scores
from selfinstruct.cli.settings import evaluation_options, located, settings_of
from selfinstruct.common.codec import dumps
from selfinstruct.common.config import merge
from selfinstruct.common.console import echo, plural
from selfinstruct.evaluation.contamination import Contamination

_PATH = click.Path(path_type=Path)

_ENDINGS = {
    "budget": "stopped at the budget; raise it and repeat the command to continue",
    "time": "stopped at the time limit; repeat the command to continue",
    "interrupted": "stopped; every answer that arrived is stored, repeat the command to continue",
}


@click.command("evaluate")
@click.argument("run_dir", type=_PATH)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME=FILE",
    help="A suite: its kind, and its file or a folder of such files. May be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most this many items of each suite.")
@click.option("--answer-tokens", type=click.IntRange(min=1), help="Maximum tokens of an answer.  [default: 1280]")
@click.option("--trained-on", type=_PATH, metavar="DATASET",
              help="Training data of the model: record how many of its rows reveal items.")  # fmt: skip
@evaluation_options
@click.option(
    "--from",
    "source",
    type=_PATH,
    metavar="RUN",
    help="With --backend replay: the run that it answers from.",
)
@click.option("--dry-run", is_flag=True, help="Print the first requests; send and write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, run_dir: Path, suites: tuple[str, ...], **options: Any) -> None:
    """Ask a model each item of suites once, greedily, and score its answers by code.

    An evaluation is a run: the same command resumes it, budgets and several servers work as for generate, and status,
    explain, diff and fork apply to it. The scores are computed from the ledger, which holds the suites, and stored as
    RUN_DIR/scores.json. An item without an answer counts 0, with its reason.

    Exit codes: 0 every item was asked; 1 the run stopped before that; 2 something in the command, the settings or a
    file must change first; 130 interrupted.

    \b
    Examples:
      selfinstruct evaluate runs/before --suite verified=held_out.jsonl
      selfinstruct evaluate runs/after --suite verified=held_out.jsonl --model model.gguf
      selfinstruct evaluate runs/api --suite verified=a.jsonl --suite rouge=tasks/ --backend openai --model gpt-5-mini
      selfinstruct evaluate runs/quick --suite verified=held_out.jsonl --limit 50
    """
    settings, lines = settings_of(run_dir, {**options, "strategy": "evaluate"})
    if options["limit"] is not None:
        settings = merge(settings, {"evaluate": {"limit": options["limit"]}})
    if options["answer_tokens"] is not None:
        settings = merge(settings, {"evaluate": {"answer": {"max_tokens": options["answer_tokens"]}}})
    with located(options["config"], lines):
        if options["dry_run"]:
            run_preview(run_dir, evaluate_settings(suites, settings), as_json=options["as_json"])
            return
        show = None if options["quiet"] else show_progress
        result = evaluate(
            run_dir, suites, settings, trained_on=options["trained_on"], show=show, on_notice=print_notice
        )
    if options["as_json"]:
        echo(dumps(_to_json(result)))
    else:
        for line in _lines(result):
            echo(line)
        show_scores(result.scores)
        if result.contamination is not None:
            echo(_contamination(result.contamination))
    if result.run.ending == "interrupted":
        ctx.exit(130)
    if not result.succeeded:
        ctx.exit(1)


def _lines(result: EvaluateResult) -> Iterator[str]:
    run, stats = result.run, result.run.stats
    if not run.was_complete:
        yield f"{run.folder}: {_ENDINGS.get(run.ending, 'every item was asked')}"
        yield f"{plural(stats.requests, 'request')}, {stats.completion_tokens:,} tokens generated"
    if run.in_batches:
        yield (f"{plural(run.in_batches, 'request')} under way in batches: the server continues with them, the same "
               "command will collect their answers")  # fmt: skip
    yield from run.remarks


def _contamination(measured: Contamination) -> str:
    rows = f"{measured.overlapping:,} of {plural(measured.rows, 'training row')}"
    return f"contamination: {rows} reveal {plural(len(measured.items), 'item')}"


def _to_json(result: EvaluateResult) -> dict[str, object]:
    run = result.run
    return {
        "run": str(run.folder),
        "ending": run.ending,
        "succeeded": result.succeeded,
        "requests": run.stats.requests,
        "prompt_tokens": run.stats.prompt_tokens,
        "completion_tokens": run.stats.completion_tokens,
        "notices": list(run.plan.notices),
        "remarks": list(run.remarks),
        **result.scores.to_json(),
        "contamination": None if result.contamination is None else asdict(result.contamination),
    }

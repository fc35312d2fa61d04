"""``selfinstruct generate``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from selfinstruct.backends import OPTIONS
from selfinstruct.cli.display import show_progress
from selfinstruct.config import assign, merge, read_yaml
from selfinstruct.console import plural, say
from selfinstruct.engine.plan import Settings
from selfinstruct.errors import ConfigError, UsageError
from selfinstruct.ledger import Reader, has_run
from selfinstruct.session import Result, generate, preview

_PATH = click.Path(path_type=Path)

_ENDINGS = {
    "complete": "complete",
    "exhausted": "stopped: the strategy has nothing more to ask",
    "stalled": "stopped: {patience} requests brought nothing, for the reasons above; change model or sampling in a new "
    "run, or go on with a larger --set patience=",
    "saturated": "novelty exhausted: of the last {window} instructions, {repeated:.0%} resemble what is there already",
    "budget": "stopped at the budget; raise it and give the same command to go on",
    "time": "stopped at the time limit; give the same command to go on",
    "interrupted": "stopped; every answer that arrived is kept, give the same command to go on",
}
_SATURATED = (
    "In a new run, a higher temperature, a larger model, more seeds (--seeds) or a higher filters.novelty.threshold "
    "bring more; this one goes on with --set saturation.novelty=0"
)


@click.command("generate")
@click.argument("run_dir", type=_PATH)
@click.option("--config", type=_PATH, help="YAML file of settings; options given here go before it.")
@click.option("--strategy", help="Method of synthesis: self-instruct or alpaca.  [default: self-instruct]")
@click.option("--backend", help="What completes text: llamacpp, openai or replay.  [default: llamacpp]")
@click.option("--model", help="Model name (openai) or GGUF file (llamacpp; default: the embedded model).")
@click.option("--base-url", help="Address of an OpenAI-compatible server, for --backend openai.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the API key.")
@click.option("--api", type=click.Choice(["completion", "chat"]), help="Kind of endpoint to use.")
@click.option("--from", "source", type=_PATH, metavar="RUN_DIR", help="Recorded run that replay answers from.")
@click.option("--seeds", metavar="FILE", help="Seed tasks, JSONL.  [default: the built-in ones]")
@click.option("--prompts", metavar="DIR", help="Folder of templates that replace built-in ones of the same name.")
@click.option("-n", "rows", type=int, help="Rows to make.  [default: 100]")
@click.option("--seed", type=int, help="Every random choice follows from it.  [default: 0]")
@click.option("--concurrency", type=int, help="Requests in flight.  [default: what suits the backend]")
@click.option("--max-requests", type=int, help="Stop before sending more requests than this, repeats included.")
@click.option("--max-tokens", type=int, help="Stop before spending more tokens than this.")
@click.option("--max-cost", type=float, help="Stop before spending more than this; needs budget.price_input/output.")
@click.option("--time-limit", type=float, metavar="SECONDS", help="Stop after this time.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting; an option of its own goes before it. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Print the first requests; send and write nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
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
      selfinstruct generate runs/again --backend replay --from runs/demo -n 30
    """
    dry_run, quiet = options.pop("dry_run"), options.pop("quiet")
    settings, lines = _settings(run_dir, options)
    try:
        if dry_run:
            _print_preview(run_dir, settings)
            return
        result = generate(run_dir, settings, show=None if quiet else show_progress)
    except ConfigError as error:
        if error.key in lines:
            raise ConfigError(f"{options['config']}:{lines[error.key]}: {error}", key=error.key) from None
        raise
    _print_result(result)
    if result.ending == "interrupted":
        ctx.exit(130)
    if result.ending != "complete":
        ctx.exit(1)


def _settings(run_dir: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """The given settings, and the line of each key of the configuration file.

    An option goes before ``--set``, and that before the file. Only when all of them are in is it known whose options
    ``--model`` and the like are.
    """
    settings: dict[str, Any] = {}
    lines: dict[str, int] = {}
    if options["config"]:
        settings, lines = read_yaml(options["config"])
    for assignment in options["assignments"]:
        assign(settings, assignment)
    for key, name in (("strategy", "strategy"), ("backend", "backend"), ("seeds", "seeds"), ("prompts", "prompts"),
                      ("rows", "n"), ("seed", "seed"), ("concurrency", "concurrency")):  # fmt: skip
        if options[key] is not None:
            settings[name] = options[key]
    if options["source"] and not options["backend"]:
        settings["backend"] = "replay"
    limits = {"max_requests": "max_requests", "max_tokens": "max_tokens", "max_cost": "max_cost",
              "time_limit": "time_limit_s"}  # fmt: skip
    budget = {name: options[key] for key, name in limits.items() if options[key] is not None}
    if budget:
        settings = merge(settings, {"budget": budget})
    section = {key: options[key] for key in ("model", "base_url", "api_key_env", "api") if options[key] is not None}
    if options["source"]:
        section["source"] = str(options["source"])
    backend = _backend(run_dir, settings)
    if section and backend in OPTIONS:  # any other is refused by name, whatever its options are
        _check_flags(backend, section)
        settings = merge(settings, {backend: section})
    return settings, lines


def _check_flags(backend: str, section: Mapping[str, Any]) -> None:
    """Refuse an option of the command line that the backend does not have, in the words of the command line."""
    has = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in OPTIONS.items()}
    for key in section:
        if key not in has[backend]:
            flag = "--from" if key == "source" else f"--{key.replace('_', '-')}"
            owners = " or ".join(name for name in sorted(has) if key in has[name])
            raise UsageError(f"{flag} goes with --backend {owners}")


def _backend(run_dir: Path, settings: Mapping[str, Any]) -> str:
    """Whose options ``--model`` and the like are: the given backend's, else the run's, else the default one's."""
    if "backend" in settings:
        return str(settings["backend"])
    if has_run(run_dir):
        with Reader(run_dir) as reader:
            return str(reader.meta("config")["backend"])
    return Settings.backend


def _print_preview(run_dir: Path, settings: Mapping[str, Any]) -> None:
    requests = preview(run_dir, settings)
    for request in requests[:3]:
        sampling = request.sampling
        click.secho(f"--- request {request.number}: {request.stage}, up to {sampling.max_tokens} tokens, "
                    f"temperature {sampling.temperature}", bold=True)  # fmt: skip
        for turn in request.turns:
            click.echo(turn.text if turn.role == "prompt" else f"[{turn.role}]\n{turn.text}")
    click.secho(f"--- {len(requests)} requests would go out next; nothing was sent or written", bold=True)


def _print_result(result: Result) -> None:
    tally, target = result.tally, result.plan.settings.n
    if result.already:
        with Reader(result.folder) as reader:
            answers = len(reader.request_digests()) - len(reader.open_sends())
        # After a smaller -n the dataset is shorter than it was: what it was made of is still there.
        part = f", from {tally.requests} of the {answers} answers in its ledger" if tally.requests < answers else ""
        say(f"{result.folder} is complete: {plural(len(result.rows), 'row')}{part}. Ask for more with -n.")
    else:
        if result.ending != "complete":
            for name, counts in (
                ("rejected", tally.rejected),
                ("discarded", tally.discarded),
                ("failed", tally.failures),
            ):
                if counts:
                    say(f"{name}: " + ", ".join(f"{reason} {count}" for reason, count in counts.most_common(8)))
        settings, novelty = result.plan.settings, result.saturation.novelty
        ending = _ENDINGS[result.ending].format(
            patience=settings.patience, window=settings.saturation.window, repeated=1 - (novelty or 0)
        )
        say(f"{result.folder}: {ending}")
        if result.ending == "saturated":
            for text in result.saturation.samples:
                say(f"  such as: {' '.join(text.split())[:100]}")
            say(_SATURATED)
        rate = f", {tally.acceptance:.0%} of {tally.instructions} instructions" if tally.acceptance is not None else ""
        say(f"{len(result.rows)} of {plural(target, 'row')}{rate}, {plural(tally.requests, 'request')}, "
                   f"{tally.completion_tokens:,} tokens generated")  # fmt: skip
    say(f"dataset: {result.exported.path} (sha256 {result.exported.sha256[:12]})")

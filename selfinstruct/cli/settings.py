"""The settings of a run as options of ``generate``, ``respond``, ``fork`` and ``refilter``."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from selfinstruct.backends import backend_names, backend_spec, builtin_backends
from selfinstruct.cli.options import skip_malformed_option
from selfinstruct.common.config import assign, merge, read_yaml
from selfinstruct.engine.plan import Settings
from selfinstruct.errors import ConfigError, UsageError
from selfinstruct.ledger import Reader, has_run
from selfinstruct.strategies import STRATEGIES, strategy_class, strategy_names
from selfinstruct.strategies.abilities import BeginsWithTasks

__all__ = ["evaluation_options", "located", "run_options", "settings_of"]

_PATH = click.Path(path_type=Path)
_MODEL_OPTIONS = (
    click.option("--config", type=_PATH, help="YAML file of settings; options of the command line override it."),
    click.option(
        "--backend",
        help="Backend that completes requests: llamacpp, openai, openai-batch, transformers, vllm, replay, or a "
        "plugin's.  [default: llamacpp]",
    ),
    click.option(
        "--model",
        help="Model name (openai, openai-batch), GGUF file (llamacpp; default: the embedded model), folder or hub name "
        "(transformers, vllm).",
    ),
    click.option(
        "--base-url",
        multiple=True,
        metavar="URL",
        help="Address of an OpenAI-compatible server, for --backend openai or openai-batch. May be repeated (openai): "
        "requests are spread over the servers that are up.",
    ),
    click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the API key."),
    click.option("--api", type=click.Choice(["completion", "chat"]), help="Kind of endpoint to use."),
)
_TASK_OPTIONS = (
    click.option("--seeds", metavar="FILE", help="Seed tasks, JSONL.  [default: the built-in ones]"),
    skip_malformed_option,
    click.option(
        "--judge",
        metavar="MODEL",
        help="Reward model that scores the answers to each row's question, of which the best is kept: a folder that "
        "finetune reward wrote, or a hub name. --set quality.best_of=4 requests 4 answers.",
    ),
)
_PROMPTS_OPTION = click.option(
    "--prompts", metavar="DIR", help="Folder of templates that replace built-in ones of the same name."
)
_LIMIT_OPTIONS = (
    click.option("--seed", type=int, help="Seed of every random choice.  [default: 0]"),
    click.option("--concurrency", type=int, help="Requests in flight.  [default: depends on the backend]"),
    click.option("--max-requests", type=int, help="Stop before sending more requests than this, repeats included."),
    click.option("--max-tokens", type=int, help="Stop before spending more tokens than this."),
    click.option(
        "--max-cost", type=float, help="Stop before spending more than this; needs budget.price_input/output."
    ),
    click.option(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="Send nothing more after this time; requests under way get another budget.grace_s seconds (30).",
    ),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any setting (docs/configuration.md); a dedicated option overrides it. May be repeated.",
    ),
)
_ROWS_OPTION = click.option("-n", "rows", type=int, help="Rows to make.  [default: 100; respond: one for each task]")


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a run that makes rows to a command."""
    return _add(command, *_MODEL_OPTIONS, *_TASK_OPTIONS, _PROMPTS_OPTION, _ROWS_OPTION, *_LIMIT_OPTIONS)


def evaluation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a run that asks the items of suites to a command."""
    return _add(command, *_MODEL_OPTIONS, _PROMPTS_OPTION, *_LIMIT_OPTIONS)


def _add(command: Callable[..., Any], *options: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


@contextlib.contextmanager
def located(path: Path | None, lines: Mapping[str, int]) -> Iterator[None]:
    """Add file and line to an error about a setting that the configuration file holds."""
    try:
        yield
    except ConfigError as error:
        if error.key in lines:
            raise ConfigError(f"{path}:{lines[error.key]}: {error}", key=error.key) from None
        raise


def settings_of(run_dir: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the settings that the options make up, and the line of each key of the configuration file.

    Options override ``--set``, which overrides the file. ``--model`` and similar options belong to the section of the
    backend, which is known only once all others have been read.

    Args:
        run_dir: The run directory; an existing run provides the settings that are left out.
        options: Values of ``run_options``.
    """
    settings: dict[str, Any] = {}
    lines: dict[str, int] = {}
    if options["config"]:
        settings, lines = read_yaml(options["config"])
    for assignment in options["assignments"]:
        assign(settings, assignment)
    for key, name in (("strategy", "strategy"), ("backend", "backend"), ("seeds", "seeds"), ("prompts", "prompts"),
                      ("rows", "n"), ("seed", "seed"), ("concurrency", "concurrency")):  # fmt: skip
        if options.get(key) is not None:
            settings[name] = options[key]
    if options.get("judge") is not None:
        settings = merge(settings, {"quality": {"reward": {"model": options["judge"]}}})
    if options.get("skip_malformed"):
        settings["skip_malformed"] = True
    source = _read_source(run_dir, settings, options)
    limits = {"max_requests": "max_requests", "max_tokens": "max_tokens", "max_cost": "max_cost",
              "time_limit": "time_limit_s"}  # fmt: skip
    budget = {name: options[key] for key, name in limits.items() if options[key] is not None}
    if budget:
        settings = merge(settings, {"budget": budget})
    section = {key: options[key] for key in ("model", "api_key_env", "api") if options[key] is not None}
    if urls := options["base_url"]:
        section["base_url"] = urls[0] if len(urls) == 1 else list(urls)
    if source:
        section["source"] = str(source)
    backend = str(_resolved(run_dir, settings, "backend"))
    _check_sections(options["assignments"], run_dir, settings, backend)
    if section and backend in backend_names():  # an unknown backend is refused by name later
        _check_flags(backend, section)
        settings = merge(settings, {backend: section})
    return settings, lines


def _check_sections(assignments: Iterable[str], run_dir: Path, settings: Mapping[str, Any], backend: str) -> None:
    """Refuse ``--set`` for a strategy or a backend that the run does not use; a file may hold sections of several."""
    used = {"strategy": set(_strategies(run_dir, settings)), "backend": {backend}}
    names: dict[str, Iterable[str]] = {"backend": backend_names()}
    if backend != "replay":  # its strategy is the source's
        names["strategy"] = strategy_names()
    for assignment in assignments:
        key = assignment.partition("=")[0].strip()
        section = key.partition(".")[0]
        for kind, registered in names.items():
            if section in registered and section not in used[kind]:
                used_names = " and ".join(sorted(used[kind]))
                raise ConfigError(
                    f"--set {key} has no effect: the {kind} of this run is {used_names}; choose {section} with "
                    f"--{kind} {section}, or leave it out",
                    key=key,
                )


def _read_source(run_dir: Path, settings: dict[str, Any], options: Mapping[str, Any]) -> Path | None:
    """Read ``--from``: enter tasks to work on into the settings, or return the run that replay answers from."""
    source: Path | None = options.get("source")
    if source is None:
        return None
    if _begins_with_tasks(run_dir, settings):
        if options.get("seeds"):
            raise UsageError("--from and --seeds both name the tasks to work on; leave one of them out")
        settings["seeds"] = str(source)
        return None
    if not has_run(source):
        raise UsageError(_misplaced_tasks(run_dir, settings, source))
    if not options["backend"]:
        settings["backend"] = "replay"
    return source


def _check_flags(backend: str, section: Mapping[str, Any]) -> None:
    """Refuse an option that the backend does not have, naming the backends that do."""
    fields = {spec.name: _field_names(spec.options) for spec in (*builtin_backends(), backend_spec(backend))}
    for key in section:
        if key not in fields[backend]:
            flag = "--from" if key == "source" else f"--{key.replace('_', '-')}"
            owners = " or ".join(name for name in sorted(fields) if key in fields[name])
            if key == "source":
                owners += f", or with --strategy {_working_on_tasks()}"
            raise UsageError(f"{flag} goes with --backend {owners}")


def _misplaced_tasks(run_dir: Path, settings: Mapping[str, Any], source: Path) -> str:
    """Return what to do about a ``--from`` that names no run, where neither the strategy nor replay can use it."""
    if not source.exists():
        return f"--from: there is neither a file nor a run {source}"
    if _resolved(run_dir, settings, "backend") == "replay":
        return (
            f"--from: {source} holds no run, and the replay backend answers from one; to work on the tasks of the file,"
            f" use another backend and --strategy {_working_on_tasks()}"
        )
    strategy = _resolved(run_dir, settings, "strategy")
    return (
        f"{strategy} writes tasks of its own: to show it the ones in {source} as examples, use --seeds {source}; --from"
        f" goes with --backend replay, or with --strategy {_working_on_tasks()}"
    )


def _working_on_tasks() -> str:
    """Return the names of the strategies that work on tasks."""
    *names, last = (name for name, kind in STRATEGIES.items() if issubclass(kind, BeginsWithTasks))
    return f"{', '.join(names)} or {last}"


def _field_names(options: type) -> set[str]:
    return {field.name for field in dataclasses.fields(options)}


def _begins_with_tasks(run_dir: Path, settings: Mapping[str, Any]) -> bool:
    """Decide whether ``--from`` names tasks to work on (True) or the run that replay answers from (False)."""
    if _resolved(run_dir, settings, "backend") == "replay":
        return False
    names = _strategies(run_dir, settings)
    return any(issubclass(strategy_class(name), BeginsWithTasks) for name in names if name in strategy_names())


def _strategies(run_dir: Path, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the run's strategies."""
    entries = _resolved(run_dir, settings, "strategies")
    if not isinstance(entries, list):  # anything but a list is refused later
        entries = [{"name": _resolved(run_dir, settings, "strategy")}]
    return [str(entry.get("name")) for entry in entries if isinstance(entry, Mapping)]


def _resolved(run_dir: Path, settings: Mapping[str, Any], key: str) -> Any:
    """Return a setting from the options, else from the run, else its default."""
    if key in settings:
        return settings[key]
    if has_run(run_dir):
        with Reader(run_dir) as reader:
            return reader.meta("config").get(key)
    return getattr(Settings, key)

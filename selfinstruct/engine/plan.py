"""From settings to everything a run is made of: strategy, seeds, prompts, filters, backend options.

A plan's *identity* is all that decides which requests are made and how they are read. It is written into a new run
and compared with on every later start; N, concurrency, budgets, retry, addresses and keys are no part of it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from selfinstruct.backends import OPTIONS
from selfinstruct.budget import BudgetOptions
from selfinstruct.codec import canonical, digest, loads
from selfinstruct.config import build, lasting, merge, nearest, read_yaml, to_plain
from selfinstruct.engine.saturation import SaturationOptions
from selfinstruct.errors import ConfigError, RunChangedError, UsageError
from selfinstruct.judge import FilterOptions
from selfinstruct.ledger import Heritage, Reader, has_run
from selfinstruct.prompts import Api, Prompts
from selfinstruct.records import Task
from selfinstruct.resources import builtin_prompts, builtin_seeds, preset
from selfinstruct.retry import RetryOptions
from selfinstruct.seeds import load_seeds, load_tasks, seeds_from_json, seeds_to_json
from selfinstruct.strategies import STRATEGIES
from selfinstruct.strategies.base import Strategy
from selfinstruct.version import SEMANTICS, __version__

__all__ = ["Plan", "Settings", "forked_plan", "make_plan", "recorded_plan", "recorded_seeds"]


@dataclass(frozen=True)
class Settings:
    """The settings that are not a strategy's or a backend's own.

    Attributes:
        seeds: Path of a seed file, or ``builtin``; for a strategy that begins with tasks, also any dataset or run.
        prompts: Folder of templates that go before the built-in ones.
        seed: Every random choice of the run derives from it.
        lag: Most requests between the last judged and the last numbered one. The default for vllm is 1024, and
            for openai-batch 2048.
        n: Rows to make.
        concurrency: Requests in flight; null takes what suits the backend.
        saturation: When to stop because the model repeats itself.
        patience: Requests in a row that bring nothing (no row, no task, no follow-up) after which the run stops, rather
            than spend for ever.
    """

    strategy: str = "self-instruct"
    backend: str = "llamacpp"
    seeds: str = "builtin"
    prompts: str | None = None
    seed: int = 0
    lag: int = 256
    n: int = 100
    concurrency: int | None = None
    patience: int = 200
    saturation: SaturationOptions = field(default_factory=SaturationOptions)
    filters: FilterOptions = field(default_factory=FilterOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)

    def __post_init__(self) -> None:
        for name in ("n", "lag", "patience", "concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")


@dataclass(frozen=True)
class Plan:
    """All that a run is made of, checked and loaded.

    Attributes:
        given: The settings that were given, before presets and defaults.
        history: Of a fork, as its ledger records it: ``until``, the first number of its own; ``digest`` of what it
            inherited; ``eras``, see ``Reader.eras``.
    """

    settings: Settings
    strategy_options: Any
    backend_options: Any
    seeds: tuple[Task, ...]
    prompts: Prompts
    strategy: Strategy
    given: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Any] | None = None

    @property
    def inherited(self) -> int:
        """Requests with numbers below this were another run's."""
        return int(self.history["until"]) if self.history else 0

    def values(self) -> dict[str, Any]:
        """The whole configuration as resolved, in the form of a configuration file."""
        settings = to_plain(self.settings)
        return {
            **settings,
            self.settings.strategy: to_plain(self.strategy_options),
            self.settings.backend: to_plain(self.backend_options),
        }

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """What decides how completions become rows, wherever they came from; holds no path."""
        settings = to_plain(self.settings)
        kept = {key: settings[key] for key in ("strategy", "seed", "lag", "filters")}
        return {
            **kept,
            self.settings.strategy: lasting(self.strategy_options),
            "api": self.prompts.api,
            "seeds": digest(seeds_to_json(self.seeds)),
            "prompts": self.prompts.digests(),
            "semantics": SEMANTICS,
            **({"history": self.history["digest"]} if self.history else {}),
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a run keeps for life: the recipe, and the backend without its free options."""
        free = self.backend_options.FREE
        section = {key: value for key, value in to_plain(self.backend_options).items() if key not in free}
        return {**self.recipe, "backend": self.settings.backend, self.settings.backend: section}

    def meta(self) -> dict[str, Any]:
        """What the ledger of a new run records about it."""
        return {
            "config": self.values(),
            "given": self.given,
            "identity": self.identity,
            "templates": self.prompts.digests(),
            "seeds": self.recipe["seeds"],
            "api": self.prompts.api,
            "version": __version__,
            **({"history": dict(self.history)} if self.history else {}),
        }

    def texts(self) -> dict[str, bytes]:
        """Seeds and templates by digest, for the ledger."""
        texts = {digest(text.encode("utf-8")): text.encode("utf-8") for text in self.prompts.texts.values()}
        return {**texts, self.recipe["seeds"]: canonical(seeds_to_json(self.seeds))}


def make_plan(given: Mapping[str, Any], run: Path | None = None) -> Plan:
    """Check settings and load what they name.

    Args:
        given: Settings as a configuration file would hold them, and only those that were given.
        run: A run directory; if there is a run in it, its own configuration stands for whatever is not given.

    Raises:
        UsageError: A setting, a seed file or a template is wrong.
        LedgerError: The run can't be read.
    """
    base: Reader | None = None
    if run is not None and has_run(run):
        base = Reader(run)
        if not base.has_outcomes():  # nothing is decided yet: begin anew with what was given then and now
            given = merge(base.meta("given"), given)
            base.close()
            base = None
    if base is not None:
        values = merge(base.meta("config"), given)
    elif given.get("backend") == "replay":
        base = Reader(_replay_source(given))
        source = base.meta("config")
        source.pop(source["backend"])
        replay = {**_section(given, "replay"), "api": base.meta("api")}
        values = merge(source, {**given, "replay": replay})
    else:
        values = merge(_preset(given), given)
    # A replay asks what was asked before: from the seeds and templates of the time, unless others are given.
    replays = values.get("backend") == "replay" and base is not None
    recorded = frozenset({"seeds", "prompts"} - given.keys()) if replays else frozenset()
    try:
        history = base.meta("history", None) if base is not None else None
        if replays and history is not None and base is not None and not _is_in(run, base):
            raise UsageError(f"{base.path.parent} is a fork: its first requests were another run's; fork it instead")
        return replace(_plan(values, base, recorded), given=dict(given), history=history)
    finally:
        if base is not None:
            base.close()


def _is_in(run: Path | None, base: Reader) -> bool:
    return run is not None and base.path.parent == run


def recorded_plan(reader: Reader) -> Plan:
    """The plan of a run from its ledger alone, wherever its files have gone.

    Raises:
        RunChangedError: This version of selfinstruct reads ledgers differently.
    """
    plan = _plan(reader.meta("config"), reader, frozenset({"seeds", "prompts"}))
    return replace(plan, history=reader.meta("history", None))


def forked_plan(given: Mapping[str, Any], reader: Reader, heritage: Heritage) -> Plan:
    """The plan of a run that inherits what another one was answered.

    Args:
        given: Settings that are to differ from the other's. Seeds and prompts stay, unless they are given, as they were
            recorded.

    Raises:
        UsageError: A setting is wrong, or the strategy another.
        RunChangedError: This version of selfinstruct reads ledgers differently.
    """
    values = merge(reader.meta("config"), given)
    plan = _plan(values, reader, frozenset({"seeds", "prompts"} - given.keys()))
    before = reader.meta("identity")["strategy"]
    if plan.settings.strategy != before:
        raise UsageError(f"only {before} can read what {reader.path.parent} was answered; leave the strategy as it is")
    era = {"until": heritage.until, "templates": reader.meta("templates")}
    history = {"until": heritage.until, "digest": heritage.digest, "eras": [*reader.eras(), era]}
    return replace(plan, given=dict(given), history=history)


def _preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """What settings that are not given fall back on before the defaults: those that suit the method and the backend.

    A backend with a window of its own names the lag that keeps it full. Like any setting it is resolved here, once: a
    run that exists keeps the number that it was begun with.
    """
    backend = str(given.get("backend", Settings.backend))
    lag = getattr(OPTIONS.get(backend), "LAG", None)
    suited: dict[str, Any] = {} if lag is None else {"lag": lag}
    if backend == "llamacpp" and not _section(given, "llamacpp").get("model"):
        suited.update(read_yaml(preset("embedded"))[0])
    return merge(getattr(STRATEGIES.get(str(given.get("strategy"))), "defaults", {}), suited)


def _replay_source(given: Mapping[str, Any]) -> Path:
    source = _section(given, "replay").get("source")
    if not source:
        raise UsageError("the replay backend needs a recorded run: --from RUN_DIR")
    return Path(source)


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{name!r} is a section of options, found {section!r}", key=name)
    return section


def _plan(values: Mapping[str, Any], base: Reader | None, recorded: frozenset[str]) -> Plan:
    """A plan of these settings; ``recorded`` names what is taken from the ledger of ``base`` and not from files."""
    own = {field.name for field in dataclasses.fields(Settings)}
    sections = {**{name: cls.Options for name, cls in STRATEGIES.items()}, **OPTIONS}
    for key in values:
        if key not in own and key not in sections:
            raise ConfigError(f"unknown key {key!r}{nearest(str(key), own | set(sections))}", key=str(key))
    if base is not None and (semantics := base.meta("identity")["semantics"]) != SEMANTICS:
        raise RunChangedError(
            f"{base.path.parent} was made with semantics {semantics} (selfinstruct {base.meta('version')}), this is "
            f"semantics {SEMANTICS}; install selfinstruct=={base.meta('version')} for it, or start a new run"
        )
    settings = build(Settings, {key: value for key, value in values.items() if key in own})
    for kind, name, known in (("strategy", settings.strategy, STRATEGIES), ("backend", settings.backend, OPTIONS)):
        if name not in known:
            raise ConfigError(f"unknown {kind} {name!r}{nearest(name, known)}", key=kind)
    # Sections of strategies and backends that are not in use are checked too: a typing error there is one all the same.
    options: dict[str, Any] = {
        name: build(kind, _section(values, name), name)
        for name, kind in sections.items()
        if name in values or name in (settings.strategy, settings.backend)
    }
    chosen: Any = STRATEGIES[settings.strategy]  # each class goes with its own Options
    backend_options = options[settings.backend]
    load = load_tasks if chosen.begins_with_tasks else load_seeds
    seeds = _load_seeds(settings, load, base, recorded="seeds" in recorded)
    names = _templates(chosen, options[settings.strategy])
    prompts = _load_prompts(settings, names, backend_options.api, base, recorded="prompts" in recorded)
    strategy = chosen(options[settings.strategy], prompts)
    _check_schemas(settings.backend, backend_options, strategy)
    if "n" not in values and (rows := strategy.rows(seeds)):
        settings = replace(settings, n=rows)
    return Plan(settings, options[settings.strategy], backend_options, tuple(seeds), prompts, strategy)


def _templates(strategy: Any, options: Any) -> Mapping[str, frozenset[str]]:
    """What a strategy needs under these options: without structured output none of its templates."""
    more = strategy.structured_templates if getattr(options, "structured", False) else {}
    return {**strategy.templates, **more}


def _check_schemas(backend: str, options: Any, strategy: Any) -> None:
    """Refuse structured output in raw prompts where the server's name for a schema is not known: before any is sent."""
    if not getattr(strategy.options, "structured", False) or getattr(options, "schema_field", "") is not None:
        return
    apis = [getattr(strategy.options, name).api for name in strategy.structured_stages]
    if "completion" in [options.api if api == "run" else api for api in apis]:
        raise ConfigError(
            "how does the server take a JSON schema for raw completions? Name its field, as in --set "
            f"{backend}.schema_field=structured_outputs (vLLM), ask with --api chat, or set structured to false",
            key=f"{backend}.schema_field",
        )


def _load_seeds(
    settings: Settings, load: Callable[[Path], list[Task]], base: Reader | None, *, recorded: bool
) -> list[Task]:
    """From the file; or from the ledger, when that is wanted or the run's own file has gone."""
    path = builtin_seeds() if settings.seeds == "builtin" else Path(settings.seeds)
    gone = base is not None and not os.path.exists(path) and settings.seeds == base.meta("config")["seeds"]
    if base is not None and (recorded or gone):
        return recorded_seeds(base)
    return load(path)


def _load_prompts(
    settings: Settings, names: Mapping[str, frozenset[str]], api: Api, base: Reader | None, *, recorded: bool
) -> Prompts:
    """From the folders; or from the ledger, likewise."""
    folder = Path(settings.prompts) if settings.prompts else None
    missing = folder is not None and not os.path.isdir(folder)
    gone = base is not None and missing and settings.prompts == base.meta("config")["prompts"]
    if base is not None and (recorded or gone):
        texts = base.templates()
        if new := {name: used for name, used in names.items() if name not in texts}:  # of an option that was off then
            folders = [] if folder is None or missing else [folder]
            texts = {**texts, **Prompts.load(new, api, *folders, builtin_prompts()).texts}
        return Prompts(texts, api)
    if missing:
        raise UsageError(f"no folder of prompts at {folder}")
    if folder is not None and base is None and not any(os.path.isfile(folder / f"{name}.txt") for name in names):
        wanted = ", ".join(f"{name}.txt" for name in sorted(names))
        raise UsageError(f"{folder} replaces no template of this strategy; it may hold {wanted}")
    return Prompts.load(names, api, *([folder] if folder else []), builtin_prompts())


def recorded_seeds(base: Reader) -> list[Task]:
    return seeds_from_json(loads(base.text(base.meta("seeds"))))

"""From settings to everything a run is made of: strategy, seeds, prompts, filters, backend options.

A plan's *identity* is all that decides which requests are made and how they are read. It is written into a new run
and compared with on every later start; N, concurrency, budgets, retry, addresses and keys are no part of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from selfinstruct.backends import OPTIONS
from selfinstruct.common.codec import canonical, digest
from selfinstruct.common.config import build, identity_fields, nearest, section, to_plain
from selfinstruct.engine.checks import check_choices, check_raw, check_reasoning, check_rubrics, check_schemas
from selfinstruct.engine.loading import prompts_of, seeds_of, with_data
from selfinstruct.engine.methods import MIX, Method, merge_with_previous, methods_of, strategy_of
from selfinstruct.engine.presets import defaults_for, overlay_settings
from selfinstruct.engine.settings import Settings
from selfinstruct.errors import ConfigError, RunChangedError, UsageError
from selfinstruct.ledger import InheritedOutcomes, Reader, has_run
from selfinstruct.prompts import Prompts
from selfinstruct.records import Task
from selfinstruct.seeds import seeds_to_json
from selfinstruct.strategies import QualityStrategy, strategy_class, strategy_names
from selfinstruct.strategies.abilities import default_target
from selfinstruct.strategies.base import Strategy
from selfinstruct.strategies.mixture import MixtureOptions
from selfinstruct.version import SEMANTICS, __version__

__all__ = ["RunPlan", "Settings", "forked_plan", "make_plan", "recorded_plan"]


@dataclass(frozen=True)
class RunPlan:
    """All that a run is made of, checked and loaded.

    Attributes:
        given: The settings that were given, before presets and defaults.
        methods: Of a mixed run, its methods.
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
    methods: tuple[Method, ...] = ()

    @property
    def is_one_for_each(self) -> bool:
        """Whether no more is wanted than a row for each task: when all were asked, there is no more to be had."""
        return default_target(self.strategy, self.seeds) == self.settings.n

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
            self.settings.strategy: identity_fields(self.strategy_options),
            **self._mixture,
            **({"quality": identity_fields(self.settings.quality)} if self.settings.quality else {}),
            "api": self.prompts.api,
            "seeds": digest(seeds_to_json(self.seeds)),
            "prompts": self.prompts.digests(),
            "semantics": SEMANTICS,
            **({"history": self.history["digest"]} if self.history else {}),
        }

    @property
    def _mixture(self) -> dict[str, Any]:
        """What a run of one method has not in its recipe."""
        if not self.methods:
            return {}
        return {"strategies": {one.label: one.recipe for one in self.methods}, "adapt": self.settings.adapt}

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


def make_plan(given: Mapping[str, Any], run: Path | None = None) -> RunPlan:
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
            given = merge_with_previous(base.meta("given"), given)
            base.close()
            base = None
    if base is not None:
        values = overlay_settings(base.meta("config"), given)
    elif given.get("backend") == "replay":
        base = Reader(_replay_source(given))
        source = base.meta("config")
        source.pop(source["backend"])
        replay = {**section(given, "replay"), "api": base.meta("api")}
        values = overlay_settings(source, {**given, "replay": replay})
    else:
        values = overlay_settings(defaults_for(given), given)
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


def recorded_plan(reader: Reader) -> RunPlan:
    """The plan of a run from its ledger alone, wherever its files have gone.

    Raises:
        RunChangedError: This version of selfinstruct reads ledgers differently.
    """
    plan = _plan(reader.meta("config"), reader, frozenset({"seeds", "prompts"}))
    return replace(plan, history=reader.meta("history", None))


def forked_plan(given: Mapping[str, Any], reader: Reader, heritage: InheritedOutcomes) -> RunPlan:
    """The plan of a run that inherits what another one was answered.

    Args:
        given: Settings that are to differ from the other's. Seeds and prompts stay, unless they are given, as they were
            recorded.

    Raises:
        UsageError: A setting is wrong, or the strategy another.
        RunChangedError: This version of selfinstruct reads ledgers differently.
    """
    values = overlay_settings(reader.meta("config"), given)
    plan = _plan(values, reader, frozenset({"seeds", "prompts"} - given.keys()))
    identity = reader.meta("identity")
    before = identity["strategy"]
    if plan.settings.strategy != before:
        raise UsageError(f"only {before} can read what {reader.path.parent} was answered; leave the strategy as it is")
    now = {method.label: method.name for method in plan.methods}
    for label, method in identity.get("strategies", {}).items():
        if now.get(label) != method["name"]:
            raise UsageError(
                f"{reader.path.parent} was answered under the label {label!r} ({method['name']}): keep it among the "
                "strategies; with a weight of 0 it asks for nothing more"
            )
    era = {"until": heritage.until, "templates": reader.meta("templates")}
    history = {"until": heritage.until, "digest": heritage.digest, "eras": [*reader.eras(), era]}
    return replace(plan, given=dict(given), history=history)


def _replay_source(given: Mapping[str, Any]) -> Path:
    source = section(given, "replay").get("source")
    if not source:
        raise UsageError("the replay backend needs a recorded run: --from RUN_DIR")
    return Path(source)


def _plan(values: Mapping[str, Any], base: Reader | None, recorded: frozenset[str]) -> RunPlan:
    """A plan of these settings; ``recorded`` names what is taken from the ledger of ``base`` and not from files."""
    own = {field.name for field in dataclasses.fields(Settings)}
    sections = {**{name: strategy_class(name).Options for name in strategy_names()}, MIX: MixtureOptions, **OPTIONS}
    for key in values:
        if key not in own and key not in sections:
            raise ConfigError(f"unknown key {key!r}{nearest(str(key), own | set(sections))}", key=str(key))
    if base is not None and (semantics := base.meta("identity")["semantics"]) != SEMANTICS:
        raise RunChangedError(
            f"{base.path.parent} was made with semantics {semantics} (selfinstruct {base.meta('version')}), this is "
            f"semantics {SEMANTICS}; install selfinstruct=={base.meta('version')} for it, or start a new run"
        )
    settings = build(Settings, {key: value for key, value in values.items() if key in own})
    mixed = settings.strategies is not None
    choices = (("strategy", settings.strategy, strategy_names()), ("backend", settings.backend, tuple(OPTIONS)))
    for kind, name, known in choices:
        if name == MIX and not mixed:
            raise ConfigError(f"{MIX} is a run of several methods; name them under strategies", key=kind)
        if name not in known and name != MIX:
            raise ConfigError(f"unknown {kind} {name!r}{nearest(name, known)}", key=kind)
    # Sections of strategies and backends that are not in use are checked too: a typing error there is one all the same.
    options: dict[str, Any] = {
        name: build(kind, section(values, name), name)
        for name, kind in sections.items()
        if name in values or name in (settings.strategy, settings.backend)
    }
    own_options = options[settings.strategy]
    if mixed:
        methods = methods_of(settings.strategies or ())
        settings = replace(settings, strategies=tuple(method.plain for method in methods))
    else:
        methods = (Method(settings.strategy, settings.strategy, 1.0, own_options),)
    backend_options = options[settings.backend]
    check_raw(settings.backend, backend_options, methods)
    quality, folder = settings.quality, Path(settings.prompts) if settings.prompts else None
    seeds = seeds_of(settings, methods, base, recorded="seeds" in recorded)
    names = {name: used for method in methods for name, used in method.templates.items()}
    if quality is not None:
        check_reasoning(quality, methods)
        check_rubrics(quality, folder, () if base is None else base.templates())
        check_choices(quality, settings.backend, backend_options)
        names |= QualityStrategy.templates_of(quality)
    prompts = prompts_of(settings, names, backend_options.api, base, recorded="prompts" in recorded)
    prompts = with_data(prompts, methods, base, recorded="prompts" in recorded)
    strategy = strategy_of(methods, own_options if mixed else None, prompts, adapt=settings.adapt)
    if quality is not None:
        strategy = QualityStrategy(strategy, quality, prompts)
    check_schemas(settings.backend, backend_options, strategy)
    if "n" not in values and (rows := default_target(strategy, seeds)):
        settings = replace(settings, n=rows)
    return RunPlan(
        settings, own_options, backend_options, tuple(seeds), prompts, strategy, methods=methods if mixed else ()
    )

"""The plan of a run: strategy, seeds, prompts, filters and backend options, resolved from settings.

The *identity* of a plan is everything that decides which requests are made and how completions are read. It is stored
with a new run and compared at every later start. N, concurrency, budgets, retry, addresses and keys are not part of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from selfinstruct.backends import BackendOptions, Capabilities, backend_names, backend_spec
from selfinstruct.common.codec import canonical, digest
from selfinstruct.common.config import build, identity_fields, section, to_plain
from selfinstruct.common.suggestions import suggest, suggest_option
from selfinstruct.engine.checks import check_choices, check_raw, check_reasoning, check_rubrics, check_schemas
from selfinstruct.engine.earlier_filters import filters_of
from selfinstruct.engine.effect import check_effect, check_templates
from selfinstruct.engine.loading import add_data_files, identify_reward_model, load_run_prompts, load_run_seeds
from selfinstruct.engine.methods import MIX, Method, build_methods, build_options, build_strategy, merge_with_previous
from selfinstruct.engine.plugin_versions import backend_plugin, row_plugins
from selfinstruct.engine.presets import defaults_for, overlay_settings, preset_for
from selfinstruct.engine.row_filters import FilterOptions
from selfinstruct.engine.settings import Settings
from selfinstruct.errors import ConfigError, RunChangedError, UsageError
from selfinstruct.ledger import InheritedOutcomes, Reader, has_run
from selfinstruct.parse.answers import AnswerReader
from selfinstruct.prompts import Prompts
from selfinstruct.records import Task
from selfinstruct.seeds import seeds_to_json
from selfinstruct.strategies import QualityStrategy, strategy_class, strategy_names
from selfinstruct.strategies.abilities import AnswersTasks, AsksItems, context_templates, default_target, schema_apis
from selfinstruct.strategies.base import Strategy
from selfinstruct.strategies.mixture import MixtureOptions
from selfinstruct.version import SEMANTICS, __version__

__all__ = ["RunPlan", "Settings", "forked_plan", "make_plan", "recorded_plan"]


@dataclass(frozen=True)
class RunPlan:
    """Everything that a run consists of, validated and loaded.

    Attributes:
        settings: Settings that belong neither to a strategy nor to a backend.
        strategy_options: Options of the strategy, or of the mixture.
        backend_options: Options of the backend.
        seeds: The seed tasks.
        prompts: Templates and data files.
        strategy: The strategy, wrapped where ``quality`` is set.
        user_settings: The user's settings, before presets and defaults are added.
        history: Provenance of a fork as stored in its ledger: ``until``, its first own request number; ``digest`` of
            the inherited outcomes; ``eras``, see ``Reader.eras``. None for other runs.
        methods: The methods of a mixed run; () for a run of one strategy.
        notices: What was left out of the seed file, for the user.
        reopened_until: Requests below this number were sent before failures in between were reopened by ``retry``, so
            that the answers in their place may change what would be requested now. 0 without any.
    """

    settings: Settings
    strategy_options: Any
    backend_options: BackendOptions
    seeds: tuple[Task, ...]
    prompts: Prompts
    strategy: Strategy
    user_settings: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Any] | None = None
    methods: tuple[Method, ...] = ()
    notices: tuple[str, ...] = ()
    reopened_until: int = 0

    @property
    def semantics(self) -> int:
        """Version of the rules by which the ledger is read, see ``version.SEMANTICS``."""
        return self.prompts.semantics

    @property
    def filters(self) -> FilterOptions:
        """The filters as the semantics of the run define them."""
        return filters_of(self.settings.filters, self.semantics)

    @property
    def answering(self) -> frozenset[str]:
        """Labels of the methods that answer seed tasks, which novelty compares with the tasks before them.

        In a run with semantics 1, each task was also compared with itself.
        """
        kinds = {method.label: method.kind for method in self.methods} or {"": strategy_class(self.settings.strategy)}
        answering = frozenset(label for label, kind in kinds.items() if issubclass(kind, AnswersTasks))
        return answering if self.semantics > 1 else frozenset()

    @property
    def one_row_per_task(self) -> bool:
        """Whether the target is one row per task, so that the run is complete once every task was processed."""
        return default_target(self.strategy, self.seeds) == self.settings.n

    @property
    def counts_every_answer(self) -> bool:
        """Whether the run asks given items once each, so that answers which become no row count as well."""
        return isinstance(self.strategy, AsksItems)

    @property
    def reader(self) -> AnswerReader:
        """The rules by which the completions of the run are read."""
        return AnswerReader(frozenset(self.settings.accept_endings), self.semantics)

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the backend under its options."""
        return backend_spec(self.settings.backend).capabilities(self.backend_options)

    @property
    def inherited_until(self) -> int:
        """The first number whose request is rebuilt; lower ones are processed as they were sent. 0 for most runs."""
        return max(int(self.history["until"]) if self.history else 0, self.reopened_until)

    def values(self) -> dict[str, Any]:
        """Return the complete resolved configuration, in the form of a configuration file."""
        settings = to_plain(self.settings)
        return {
            **settings,
            self.settings.strategy: to_plain(self.strategy_options),
            self.settings.backend: to_plain(self.backend_options),
        }

    @cached_property
    def row_identity(self) -> dict[str, Any]:
        """The part of the identity that decides how completions become rows; it contains no path."""
        settings = to_plain(self.settings) | {"filters": identity_fields(self.settings.filters)}
        kept = {key: settings[key] for key in ("strategy", "seed", "lag", "filters")}
        return {
            **kept,
            self.settings.strategy: identity_fields(self.strategy_options),
            **self._mixture,
            **({"quality": identity_fields(self.settings.quality)} if self.settings.quality else {}),
            "api": self.prompts.api,
            "seeds": digest(seeds_to_json(self.seeds)),
            "prompts": self.prompts.digests(),
            "semantics": self.semantics,
            **({"accept_endings": list(accepted)} if (accepted := self.settings.accept_endings) else {}),
            **({"history": self.history["digest"]} if self.history else {}),
            **({"plugins": plugins} if (plugins := self._row_plugins) else {}),
        }

    @property
    def _row_plugins(self) -> dict[str, str]:
        """The plugins that decide how completions become rows, with their versions."""
        strategies = [method.name for method in self.methods] or [self.settings.strategy]
        filters = [str(entry["name"]) for entry in self.settings.filters.plugins]
        return row_plugins(strategies, filters, self.seeds)

    @property
    def _mixture(self) -> dict[str, Any]:
        """The part of the identity that only a mixed run has."""
        if not self.methods:
            return {}
        members = {method.label: method.identity for method in self.methods}
        return {"strategies": members, "adapt": self.settings.adapt}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The identity of the run: the identity of its rows, and the backend without the options that may change."""
        free = backend_spec(self.settings.backend).free_options
        section = {key: value for key, value in to_plain(self.backend_options).items() if key not in free}
        identity = {**self.row_identity, "backend": self.settings.backend, self.settings.backend: section}
        if plugins := self._row_plugins | backend_plugin(self.settings.backend):
            identity["plugins"] = plugins
        return identity

    def meta(self) -> dict[str, Any]:
        """Return the metadata for the ledger of a new run."""
        return {
            "config": self.values(),
            "given": self.user_settings,
            "identity": self.identity,
            "templates": self.prompts.digests(),
            "seeds": self.row_identity["seeds"],
            "api": self.prompts.api,
            "version": __version__,
            **({"history": dict(self.history)} if self.history else {}),
        }

    def texts(self) -> dict[str, bytes]:
        """Return seeds and templates by digest, for the ledger."""
        texts = {digest(text.encode("utf-8")): text.encode("utf-8") for text in self.prompts.texts.values()}
        return {**texts, self.row_identity["seeds"]: canonical(seeds_to_json(self.seeds))}


def make_plan(settings: Mapping[str, Any], run: Path | None = None) -> RunPlan:
    """Validate settings and load the files that they name.

    Args:
        settings: The user's settings in the form of a configuration file, without defaults.
        run: A run directory. If it holds a run, missing settings are taken from it.

    Raises:
        UsageError: If a setting, a seed file or a template is wrong.
        LedgerError: If the run can't be read.
    """
    base: Reader | None = None
    if run is not None and has_run(run):
        base = Reader(run)
        if not base.has_outcomes():  # the run may still change: merge the earlier settings with the new ones
            settings = merge_with_previous(base.meta("given"), settings)
            base.close()
            base = None
    if base is not None:
        overridden = base.meta("config")
        values = overlay_settings(overridden, settings)
    elif settings.get("backend") == "replay":
        base = Reader(_replay_source(settings))
        source = base.meta("config")
        source.pop(source["backend"])
        overridden = source
        replay = {**section(settings, "replay"), "api": base.meta("api")}
        values = overlay_settings(source, {**settings, "replay": replay})
    else:
        overridden = preset_for(settings)
        values = overlay_settings(defaults_for(settings), settings)
    # A replay makes the recorded requests again: from the recorded seeds and templates, unless others are set.
    replays = values.get("backend") == "replay" and base is not None
    recorded = frozenset({"seeds", "prompts"} - settings.keys()) if replays else frozenset()
    try:
        history = base.meta("history", None) if base is not None else None
        if replays and history is not None and base is not None and base.path.parent != run:
            raise UsageError(
                f"{base.path.parent} is a fork and can't be replayed, as its first requests belong to another run; "
                "use selfinstruct fork"
            )
        reopened = _reopened_until(base) if base is not None and base.path.parent == run else 0
        plan = _plan(values, base, recorded)
        _check_effect(settings, overridden, plan)
        return replace(plan, user_settings=dict(settings), history=history, reopened_until=reopened)
    finally:
        if base is not None:
            base.close()


def recorded_plan(reader: Reader) -> RunPlan:
    """Return the plan of a run from its ledger alone; its files are not needed.

    Raises:
        RunChangedError: If this version of selfinstruct reads ledgers differently.
    """
    plan = _plan(reader.meta("config"), reader, frozenset({"seeds", "prompts"}))
    return replace(plan, history=reader.meta("history", None), reopened_until=_reopened_until(reader))


def _reopened_until(reader: Reader) -> int:
    return int(reader.meta("reopened", {"until": 0})["until"])


def forked_plan(settings: Mapping[str, Any], reader: Reader, inherited: InheritedOutcomes) -> RunPlan:
    """Return the plan of a fork, a run that inherits the outcomes of another run.

    Args:
        settings: Settings that differ from the source. The recorded seeds and prompts are used unless set here.
        reader: The ledger of the source.
        inherited: The outcomes of the source.

    Raises:
        UsageError: If a setting is wrong or the strategy differs.
        RunChangedError: If this version of selfinstruct reads ledgers differently.
    """
    values = overlay_settings(reader.meta("config"), settings)
    plan = _plan(values, reader, frozenset({"seeds", "prompts"} - settings.keys()), forked=True)
    _check_effect(settings, reader.meta("config"), plan)
    identity = reader.meta("identity")
    previous = identity["strategy"]
    if plan.settings.strategy != previous:
        raise UsageError(f"only {previous} can read the completions of {reader.path.parent}; keep that strategy")
    strategies = {method.label: method.name for method in plan.methods}
    for label, method in identity.get("strategies", {}).items():
        if strategies.get(label) != method["name"]:
            raise UsageError(
                f"the label {label!r} ({method['name']}) has issued requests in {reader.path.parent} and must remain "
                "among the strategies; give it weight 0 to retire it"
            )
    era = {"until": inherited.until, "templates": reader.meta("templates")}
    history = {"until": inherited.until, "digest": inherited.digest, "eras": [*reader.eras(), era]}
    return replace(plan, user_settings=dict(settings), history=history)


def _check_effect(settings: Mapping[str, Any], overridden: Mapping[str, Any], plan: RunPlan) -> None:
    """Refuse settings and templates that change nothing.

    Args:
        settings: The user's settings.
        overridden: The settings that they override.
    """
    run = plan.settings
    check_effect(settings, overridden, run, plan.prompts.api)
    if settings.get("prompts") is not None:
        methods = plan.methods or (Method(run.strategy, run.strategy, 1.0, plan.strategy_options),)
        check_templates(Path(settings["prompts"]), plan.prompts, methods, run)


def _replay_source(settings: Mapping[str, Any]) -> Path:
    source = section(settings, "replay").get("source")
    if not source:
        raise UsageError("the replay backend needs a recorded run; name one with --from RUN_DIR")
    return Path(source)


def _plan(values: Mapping[str, Any], base: Reader | None, recorded: frozenset[str], *, forked: bool = False) -> RunPlan:
    """Build a plan.

    Args:
        base: The ledger of the run, or of its source.
        recorded: Names of the texts to take from ``base`` instead of from files.
        forked: Whether the plan is of a fork, which reads the completions of its source by the current semantics.
    """
    general = {field.name for field in dataclasses.fields(Settings)}
    strategies, backends = strategy_names(), backend_names()
    keys = {*general, *strategies, MIX, *backends}
    for key in values:
        if key not in keys:
            hint = suggest_option(str(key), keys, _sections(values, strategies, backends))
            raise ConfigError(f"unknown key {key!r}{hint}", key=str(key))
    semantics = SEMANTICS if base is None else int(base.meta("identity")["semantics"])
    if base is not None and semantics > SEMANTICS:
        raise RunChangedError(
            f"{base.path.parent} was made with semantics {semantics} (selfinstruct {base.meta('version')}), this is "
            f"semantics {SEMANTICS}; install selfinstruct=={base.meta('version')} for it, or start a new run"
        )
    settings = build(Settings, {key: value for key, value in values.items() if key in general})
    settings = replace(settings, quality=identify_reward_model(settings.quality))
    settings.filters.build_plugins()  # checks names and settings before anything is written
    mixed = settings.strategies is not None
    for kind, name, registered, other, others in (
        ("strategy", settings.strategy, strategies, "backend", backends),
        ("backend", settings.backend, backends, "strategy", strategies),
    ):
        if name == MIX and not mixed:
            raise ConfigError(f"{MIX} is a run of several methods; list them under strategies", key=kind)
        if name not in registered and name != MIX:
            hint = f": it is a {other}, for --{other}" if name in others else suggest(name, registered)
            raise ConfigError(f"unknown {kind} {name!r}{hint}", key=kind)
    # Sections of unused strategies and backends are validated too, so that a typing error there is reported.
    options: dict[str, Any] = {
        name: _build_section(name, section(values, name))
        for name in (*strategies, MIX, *backends)
        if name in values or name in (settings.strategy, settings.backend)
    }
    strategy_options = options[settings.strategy]
    if mixed:
        methods = build_methods(settings.strategies or ())
        settings = replace(settings, strategies=tuple(method.entry for method in methods))
    else:
        methods = (Method(settings.strategy, settings.strategy, 1.0, strategy_options),)
    backend_options = options[settings.backend]
    capabilities = backend_spec(settings.backend).capabilities(backend_options)
    check_raw(settings.backend, capabilities, methods)
    quality, folder = settings.quality, Path(settings.prompts) if settings.prompts else None
    loaded = load_run_seeds(settings, methods, base, recorded="seeds" in recorded)
    seeds = tuple(loaded.tasks)
    names = {name: used for method in methods for name, used in method.templates.items()}
    for method in methods:
        names |= context_templates(method.kind, seeds)
    if quality is not None:
        check_reasoning(quality, methods)
        check_rubrics(quality, folder, () if base is None else base.templates())
        check_choices(quality, settings.backend, capabilities)
        names |= QualityStrategy.templates_of(quality)
    prompts = load_run_prompts(settings, names, backend_options.api, base, methods, recorded="prompts" in recorded)
    prompts = add_data_files(prompts, methods, base, recorded="prompts" in recorded)
    semantics = SEMANTICS if forked else semantics
    prompts = prompts.with_semantics(semantics)
    strategy = build_strategy(methods, strategy_options if mixed else None, prompts, adapt=settings.adapt)
    if quality is not None:
        strategy = QualityStrategy(strategy, quality, prompts)
    check_schemas(settings.backend, capabilities, schema_apis(strategy, backend_options.api))
    if "n" not in values and (rows := default_target(strategy, seeds)):
        settings = replace(settings, n=rows)
    return RunPlan(
        settings,
        strategy_options,
        backend_options,
        seeds,
        prompts,
        strategy,
        methods=methods if mixed else (),
        notices=loaded.notices,
    )


def _sections(values: Mapping[str, Any], strategies: Collection[str], backends: Collection[str]) -> dict[str, type]:
    """Return the dataclasses of options that a run reads, by their section; "" for the general settings."""
    strategy, backend = str(values.get("strategy")), str(values.get("backend"))
    return {
        **({strategy: strategy_class(strategy).Options} if strategy in strategies else {}),
        **({backend: backend_spec(backend).options} if backend in backends else {}),
        "": Settings,
    }


def _build_section(name: str, values: Mapping[str, Any]) -> Any:
    """Return the options of a strategy, of mixtures or of a backend; a plugin is imported only for its own section."""
    if name in strategy_names():
        return build_options(strategy_class(name), values, name)
    return build(MixtureOptions if name == MIX else backend_spec(name).options, values, name)

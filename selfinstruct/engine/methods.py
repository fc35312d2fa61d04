"""The methods of a run: one strategy, or the several strategies of a mixed run, built from its settings.

The configuration of a mixed run lists its methods::

    strategies:
    - {name: self-instruct, weight: 2}
    - {name: alpaca, label: short, list_length: 5}
    adapt: true

Options missing from an entry come from the section of its strategy. A run records every entry in full.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.config import build, identity_fields, merge, to_plain
from selfinstruct.common.suggestions import suggest, suggest_option
from selfinstruct.errors import ConfigError
from selfinstruct.prompts import Prompts
from selfinstruct.strategies import SelfInstruct, strategy_class, strategy_names
from selfinstruct.strategies.abilities import data_files, discover_options, resolve_options, templates_for
from selfinstruct.strategies.base import Strategy
from selfinstruct.strategies.mixture import MixtureMember, MixtureOptions, MixtureStrategy, merged_defaults

__all__ = [
    "DEFAULT",
    "MIX",
    "Method",
    "build_methods",
    "build_options",
    "build_strategy",
    "discovered_options",
    "merge_with_previous",
    "method_defaults",
    "overlay",
    "recorded_methods",
]

MIX = MixtureStrategy.name
DEFAULT = SelfInstruct.name


@dataclass(frozen=True)
class _Entry:
    """Fields of an entry besides the options of its strategy."""

    name: str
    weight: float = 1.0
    label: str | None = None

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError("weight must be 0 or more")
        if self.label is not None and (not self.label.strip() or not self.label.isprintable()):
            raise ValueError("label must be a word or a few")
        if self.label is not None and set("/|") & set(self.label):
            raise ValueError("label may hold neither '/' nor '|'")


_ENTRY_FIELDS = tuple(field.name for field in dataclasses.fields(_Entry))


@dataclass(frozen=True)
class Method:
    """One method of a run with validated options.

    Attributes:
        label: Name of the method, unique in the run.
        name: Name of its strategy.
        weight: Its share of the proposals, relative to the other methods.
        options: Options of the strategy.
        mixed: Whether the method is an entry of a mixed run. The names of its data files then begin with its label.
    """

    label: str
    name: str
    weight: float
    options: Any
    mixed: bool = False

    @property
    def kind(self) -> type[Strategy]:
        """The class of the strategy."""
        return strategy_class(self.name)

    @property
    def templates(self) -> Mapping[str, frozenset[str]]:
        """The names of the required templates, each with its variables."""
        return templates_for(self.kind, self.options)

    @property
    def data(self) -> Mapping[str, Path]:
        """The data files of the strategy (see ``ReadsDataFiles``), by their name among the texts of the run."""
        return {self._data_name(name): path for name, path in data_files(self.kind, self.options).items()}

    def _data_name(self, name: str) -> str:
        return f"{self.label}/{name}" if self.mixed else name

    def strategy(self, prompts: Prompts) -> Strategy:
        """Create the strategy, which knows its data files by their plain names."""
        data = {name: prompts.texts[self._data_name(name)] for name in data_files(self.kind, self.options)}
        texts = Prompts({**prompts.texts, **data}, prompts.api, semantics=prompts.semantics) if data else prompts
        strategy: Strategy = self.kind(self.options, texts)
        return strategy

    @property
    def entry(self) -> dict[str, Any]:
        """The method as an entry of ``strategies``, with every default."""
        return {"name": self.name, "label": self.label, "weight": self.weight, **to_plain(self.options)}

    @property
    def identity(self) -> dict[str, Any]:
        """The part of the method that belongs to the identity of the run."""
        return {"name": self.name, "weight": self.weight, **identity_fields(self.options)}


def build_methods(entries: Sequence[Mapping[str, Any]]) -> tuple[Method, ...]:
    """Build the methods of a mixed run.

    Raises:
        ConfigError: If no method has a weight, a strategy is unknown, an option is wrong or a label is used twice.
    """
    methods: dict[str, Method] = {}
    for index, entry in enumerate(entries):
        where = f"strategies.{index}"
        if "name" not in entry:
            raise ConfigError(f"{where}: give it the 'name' of a strategy", key=where)
        fields = build(_Entry, {key: value for key, value in entry.items() if key in _ENTRY_FIELDS}, where)
        if fields.name not in strategy_names():
            nearest_name = suggest(fields.name, strategy_names())
            raise ConfigError(f"{where}: unknown strategy {fields.name!r}{nearest_name}", key=where)
        kind = strategy_class(fields.name)
        options = {key: value for key, value in entry.items() if key not in _ENTRY_FIELDS}
        allowed = [*_ENTRY_FIELDS, *(field.name for field in dataclasses.fields(kind.Options))]
        for key in options:
            if key not in allowed:
                path = f"{where}.{key}"
                hint = suggest_option(str(key), allowed, {where: kind.Options})
                raise ConfigError(f"unknown key {path!r}{hint}", key=path)
        label = fields.label or fields.name
        if label in methods:
            raise ConfigError(f"{where}: the label {label!r} is used twice; give this entry another 'label'", key=where)
        methods[label] = Method(label, fields.name, fields.weight, build_options(kind, options, where), mixed=True)
    if not any(method.weight for method in methods.values()):
        raise ConfigError("strategies: at least one of them needs a weight above 0", key="strategies")
    return tuple(methods.values())


def recorded_methods(config: Mapping[str, Any]) -> tuple[Method, ...]:
    """Build the methods of a configuration that a run has recorded."""
    if config.get("strategies") is not None:
        return build_methods(config["strategies"])
    name = config["strategy"]
    return (Method(name, name, 1.0, build_options(strategy_class(name), config[name], name)),)


def build_options(kind: type[Strategy], values: Mapping[str, Any], where: str) -> Any:
    """Build the options of a strategy, with the content of the files that they name.

    Raises:
        ConfigError: A value is wrong, or a file can't be read.
    """
    options = build(kind.Options, values, where)
    try:
        return resolve_options(kind, options)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}", key=where) from None


def build_strategy(methods: Sequence[Method], mix: MixtureOptions | None, prompts: Prompts, *, adapt: bool) -> Strategy:
    """Create the strategy of the only method, or, with mixture options, one strategy that mixes all methods."""
    if mix is None:
        [method] = methods
        return method.strategy(prompts)
    members = [MixtureMember(method.label, method.weight, method.strategy(prompts)) for method in methods]
    return MixtureStrategy(mix, members, adapt=adapt)


def method_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default settings of the methods named in ``settings``, see ``Strategy.defaults``."""
    entries = settings.get("strategies")
    if isinstance(entries, list | tuple):
        names = [entry.get("name") for entry in entries if isinstance(entry, Mapping)]
    else:
        names = [settings.get("strategy")]
    registered = [name for name in names if isinstance(name, str) and name in strategy_names()]
    return merged_defaults([strategy_class(name).defaults for name in registered])


def discovered_options(values: Mapping[str, Any], template: Callable[[], ChatTemplate | None]) -> dict[str, Any]:
    """Return discovered options of a run with one strategy, as a section: see ``DiscoversOptions``."""
    if values.get("strategies") is not None:
        return {}  # ``overlay`` discovers the options of each entry
    name = values.get("strategy", DEFAULT)
    if not isinstance(name, str) or name not in strategy_names():  # reported later, with the name
        return {}
    return {name: discover_method_options(name, _section(values, {"name": name}), template)}


def discover_method_options(
    name: str, options: Mapping[str, Any], template: Callable[[], ChatTemplate | None]
) -> Mapping[str, Any]:
    """Return options that a strategy derives from the model's chat template where the user set none."""
    if name not in strategy_names():  # reported later, with the name
        return {}
    try:
        built = build(strategy_class(name).Options, options, name)
    except ConfigError:  # reported later, where all options are checked
        return {}
    return discover_options(strategy_class(name), built, template)


def overlay(
    base: Mapping[str, Any],
    settings: Mapping[str, Any],
    preset: Callable[[], Mapping[str, Any]],
    template: Callable[[], ChatTemplate | None] = lambda: None,
) -> dict[str, Any]:
    """Merge ``settings`` into ``base``; the entries of a mixed run are merged one by one, by label.

    Args:
        base: A preset, or the recorded configuration of a run.
        settings: Settings that take precedence over ``base``.
        preset: Returns default settings, keyed by strategy, for entries missing from ``base``.
        template: Returns the chat template of the model, if it has one.

    Raises:
        ConfigError: If both ``strategy`` and ``strategies`` are set.
    """
    values = merge(base, settings)
    entries, chosen = settings.get("strategies"), settings.get("strategy")
    if entries is None and chosen not in (None, MIX):  # one method replaces several
        return {**values, "strategies": None, "adapt": settings.get("adapt", False)}
    if entries is not None:
        if chosen not in (None, MIX):
            raise ConfigError(f"both strategy ({chosen}) and strategies are set: remove one of them", key="strategy")
        values["strategy"] = MIX
    recorded = {_label(entry): entry for entry in base.get("strategies") or () if isinstance(entry, Mapping)}
    if entries is None and not recorded:
        return values
    if entries is None:
        values["strategies"] = [merge(entry, _section(settings, entry)) for entry in recorded.values()]
    elif isinstance(entries, list | tuple):
        defaults = preset()

        def complete(entry: Any) -> Any:
            if not isinstance(entry, Mapping):
                return entry
            previous = recorded.get(_label(entry), {})
            if previous.get("name") != entry.get("name"):
                previous = _section(defaults, entry)
            filled = merge(merge(previous, _section(settings, entry)), entry)
            options = {key: value for key, value in filled.items() if key not in _ENTRY_FIELDS}
            return merge(discover_method_options(str(entry.get("name")), options, template), filled)

        values["strategies"] = [complete(entry) for entry in entries]
    return values


def merge_with_previous(previous: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``settings`` into an earlier attempt's settings; several methods replace a single one, and vice versa."""
    if settings.get("strategies") is not None:
        replaced = {"strategy"}
    elif settings.get("strategy") not in (None, MIX):
        replaced = {"strategies", "adapt"}
    else:
        replaced = set()
    return merge({key: value for key, value in previous.items() if key not in replaced}, settings)


def _label(entry: Mapping[str, Any]) -> Any:
    label = entry.get("label")
    return str(entry.get("name") if label is None else label)


def _section(values: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the section of an entry's strategy; errors in it are reported where all sections are checked."""
    section = values.get(str(entry.get("name")))
    return section if isinstance(section, Mapping) else {}

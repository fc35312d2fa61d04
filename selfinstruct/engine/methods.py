"""The methods of a run from its settings: one strategy, or several of a mixed run.

A mixed run's configuration lists them::

    strategies:
    - {name: self-instruct, weight: 2}
    - {name: alpaca, label: short, list_length: 5}
    adapt: true

What an entry leaves out is taken from the section of its strategy. A run records each entry whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.config import build, identity_fields, merge, nearest, to_plain
from selfinstruct.errors import ConfigError
from selfinstruct.prompts import Prompts
from selfinstruct.strategies import SelfInstruct, strategy_class, strategy_names
from selfinstruct.strategies.abilities import data_files, discover_options, templates_for
from selfinstruct.strategies.base import Strategy
from selfinstruct.strategies.mixture import MixtureMember, MixtureOptions, MixtureStrategy, merged_defaults

__all__ = [
    "DEFAULT",
    "MIX",
    "Method",
    "discovered_options",
    "merge_with_previous",
    "methods_in",
    "methods_of",
    "overlay",
    "preset_of",
    "strategy_of",
]

MIX = MixtureStrategy.name
DEFAULT = SelfInstruct.name


@dataclass(frozen=True)
class _Entry:
    """What an entry has beside its strategy's options."""

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


_OWN = tuple(field.name for field in dataclasses.fields(_Entry))


@dataclass(frozen=True)
class Method:
    """One method of a run, its options checked.

    Attributes:
        label: Unique among those of the run.
        name: Of its strategy.
        mixed: Whether it is an entry of a mixed run: its data then have names of their own, with its label.
    """

    label: str
    name: str
    weight: float
    options: Any
    mixed: bool = False

    @property
    def kind(self) -> type[Strategy]:
        """The class of its strategy."""
        return strategy_class(self.name)

    @property
    def templates(self) -> Mapping[str, frozenset[str]]:
        """Those that it needs."""
        return templates_for(self.kind, self.options)

    @property
    def data(self) -> Mapping[str, Path]:
        """Data files of the strategy (see ``ReadsDataFiles``), by the name of each text among the run's templates."""
        return {self._named(name): path for name, path in data_files(self.kind, self.options).items()}

    def _named(self, name: str) -> str:
        return f"{self.label}/{name}" if self.mixed else name

    def strategy(self, prompts: Prompts) -> Strategy:
        """The method itself, which knows its own data by their plain names."""
        own = {name: prompts.texts[self._named(name)] for name in data_files(self.kind, self.options)}
        return self.kind(self.options, Prompts({**prompts.texts, **own}, prompts.api) if own else prompts)

    @property
    def plain(self) -> dict[str, Any]:
        """As an entry of ``strategies``, every default spelled out."""
        return {"name": self.name, "label": self.label, "weight": self.weight, **to_plain(self.options)}

    @property
    def recipe(self) -> dict[str, Any]:
        """What of it a run keeps for life."""
        return {"name": self.name, "weight": self.weight, **identity_fields(self.options)}


def methods_of(entries: Sequence[Mapping[str, Any]]) -> tuple[Method, ...]:
    """The methods of a mixed run.

    Raises:
        ConfigError: There is none, one is unknown or has a wrong option, or two have the same label.
    """
    methods: dict[str, Method] = {}
    for place, entry in enumerate(entries):
        where = f"strategies.{place}"
        if "name" not in entry:
            raise ConfigError(f"{where}: give it the 'name' of a strategy", key=where)
        own = build(_Entry, {key: value for key, value in entry.items() if key in _OWN}, where)
        if own.name not in strategy_names():
            raise ConfigError(f"{where}: unknown strategy {own.name!r}{nearest(own.name, strategy_names())}", key=where)
        kind = strategy_class(own.name).Options
        options = {key: value for key, value in entry.items() if key not in _OWN}
        known = [*_OWN, *(field.name for field in dataclasses.fields(kind))]
        for key in options:
            if key not in known:
                place_ = f"{where}.{key}"
                raise ConfigError(f"unknown key {place_!r}{nearest(str(key), known)}", key=place_)
        label = own.label or own.name
        if label in methods:
            raise ConfigError(f"{where}: there is a {label!r} already; give it a label of its own", key=where)
        methods[label] = Method(label, own.name, own.weight, build(kind, options, where), mixed=True)
    if not any(method.weight for method in methods.values()):
        raise ConfigError("strategies: at least one of them needs a weight above 0", key="strategies")
    return tuple(methods.values())


def methods_in(config: Mapping[str, Any]) -> tuple[Method, ...]:
    """Those of a configuration as a run records it."""
    if config.get("strategies") is not None:
        return methods_of(config["strategies"])
    name = config["strategy"]
    return (Method(name, name, 1.0, build(strategy_class(name).Options, config[name], name)),)


def strategy_of(methods: Sequence[Method], mix: MixtureOptions | None, prompts: Prompts, *, adapt: bool) -> Strategy:
    """The one of them; with options for it, all of them as one."""
    if mix is None:
        [method] = methods
        return method.strategy(prompts)
    parts = [MixtureMember(method.label, method.weight, method.strategy(prompts)) for method in methods]
    return MixtureStrategy(mix, parts, adapt=adapt)


def preset_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that suit the methods which these settings name, see ``Strategy.defaults``."""
    entries = given.get("strategies")
    if isinstance(entries, list | tuple):
        names = [entry.get("name") for entry in entries if isinstance(entry, Mapping)]
    else:
        names = [given.get("strategy")]
    known = [name for name in names if isinstance(name, str) and name in strategy_names()]
    return merged_defaults([strategy_class(name).defaults for name in known])


def discovered_options(values: Mapping[str, Any], template: Callable[[], ChatTemplate | None]) -> dict[str, Any]:
    """The section of a run's one strategy, of options that were not given: see ``DiscoversOptions``."""
    if values.get("strategies") is not None:
        return {}  # each entry finds out its own, see ``laid``
    name = values.get("strategy", DEFAULT)
    if not isinstance(name, str) or name not in strategy_names():  # refused by name, later
        return {}
    return {name: found_in(name, _section(values, {"name": name}), template)}


def found_in(name: str, options: Mapping[str, Any], template: Callable[[], ChatTemplate | None]) -> Mapping[str, Any]:
    """Options of one method that were not given, as its strategy finds them out."""
    if name not in strategy_names():  # refused by name, later
        return {}
    try:
        built = build(strategy_class(name).Options, options, name)
    except ConfigError:  # told where all options are checked
        return {}
    return discover_options(strategy_class(name), built, template)


def overlay(
    base: Mapping[str, Any],
    given: Mapping[str, Any],
    preset: Callable[[], Mapping[str, Any]],
    template: Callable[[], ChatTemplate | None] = lambda: None,
) -> dict[str, Any]:
    """``base`` with the given settings laid on it, those of a mixed run entry by entry.

    Args:
        base: A preset, or what a run has recorded.
        preset: What an entry that ``base`` has not falls back on, by the names of strategies.

    Raises:
        ConfigError: Both one strategy and several are given.
    """
    values = merge(base, given)
    entries, chosen = given.get("strategies"), given.get("strategy")
    if entries is None and chosen not in (None, MIX):  # one instead of several
        return {**values, "strategies": None, "adapt": given.get("adapt", False)}
    if entries is not None:
        if chosen not in (None, MIX):
            raise ConfigError(
                f"both strategy ({chosen}) and strategies are given: leave one of them out", key="strategy"
            )
        values["strategy"] = MIX
    recorded = {_label(entry): entry for entry in base.get("strategies") or () if isinstance(entry, Mapping)}
    if entries is None and not recorded:
        return values
    if entries is None:
        values["strategies"] = [merge(entry, _section(given, entry)) for entry in recorded.values()]
    elif isinstance(entries, list | tuple):
        suiting = preset()

        def whole(entry: Any) -> Any:
            if not isinstance(entry, Mapping):
                return entry
            before = recorded.get(_label(entry), {})
            if before.get("name") != entry.get("name"):
                before = _section(suiting, entry)
            filled = merge(merge(before, _section(given, entry)), entry)
            options = {key: value for key, value in filled.items() if key not in _OWN}
            return merge(found_in(str(entry.get("name")), options, template), filled)

        values["strategies"] = [whole(entry) for entry in entries]
    return values


def merge_with_previous(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given before, with what is given now laid on it: several methods instead of one, or one of several."""
    if given.get("strategies") is not None:
        gone = {"strategy"}
    elif given.get("strategy") not in (None, MIX):
        gone = {"strategies", "adapt"}
    else:
        gone = set()
    return merge({key: value for key, value in before.items() if key not in gone}, given)


def _label(entry: Mapping[str, Any]) -> Any:
    label = entry.get("label")
    return str(entry.get("name") if label is None else label)


def _section(values: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of an entry's strategy; what is wrong with it is told where all sections are checked."""
    section = values.get(str(entry.get("name")))
    return section if isinstance(section, Mapping) else {}

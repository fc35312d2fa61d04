"""Stateless filters by name: built-in ones and plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from selfinstruct.errors import ConfigError
from selfinstruct.filters.base import Filter
from selfinstruct.filters.instructions import Keywords, LeadingPunctuation, ProgramPrefix, WordCount
from selfinstruct.filters.language import Language
from selfinstruct.filters.patterns import Boilerplate
from selfinstruct.filters.pii import Pii
from selfinstruct.filters.refusals import Refusals
from selfinstruct.filters.repetition import Repetition
from selfinstruct.plugins import Registry

__all__ = ["build_filter", "filter_registry"]

_BUILTINS: dict[str, type[Filter]] = {
    kind.name: kind
    for kind in (
        Boilerplate, Keywords, Language, LeadingPunctuation, Pii, ProgramPrefix, Refusals, Repetition, WordCount,
    )
}  # fmt: skip


def _is_filter(entry: object) -> TypeGuard[type[Filter]]:
    return isinstance(entry, type) and issubclass(entry, Filter)


filter_registry = Registry("filter", _BUILTINS, _is_filter, "a subclass of Filter")


def _filter_names() -> tuple[str, ...]:
    """Return the names of all stateless filters: the built-in ones, then plugins."""
    return filter_registry.names()


def build_filter(settings: Mapping[str, Any], where: str = "") -> Filter:
    """Make a filter from its ``name`` and its settings.

    Args:
        settings: As in a configuration file: ``{"name": "shouting", "limit": 0.3}``.
        where: Dotted position of the settings, for messages (``filters.plugins.0``).

    Raises:
        ConfigError: There is no such filter, or a setting is wrong.
        PluginError: The filter is a plugin's, and can't be used.
    """
    from selfinstruct.common.config import build, suggest  # loads pydantic, which the filters alone do without

    name = settings.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: a filter needs a 'name'".removeprefix(": "), key=where)
    if name not in filter_registry:
        hint = suggest(name, _filter_names())
        raise ConfigError(f"{where}: unknown filter {name!r}{hint}".removeprefix(": "), key=where)
    options = {key: value for key, value in settings.items() if key != "name"}
    return build(filter_registry.get(name), options, where or name)

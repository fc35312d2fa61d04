"""Plugins: strategies, backends, filters, verifiers and suites that other distributions offer, found by entry point.

A distribution offers a plugin in its ``pyproject.toml``::

    [project.entry-points."selfinstruct.strategies"]
    echo = "my_package:Echo"

A ``Registry`` holds the built-in entries of one group and finds plugin entries when a name is first looked up. A
plugin is imported only when its own name is looked up, so a broken plugin affects only the users who select it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeGuard, TypeVar

from selfinstruct.errors import PluginError

__all__ = ["GROUPS", "Plugin", "Registry", "installed_plugins"]

T = TypeVar("T")

GROUPS: Mapping[str, str] = {
    "strategy": "selfinstruct.strategies",
    "backend": "selfinstruct.backends",
    "filter": "selfinstruct.filters",
    "verifier": "selfinstruct.verifiers",
    "suite": "selfinstruct.suites",
}
"""Entry-point group of each kind of plugin."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point of an installed distribution.

    Attributes:
        kind: A key of ``GROUPS``.
        name: Name by which settings refer to it.
        distribution: Name of the distribution that offers it.
        version: Version of that distribution.
        target: The object to import, as ``module:attribute``.
    """

    kind: str
    name: str
    distribution: str
    version: str
    target: str

    @property
    def origin(self) -> str:
        """Distribution and version, as in ``selfinstruct-example 0.1.0``."""
        return f"{self.distribution} {self.version}"

    def load(self) -> object:
        """Import the plugin.

        Raises:
            PluginError: The import fails; the message names the distribution and the exception.
        """
        try:
            return EntryPoint(self.name, self.target, GROUPS[self.kind]).load()
        except Exception as error:
            raise PluginError(
                f"{self.kind} {self.name!r}: {self.target} of {self.origin} can't be imported: "
                f"{type(error).__name__}: {error}"
            ) from error


def installed_plugins(kind: str) -> Iterator[Plugin]:
    """Yield the plugins of one kind, by name and distribution; imports none of them."""
    plugins = [
        Plugin(kind, entry.name, entry.dist.name, entry.dist.version, entry.value)
        for entry in entry_points(group=GROUPS[kind])
        if entry.dist is not None  # entry points that come from no distribution have no version
    ]
    yield from sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution))


class Registry(Generic[T]):
    """The entries of one kind by name: the built-in ones, then plugins.

    Args:
        kind: A key of ``GROUPS``.
        builtins: The built-in entries, in the order in which they are listed.
        accepts: Returns whether an object that a plugin offers can be used as an entry.
        expected: Description of the objects that ``accepts`` accepts, for the message about any other object.
    """

    def __init__(
        self, kind: str, builtins: Mapping[str, T], accepts: Callable[[object], TypeGuard[T]], expected: str
    ) -> None:
        self.kind = kind
        self.builtins = builtins
        self._accepts = accepts
        self._expected = expected
        self._loaded: dict[str, T] = {}

    @cached_property
    def plugins(self) -> Mapping[str, tuple[Plugin, ...]]:
        """The installed plugins by name; more than one where distributions compete for a name."""
        by_name: defaultdict[str, tuple[Plugin, ...]] = defaultdict(tuple)
        for plugin in installed_plugins(self.kind):
            by_name[plugin.name] += (plugin,)
        return dict(by_name)

    def names(self) -> tuple[str, ...]:
        """Return all names: the built-in ones in their order, then plugins."""
        return (*self.builtins, *(name for name in self.plugins if name not in self.builtins))

    def __contains__(self, name: object) -> bool:
        return name in self.builtins or name in self.plugins

    def conflict(self, name: str) -> str:
        """Return a message about distributions that compete for ``name``; "" if there is no conflict."""
        owners = [*(["selfinstruct"] if name in self.builtins else []), *(p.origin for p in self.plugins.get(name, ()))]
        if len(owners) < 2:
            return ""
        return f"{self.kind} {name!r} is offered by {' and by '.join(owners)}: uninstall one of them"

    def get(self, name: str) -> T:
        """Return the entry of that name, importing it if it is a plugin's.

        Raises:
            KeyError: There is no such entry.
            PluginError: Two distributions offer the name, the plugin can't be imported, or it is of the wrong type.
        """
        if message := self.conflict(name):
            raise PluginError(message)
        if name in self.builtins:
            return self.builtins[name]
        if name not in self._loaded:
            self._loaded[name] = self._checked(self.plugins[name][0])
        return self._loaded[name]

    def origin(self, name: str) -> str:
        """Return distribution and version of the plugin of that name; "" for a built-in or unknown entry."""
        plugins = () if name in self.builtins else self.plugins.get(name, ())
        return plugins[0].origin if plugins else ""

    def _checked(self, plugin: Plugin) -> T:
        entry = plugin.load()
        if not self._accepts(entry):
            source = f"{plugin.target} of {plugin.origin}"
            raise PluginError(f"{plugin.kind} {plugin.name!r}: {source} is not {self._expected}")
        return entry

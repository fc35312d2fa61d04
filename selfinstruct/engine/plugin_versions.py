"""The plugins that a run uses, with their versions: part of the identity of a run."""

from __future__ import annotations

from collections.abc import Iterable

from selfinstruct.backends import backend_registry
from selfinstruct.filters.registry import filter_registry
from selfinstruct.records import Task
from selfinstruct.strategies import strategy_registry
from selfinstruct.verifiers import kind_registry, kinds_in

__all__ = ["backend_plugin", "row_plugins"]


def row_plugins(strategies: Iterable[str], filters: Iterable[str], seeds: Iterable[Task]) -> dict[str, str]:
    """Return the plugins that decide how completions become rows, with distribution and version.

    Args:
        strategies: Names of the strategies of the run.
        filters: Names of the filters in the setting ``filters.plugins``.
        seeds: The seed tasks, whose verifiers may be of a plugin's kind.

    Returns:
        Versions by kind and name of the plugin; empty for a run without plugins.
    """
    kinds = sorted({kind for seed in seeds if seed.verifier is not None for kind in kinds_in(seed.verifier)})
    versions = {
        **{f"strategy {name}": strategy_registry.origin(name) for name in strategies},
        **{f"filter {name}": filter_registry.origin(name) for name in filters},
        **{f"verifier {name}": kind_registry.origin(name) for name in kinds},
    }
    return {plugin: version for plugin, version in versions.items() if version}


def backend_plugin(name: str) -> dict[str, str]:
    """Return the version of the backend's plugin; empty for a built-in backend."""
    version = backend_registry.origin(name)
    return {f"backend {name}": version} if version else {}

"""What was found out about the servers of a run, in a form that the run can keep and a user can read."""

from __future__ import annotations

from collections.abc import Sequence

from selfinstruct.backends.base import BackendObserver
from selfinstruct.backends.openai.dialect import LIMITS, Dialect
from selfinstruct.backends.openai.discovery import Discovery, Listener
from selfinstruct.common.codec import Json

__all__ = ["Findings"]


class Findings(Listener):
    """The findings about all servers of a run.

    A parameter that one server refuses is left out everywhere: all servers offer the same model, and which of them
    answers must not decide how a row was sampled.

    Args:
        servers: What is known about each server.
        model: Name of the model, for messages.
        observer: Receives the findings.
    """

    def __init__(self, servers: Sequence[Discovery], model: str, observer: BackendObserver) -> None:
        self._servers = servers
        self._model = model
        self._observer = observer
        self._announced = {server.name: server.dialect for server in servers}
        for server in servers:
            server.listener = self

    def dialect_changed(self, server: Discovery) -> None:
        refused = server.dialect.refused - LIMITS.keys()
        for other in self._servers:
            other.adopt(refused - other.dialect.refused)
        remark = _remark(server.name, self._model, self._announced[server.name], server.dialect)
        self._announced = {other.name: other.dialect for other in self._servers}
        dialects = [other.dialect for other in self._servers]
        options: dict[str, Json] = {"refused": sorted(frozenset().union(*(dialect.refused for dialect in dialects)))}
        if any(dialect.stream for dialect in dialects):
            options["stream"] = True
        self._observer.options_changed(options, remark)

    def usage_missing(self, server: Discovery) -> None:
        self._observer.usage_missing(server.name)


def _remark(server: str, model: str, before: Dialect, after: Dialect) -> str:
    """Return what a server asks for in addition to an earlier dialect."""
    new = after.refused - before.refused
    parts = []
    if omitted := sorted(new - LIMITS.keys()):
        parts.append(f"does not accept {_listed(omitted)}: the run continues without")
    parts += [f"takes {name} under the name {LIMITS[name]}" for name in sorted(new & LIMITS.keys())]
    if after.stream and not before.stream:
        parts.append("only streams: its answers are read piece by piece")
    return f"{model} at {server} " + "; it ".join(parts)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""Choose among several servers that offer the same model, and set aside the ones that fail.

This module does no network I/O and makes no second attempts, which ``engine.dispatch.retry`` makes once for every
backend. The pool learns the state of a server from the outcomes of its requests, and marks a failure as worth an
immediate second attempt if another server is up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from selfinstruct.backends.base import StatusCallback
from selfinstruct.errors import BackendError, RequestError, SelfInstructError, TransientError, UnreachableError

__all__ = ["ServerPool", "Slot"]

_MAX_FAULTS = 3  # consecutive 5xx or unusable answers after which a server is set aside
_MAX_REFUSALS = 3  # requests that a server refuses in a row and another one answers, before it is set aside
_FIRST_PAUSE_S = 0.5  # doubles with each consecutive pause
_MAX_PAUSE_S = 60.0
_MAX_REASON = 120  # characters
_MAX_NAMED = 4  # servers that the status line names


@dataclass(frozen=True, slots=True)
class Slot:
    """A request's assignment to a server.

    Attributes:
        index: Index of the server.
        ticket: Number of requests assigned to that server so far, including this one.
    """

    index: int
    ticket: int


@dataclass(slots=True)
class _Server:
    """The state of one server.

    Attributes:
        assigned: Number of requests assigned so far.
        stale_until: Tickets up to this one precede the last pause; their failures carry no new information.
        capacity: Most requests in flight. Unlimited until the first 429, which halves the number in flight.
        ready_at: Time before which the server receives nothing while another one is up.
        faults: Consecutive faults.
        pauses: Consecutive pauses.
        down: Reason for setting the server aside; "" while it is up.
        refused: Whether it is set aside permanently: a wrong key or model does not become right by waiting.
        refusals: Requests that it refused and another server answered, since its last answer.
        probe: Ticket of the request that tests a server that was set aside; 0 for none.
    """

    name: str
    in_flight: int = 0
    assigned: int = 0
    stale_until: int = 0
    capacity: float = math.inf
    ready_at: float = 0.0
    faults: int = 0
    pauses: int = 0
    down: str = ""
    refused: bool = False
    refusals: int = 0
    probe: int = 0

    def pause(self, now: float) -> None:
        """Send the server nothing for a while, longer with each consecutive pause."""
        self.stale_until = self.assigned
        self.ready_at = max(self.ready_at, now + min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self.pauses, 60)))
        self.pauses += 1

    def rank(self, now: float) -> tuple[bool, bool, float, bool, int]:
        """Return the sort key by which the best server for the next request comes first."""
        full = self.in_flight >= self.capacity
        return self.refused, bool(self.down), max(self.ready_at, now), full, self.in_flight


class ServerPool:
    """The servers of one run. A pool of one server passes every outcome on unchanged.

    Args:
        names: Names of the servers, in the order of preference among equals.
        on_status: Called with ``status_line`` whenever it changes.
        clock: Returns seconds; replaced in tests.
    """

    def __init__(
        self, names: Sequence[str], on_status: StatusCallback, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._servers = [_Server(name) for name in names]
        self._on_status = on_status
        self._clock = clock
        self._refused_by: dict[int, dict[int, RequestError]] = {}  # by request, then by index of the server

    @contextmanager
    def acquire(self, number: int = -1) -> Iterator[Slot]:
        """Hold a slot for a request while the context is open, at the available server with the fewest requests.

        A server that was set aside gets a single request once its pause is over. If no server is up, the one whose
        pause ends first is chosen: the pool decides where a request goes, not when.
        """
        now = self._clock()
        due = [
            server
            for server in self._servers
            if server.down and not server.refused and server.ready_at <= now and not server.probe
        ]
        server = due[0] if due else min(self._candidates(number), key=lambda server: server.rank(now))
        server.assigned += 1
        server.in_flight += 1
        slot = Slot(self._servers.index(server), server.assigned)
        if server.down and not server.probe:
            server.probe = slot.ticket
        try:
            yield slot
        finally:
            server.in_flight -= 1
            if server.probe == slot.ticket:
                server.probe = 0

    def _candidates(self, number: int) -> list[_Server]:
        """Return the servers that have not refused a request, as long as one of them is up; otherwise all servers."""
        refused_by = self._refused_by.get(number, {})
        others = [server for index, server in enumerate(self._servers) if index not in refused_by]
        return others if any(not server.down for server in others) else self._servers

    def refused(self, slot: Slot, number: int, error: RequestError) -> SelfInstructError:
        """Record that the server refused a request, and return the error to raise.

        Returns:
            A TransientError with ``elsewhere`` set while another server may answer the request: the account or the
            settings of a single server may be at fault. The error itself once no other server is left.
        """
        self._is_up(slot)
        if len(self._servers) == 1 or error.certain:
            return error
        self._refused_by.setdefault(number, {})[slot.index] = error
        if all(server.down or index in self._refused_by[number] for index, server in enumerate(self._servers)):
            del self._refused_by[number]
            return error
        return TransientError(str(error), elsewhere=len(self._servers) - 1)

    def answered(self, slot: Slot, number: int = -1) -> None:
        """Record that the server answered a request. A server that refused the same request may be at fault."""
        self._servers[slot.index].refusals = 0
        for index, error in self._refused_by.pop(number, {}).items():
            server = self._servers[index]
            server.refusals += 1
            if server.refusals >= _MAX_REFUSALS and not server.down:
                server.refused, server.down = True, _short_reason(server, error)
                self._on_status(self.status_line)
        self._is_up(slot)

    def _is_up(self, slot: Slot) -> None:
        server = self._servers[slot.index]
        server.faults = 0
        if slot.ticket > server.stale_until:
            server.pauses = 0
            server.capacity += 1 / server.capacity
        if server.down and not server.refused:
            server.down, server.ready_at = "", 0.0
            self._on_status(self.status_line)

    def failed(self, slot: Slot, error: BackendError) -> BackendError:
        """Record a failure and return the error to raise.

        Returns:
            If the server is set aside or paused and another one is up: a TransientError with ``elsewhere`` set. If all
            working servers are paused: a 429 for every request, until the first pause ends. If all servers have
            refused: a BackendError. Otherwise the error itself.
        """
        if len(self._servers) == 1:
            return error
        server, now = self._servers[slot.index], self._clock()
        throttled = isinstance(error, TransientError) and error.throttled
        self._record(server, slot, error, now)
        if not (server.down or throttled):
            return error
        available = [server for server in self._servers if not server.down and server.ready_at <= now]
        if any(server.in_flight < server.capacity for server in available) if throttled else available:
            transient = error if isinstance(error, TransientError) else TransientError(str(error))
            return transient.reworded(str(error), retry_after=None, elsewhere=len(self._servers) - 1)
        if working := [server for server in self._servers if not server.down]:
            wait = min(server.ready_at for server in working) - now
            return TransientError(str(error), retry_after=max(0.0, wait), throttled=True)
        message = f"{error} ({self.status_line})"
        if isinstance(error, TransientError):
            return error.reworded(message)
        return BackendError(message) if all(server.refused for server in self._servers) else TransientError(message)

    @property
    def status_line(self) -> str:
        """The servers that are set aside, with the reasons; "" if all are up."""
        down = [server for server in self._servers if server.down]
        if not down:
            return ""
        parts = [f"{server.name} set aside: {server.down}" for server in down[:_MAX_NAMED]]
        if len(down) > _MAX_NAMED:
            parts.append(f"{len(down) - _MAX_NAMED} more set aside")
        count = len(self._servers)
        return "; ".join([*parts, f"{count - len(down)} of {count} servers left"])

    def _record(self, server: _Server, slot: Slot, error: BackendError, now: float) -> None:
        is_news, down_before = slot.ticket > server.stale_until, server.down
        if not isinstance(error, TransientError):
            server.refused, server.down = True, _short_reason(server, error)
        elif error.throttled:  # the server is busy, so it is up
            server.down = down_before if server.refused else ""
            server.ready_at = max(server.ready_at, now + (error.retry_after or 0.0))
            if is_news:
                server.capacity = max(1.0, min(server.capacity, server.in_flight) / 2)
                server.pause(now)
        else:
            server.faults += 1
            is_down = down_before or isinstance(error, UnreachableError) or server.faults >= _MAX_FAULTS
            if is_down and not server.refused:
                server.down = _short_reason(server, error)
                server.ready_at = max(server.ready_at, now + (error.retry_after or 0.0))
                if is_news:
                    server.pause(now)
        if server.down != down_before:
            self._on_status(self.status_line)


def _short_reason(server: _Server, error: SelfInstructError) -> str:
    """Return the message of an error, shortened and without the server's name."""
    text = (
        str(error)
        .replace(f"no answer from {server.name}: ", "")
        .removeprefix(f"{server.name} ")
        .replace(f" from {server.name}", "")
    )
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"

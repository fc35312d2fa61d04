"""Several servers that offer the same model: which one gets the next request, and which are set aside.

No network here, and no second attempts: those stand in ``retry``, once for every backend. A server that fails is known
by what came of the requests it was given, and whoever met it is told whether another server is up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from selfinstruct.errors import BackendError, TransientError, UnreachableError

__all__ = ["ServerPool", "Slot"]

_FAULTS = 3  # 5xx, or answers that are none, in a row: that is no longer chance
_FIRST_S = 0.5  # of a pause; it doubles with each further one in a row
_LONGEST_S = 60.0
_SHOWN = 120  # characters of a reason
_NAMED = 4  # servers that are told of by name


@dataclass(frozen=True, slots=True)
class Slot:
    """A request's place at a server.

    Attributes:
        at: Which server.
        ticket: How many requests that server had been given then, this one included.
    """

    at: int
    ticket: int


@dataclass(slots=True)
class _Member:
    """One server.

    Attributes:
        given: Requests it was given so far.
        cut: Those of them that it was given before it was paused or set aside last: their failures are no news.
        room: Requests at once that it takes: any number before its first 429, which halves what it has.
        ready_at: It is given nothing before, while another one is up.
        faults: In a row.
        pauses: In a row.
        down: Why it is set aside; "" when it is not.
        refused: For good: a wrong key or model does not mend itself.
        probe: Ticket of the request that tries a server that was set aside; 0 for none.
    """

    name: str
    in_flight: int = 0
    given: int = 0
    cut: int = 0
    room: float = math.inf
    ready_at: float = 0.0
    faults: int = 0
    pauses: int = 0
    down: str = ""
    refused: bool = False
    probe: int = 0

    def pause(self, now: float) -> None:
        """Give it nothing for a while, a longer one each time."""
        self.cut = self.given
        self.ready_at = max(self.ready_at, now + min(_LONGEST_S, _FIRST_S * 2.0 ** min(self.pauses, 60)))
        self.pauses += 1


class ServerPool:
    """The servers of one run. A fleet of one passes everything on as it is.

    Args:
        names: Of the servers, in the order in which equals are chosen.
        tell: See ``OpenAIBackend``.
        clock: Seconds; for tests.
    """

    def __init__(
        self, names: Sequence[str], tell: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._members = [_Member(name) for name in names]
        self._tell = tell
        self._clock = clock

    @contextmanager
    def place(self) -> Iterator[Slot]:
        """A place while the context is open, at the server with the fewest requests of those that are up.

        One that was set aside gets a single request when its pause is over. Where none is up, the one whose pause ends
        first is asked all the same: when to ask at all is not decided here.
        """
        now = self._clock()
        due = [one for one in self._members if one.down and not one.refused and one.ready_at <= now and not one.probe]
        member = due[0] if due else min(self._members, key=lambda one: self._rank(one, now))
        member.given += 1
        member.in_flight += 1
        place = Slot(self._members.index(member), member.given)
        if member.down and not member.probe:
            member.probe = place.ticket
        try:
            yield place
        finally:
            member.in_flight -= 1
            if member.probe == place.ticket:
                member.probe = 0

    def answered(self, place: Slot) -> None:
        """The server answered, if only that the request is wrong."""
        member = self._members[place.at]
        member.faults = 0
        if place.ticket > member.cut:
            member.pauses = 0
            member.room += 1 / member.room
        if member.down and not member.refused:
            member.down, member.ready_at = "", 0.0
            self._tell(self.standing)

    def failed(self, place: Slot, error: BackendError) -> BackendError:
        """Take note of a failure.

        Returns:
            What to raise. With the server set aside or paused and another one up, a TransientError that says so
            (``elsewhere``). With those that work paused, a 429 for everybody, until the first pause ends. When all have
            refused, a BackendError. Else the error itself.
        """
        if len(self._members) == 1:
            return error
        member, now = self._members[place.at], self._clock()
        throttled = isinstance(error, TransientError) and error.throttled
        self._note(member, place, error, now)
        if not (member.down or throttled):
            return error
        up = [one for one in self._members if not one.down and one.ready_at <= now]
        if any(one.in_flight < one.room for one in up) if throttled else up:
            transient = error if isinstance(error, TransientError) else TransientError(str(error))
            return transient.reworded(str(error), retry_after=None, elsewhere=len(self._members) - 1)
        if working := [one for one in self._members if not one.down]:
            wait = min(one.ready_at for one in working) - now
            return TransientError(str(error), retry_after=max(0.0, wait), throttled=True)
        said = f"{error} ({self.standing})"
        if isinstance(error, TransientError):
            return error.reworded(said)
        return BackendError(said) if all(one.refused for one in self._members) else TransientError(said)

    @property
    def standing(self) -> str:
        """Which servers are set aside, and why; "" when none is."""
        down = [one for one in self._members if one.down]
        if not down:
            return ""
        told = [f"{one.name} set aside: {one.down}" for one in down[:_NAMED]]
        if len(down) > _NAMED:
            told.append(f"{len(down) - _NAMED} more set aside")
        count = len(self._members)
        return "; ".join([*told, f"{count - len(down)} of {count} servers left"])

    @staticmethod
    def _rank(one: _Member, now: float) -> tuple[bool, bool, float, bool, int]:
        return one.refused, bool(one.down), max(one.ready_at, now), one.in_flight >= one.room, one.in_flight

    def _note(self, member: _Member, place: Slot, error: BackendError, now: float) -> None:
        news, before = place.ticket > member.cut, member.down
        if not isinstance(error, TransientError):
            member.refused, member.down = True, _reason(member, error)
        elif error.throttled:  # busy, which is not down
            member.down = before if member.refused else ""
            member.ready_at = max(member.ready_at, now + (error.retry_after or 0.0))
            if news:
                member.room = max(1.0, min(member.room, member.in_flight) / 2)
                member.pause(now)
        else:
            member.faults += 1
            if not member.refused and (before or isinstance(error, UnreachableError) or member.faults >= _FAULTS):
                member.down = _reason(member, error)
                member.ready_at = max(member.ready_at, now + (error.retry_after or 0.0))
                if news:
                    member.pause(now)
        if member.down != before:
            self._tell(self.standing)


def _reason(member: _Member, error: BackendError) -> str:
    """What an error says, without the server's name, in short."""
    text = (
        str(error)
        .replace(f"no answer from {member.name}: ", "")
        .removeprefix(f"{member.name} ")
        .replace(f" from {member.name}", "")
    )
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"

"""Limit the requests in flight: as many as configured, fewer after the server answers 429 ("too many requests").

Additive increase, multiplicative decrease (Chiu & Jain 1989, "Analysis of the increase and decrease algorithms for
congestion avoidance in computer networks"): each window of answers widens the limit by one, a 429 halves it. Waiting
requests are admitted in order of number, so that the lowest open request, which the scheduler needs next, goes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush

__all__ = ["ConcurrencyLimiter"]


class ConcurrencyLimiter:
    """The slots for requests in flight, and the requests that wait for one.

    Args:
        max_width: Number of slots while no request is throttled.
    """

    def __init__(self, max_width: int) -> None:
        self._max_width = max_width
        self._width = float(max_width)
        self._occupied = 0
        self._tickets = 0  # number of requests admitted so far; each gets the count as its ticket
        self._narrowed_at = 0  # the newest ticket when the width was last halved
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @property
    def width(self) -> int:
        """The current number of slots."""
        return int(self._width)

    @asynccontextmanager
    async def slot(self, number: int) -> AsyncIterator[int]:
        """Hold a slot for the request ``number`` while the context is open; yields the ticket of this attempt."""
        await self._enter(number)
        try:
            yield self._tickets
        finally:
            self._occupied -= 1
            self._admit()

    def answered(self) -> None:
        """Widen the limit: by one once a whole window has been answered."""
        self._width = min(float(self._max_width), self._width + 1 / self._width)
        self._admit()

    def throttled(self, ticket: int) -> bool:
        """Halve the slots, unless this attempt began before the last halving: a 429 usually hits a whole window.

        Returns:
            Whether the number of slots was reduced.
        """
        if ticket <= self._narrowed_at or self._width <= 1:
            return False
        self._narrowed_at = self._tickets
        self._width = max(1.0, self._width / 2)
        return True

    async def _enter(self, number: int) -> None:
        if self._waiting or self._occupied >= self.width:
            admitted = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (number, id(admitted), admitted))
            try:
                await admitted
            except asyncio.CancelledError:
                if admitted.done() and not admitted.cancelled():  # cancelled after its admission: pass the slot on
                    self._occupied -= 1
                    self._admit()
                raise
        else:
            self._occupied += 1
        self._tickets += 1

    def _admit(self) -> None:
        while self._waiting and self._occupied < self.width:
            _, _, admitted = heappop(self._waiting)
            if not admitted.done():
                self._occupied += 1
                admitted.set_result(None)

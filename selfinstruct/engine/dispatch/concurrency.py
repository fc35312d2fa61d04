"""How many requests are at the server at once: as many as were asked for, fewer after it said "too many".

Additive increase, multiplicative decrease (Chiu & Jain 1989, "Analysis of the increase and decrease algorithms for
congestion avoidance in computer networks"): each window of answers widens it by one, a 429 halves it. Whoever waits for
a place is let in by number, so that the lowest open request, for which the line waits, always goes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush

__all__ = ["ConcurrencyLimiter"]


class ConcurrencyLimiter:
    """The places at the server, and who waits for one.

    Args:
        most: Places when nothing is wrong.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._width = float(most)
        self._taken = 0
        self._entered = 0  # how many came in so far: each is numbered by it
        self._cut = 0  # the newest one when the width was last cut
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @property
    def width(self) -> int:
        """Places there are now."""
        return int(self._width)

    @asynccontextmanager
    async def place(self, number: int) -> AsyncIterator[int]:
        """A place at the server for the request ``number`` while the context is open; gives the ticket of this stay."""
        await self._enter(number)
        try:
            yield self._entered
        finally:
            self._taken -= 1
            self._admit()

    def answered(self) -> None:
        """Widen by a bit: by one when as many were answered as there are places."""
        self._width = min(float(self._most), self._width + 1 / self._width)
        self._admit()

    def throttled(self, ticket: int) -> bool:
        """Halve the places, unless this stay began before they were halved last: a server says it to a whole window.

        Returns:
            Whether there are fewer now.
        """
        if ticket <= self._cut or self._width <= 1:
            return False
        self._cut = self._entered
        self._width = max(1.0, self._width / 2)
        return True

    async def _enter(self, number: int) -> None:
        if self._waiting or self._taken >= self.width:
            free = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (number, id(free), free))
            try:
                await free
            except asyncio.CancelledError:
                if free.done() and not free.cancelled():  # let in, and gone: the place is another's
                    self._taken -= 1
                    self._admit()
                raise
        else:
            self._taken += 1
        self._entered += 1

    def _admit(self) -> None:
        while self._waiting and self._taken < self.width:
            _, _, free = heappop(self._waiting)
            if not free.done():
                self._taken += 1
                free.set_result(None)

"""Second attempts: the one place where they are made, in front of every backend.

What to retry is named (``TransientError``), attempts and total time are both bounded, and waits are jittered, so that
workers that failed together don't come back together.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from selfinstruct.backends.base import Backend, BatchBackend
from selfinstruct.engine.dispatch.concurrency import ConcurrencyLimiter
from selfinstruct.errors import TransientError
from selfinstruct.records import Completion, Request

__all__ = ["BeforeAttempt", "OnWait", "Retry", "RetryOptions"]

_ANY = 1 << 30  # places at the server: no bound
_LEAST_S = 0.01  # between two sends of a request that meets one 429 after another, whatever the options say

BeforeAttempt = Callable[[Request, int], Awaitable[None]]
"""Awaited before each send, with the attempt's number from 1: the ledger commits the send there."""

OnWait = Callable[[Request, TransientError, float], None]
"""Told of each wait before another attempt, in seconds, 0.0 where another server is asked at once: for a display."""


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """When to try again, and when no longer.

    Attributes:
        attempts: Most sends of one request; 1 for no retry. Those that met a 429 don't count: it is about the pace,
            not about the request, and only ``total_s`` ends the patience with it. Nor do those, one for each other
            server, that met one which had to be set aside.
        base_s: Longest first wait, in seconds; it doubles with each attempt. Each wait is drawn evenly from 0 to that
            ("full jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
            After a 429 it is drawn from the upper half, so that a server's "Retry-After: 0" makes no hot loop.
        cap_s: Longest of these waits. A server's own Retry-After is kept to the second, above the cap too.
        total_s: Seconds after the first send beyond which no further one begins; where a send may take a day
            (batches), after the last failure.
    """

    attempts: int = 5
    base_s: float = 0.5
    cap_s: float = 30.0
    total_s: float = 300.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("attempts must be at least 1")
        if min(self.base_s, self.cap_s, self.total_s) < 0:
            raise ValueError("base_s, cap_s and total_s are seconds, 0 or more")


class Retry:
    """Attempts of all requests of one run; its gate is what they share.

    Args:
        options: Bounds and waits.
        pace: How many may be at the server at once; it narrows with each 429. Default: any number.
        on_wait: See ``OnWait``.
    """

    def __init__(
        self, options: RetryOptions, pace: ConcurrencyLimiter | None = None, *, on_wait: OnWait | None = None
    ) -> None:
        self._options = options
        self._pace = pace or ConcurrencyLimiter(_ANY)
        self._on_wait: OnWait = on_wait or (lambda *_: None)
        self._open_at = 0.0  # on the event loop's clock: nobody sends before, after a 429 to anybody
        self._closed_by = TransientError("")  # that 429

    async def complete(self, backend: Backend, request: Request, before_attempt: BeforeAttempt) -> Completion:
        """A completion, or the last error.

        Raises:
            TransientError: The last attempt's, when attempts or time have run out; the message counts them. Another
                request's 429, where it asks everybody to wait for longer than ``total_s``.
            RequestError: At once, as the backend raised it.
            BackendError: Likewise.
        """
        options, clock = self._options, asyncio.get_running_loop().time
        first = 0.0
        attempt = tried = moves = 0
        while True:
            async with self._pace.place(request.number) as ticket:
                if wait := await self._gate((first or clock()) + options.total_s):
                    raise _counted(self._closed_by, attempt, wait, options)
                attempt += 1
                first = first or clock()
                await before_attempt(request, attempt)
                try:
                    completion = await backend.complete(request)
                except TransientError as error:
                    failure = error
                    if isinstance(backend, BatchBackend):
                        first = clock()
                else:
                    self._pace.answered()
                    return completion
            if failure.elsewhere and self._moves_on(failure, moves, first):
                moves += not failure.throttled
                self._on_wait(request, failure, 0.0)
                continue
            wait = self._wait_s(failure, attempt - moves)
            if failure.throttled:
                self._pace.throttled(ticket)
                if clock() + wait > self._open_at:
                    self._open_at, self._closed_by = clock() + wait, failure
            else:
                tried += 1
            if tried >= options.attempts or clock() + wait - first > options.total_s:
                break
            if (pause := self._open_at - clock()) > wait:
                wait = pause
                if clock() + wait - first > options.total_s:  # the 429 ends it, not what this request met
                    failure = self._closed_by
                    break
            self._on_wait(request, failure, wait)
            await asyncio.sleep(wait)
        raise _counted(failure, attempt, wait if tried < options.attempts else 0.0, options)

    def _moves_on(self, failure: TransientError, moves: int, first: float) -> bool:
        """Whether another server is asked at once.

        A 429 keeps to the total, as ever. What met a server that died does not, or a long request that meets two would
        count as one at fault; but it is moved once for each other server only, since it may be what they die of.
        """
        if failure.throttled:
            return asyncio.get_running_loop().time() - first <= self._options.total_s
        return moves < failure.elsewhere

    def _wait_s(self, failure: TransientError, attempt: int) -> float:
        options = self._options
        longest = min(options.cap_s, options.base_s * 2.0 ** min(attempt - 1, 60))
        asked = max(0.0, failure.retry_after or 0.0)
        if failure.throttled:  # uses up no attempt: without a least wait nothing but the total would end it
            return max(asked, max(_LEAST_S, longest) * (0.5 + 0.5 * random.random()))
        return asked if failure.retry_after is not None else random.random() * longest

    async def _gate(self, until: float) -> float:
        """Wait until nobody is asked to wait; the gate may move on meanwhile.

        Returns:
            0.0; or the seconds of a wait that would end after ``until``, and is not begun.
        """
        clock = asyncio.get_running_loop().time
        while (left := self._open_at - clock()) > 0:
            if self._open_at > until:
                return left
            # A little late, each by another bit: else all workers would meet the server in the same instant.
            await asyncio.sleep(left + random.random() * self._options.base_s)
        return 0.0


def _counted(failure: TransientError, attempts: int, refused_s: float, options: RetryOptions) -> TransientError:
    """The last error with what was tried; ``refused_s`` is the wait that the total no longer allowed, or 0."""
    tried = f"{attempts} attempt{'s' if attempts > 1 else ''}"
    if refused_s:
        tried += f", and the next in {refused_s:.3g} s would be past the total of {options.total_s:g} s"
    return failure.reworded(f"{failure} (after {tried})", elsewhere=0)

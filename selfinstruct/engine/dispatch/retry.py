"""Second attempts, made in this one place for every backend.

Only ``TransientError`` is retried. Attempts and total time are both limited, and waits are jittered, so that requests
that failed together do not return together.
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

__all__ = ["BeforeAttempt", "OnWait", "Retry", "RetryOptions", "Sleep"]

_UNLIMITED = 1 << 30  # requests in flight
_MIN_THROTTLE_S = 0.01  # shortest wait after a 429, which uses up no attempt, even if base_s is 0

BeforeAttempt = Callable[[Request, int], Awaitable[None]]
"""Awaited before each send with the attempt's number, from 1; the ledger commits the send there."""

OnWait = Callable[[Request, TransientError, float], None]
"""Called before each further attempt with the wait in seconds; 0.0 if another server is asked at once."""

Sleep = Callable[[float], Awaitable[None]]
"""Waits for a number of seconds."""


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """When a request is sent again, and when it is not.

    Attributes:
        attempts: Most sends of one request; 1 for no retry. Two kinds of send do not count: one answered by a 429,
            which is about the rate and not the request, so that only ``total_s`` limits it; and one, per other server,
            that hit a server which then had to be set aside.
        base_s: Longest first wait, in seconds; it doubles with each attempt. Each wait is drawn uniformly from 0 to
            that ("full jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). After a
            429 it is drawn from the upper half, so that "Retry-After: 0" does not cause a busy loop.
        cap_s: Longest of these waits. A server's Retry-After is obeyed to the second, even above the cap.
        total_s: Seconds after the first send beyond which no further attempt begins; for batches, where a send may take
            a day, seconds after the last failure.
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
    """The attempts of all requests of one run.

    A 429 to any request closes a gate for all of them: none is sent until the wait is over.

    Args:
        options: Limits and waits.
        limiter: Limits the requests in flight, fewer after each 429. Default: no limit.
        on_wait: See ``OnWait``.
        sleep: Waits between two attempts; replaced in tests.
    """

    def __init__(
        self,
        options: RetryOptions,
        limiter: ConcurrencyLimiter | None = None,
        *,
        on_wait: OnWait = lambda *_: None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._options = options
        self._limiter = limiter or ConcurrencyLimiter(_UNLIMITED)
        self._on_wait = on_wait
        self._sleep = sleep
        self._gate_opens_at = 0.0  # time of the event loop before which nothing is sent, after a 429 to any request
        self._closed_by = TransientError("")  # that 429

    async def complete(self, backend: Backend, request: Request, before_attempt: BeforeAttempt) -> Completion:
        """Return a completion, after as many attempts as the options allow.

        Raises:
            TransientError: Attempts or time have run out: the last attempt's error, with the number of attempts in its
                message; or another request's 429 that closes the gate for longer than ``total_s``.
            RequestError: At once, as the backend raised it.
            BackendError: At once, as the backend raised it.
        """
        options, clock = self._options, asyncio.get_running_loop().time
        first_send = 0.0
        attempt = counted = moves = 0
        while True:
            async with self._limiter.slot(request.number) as ticket:
                if wait := await self._pass_gate((first_send or clock()) + options.total_s):
                    raise _with_attempts(self._closed_by, attempt, wait, options)
                attempt += 1
                first_send = first_send or clock()
                await before_attempt(request, attempt)
                try:
                    completion = await backend.complete(request)
                except TransientError as error:
                    failure = error
                    if isinstance(backend, BatchBackend):
                        first_send = clock()
                else:
                    self._limiter.answered()
                    return completion
            if failure.elsewhere and self._may_move(failure, moves, first_send):
                moves += not failure.throttled
                self._on_wait(request, failure, 0.0)
                continue
            wait = self._wait_s(failure, attempt - moves)
            if failure.throttled:
                self._limiter.throttled(ticket)
                if clock() + wait > self._gate_opens_at:
                    self._gate_opens_at, self._closed_by = clock() + wait, failure
            else:
                counted += 1
            if counted >= options.attempts or clock() + wait - first_send > options.total_s:
                break
            if (until_open := self._gate_opens_at - clock()) > wait:
                wait = until_open
                if clock() + wait - first_send > options.total_s:  # the 429 is the reason, not this request's failure
                    failure = self._closed_by.reworded(str(self._closed_by), cost=failure.cost)
                    break
            self._on_wait(request, failure, wait)
            await self._sleep(wait)
        raise _with_attempts(failure, attempt, wait if counted < options.attempts else 0.0, options)

    def _may_move(self, failure: TransientError, moves: int, first_send: float) -> bool:
        """Return whether another server is asked at once.

        After a 429 the total time still applies. After the failure of a server it does not: otherwise a long request
        that hits two failing servers would count as the one at fault. Such a request moves once per other server at
        most, since it may itself be what the servers fail on.
        """
        if failure.throttled:
            return asyncio.get_running_loop().time() - first_send <= self._options.total_s
        return moves < failure.elsewhere

    def _wait_s(self, failure: TransientError, attempt: int) -> float:
        options = self._options
        longest = min(options.cap_s, options.base_s * 2.0 ** min(attempt - 1, 60))
        requested = max(0.0, failure.retry_after or 0.0)
        if failure.throttled:  # it uses up no attempt: without a minimum only the total time would end it
            return max(requested, max(_MIN_THROTTLE_S, longest) * (0.5 + 0.5 * random.random()))
        return requested if failure.retry_after is not None else random.random() * longest

    async def _pass_gate(self, deadline: float) -> float:
        """Wait until the gate is open; a further 429 may keep it closed for longer meanwhile.

        Returns:
            0.0 once it is open, or the remaining seconds if it would open after ``deadline``.
        """
        clock = asyncio.get_running_loop().time
        while (remaining := self._gate_opens_at - clock()) > 0:
            if self._gate_opens_at > deadline:
                return remaining
            # Each request is a little late, by a different amount: otherwise all would reach the server at once.
            await self._sleep(remaining + random.random() * self._options.base_s)
        return 0.0


def _with_attempts(failure: TransientError, attempts: int, refused_s: float, options: RetryOptions) -> TransientError:
    """Return the last error with the attempts in its message.

    Args:
        refused_s: The wait that the total time did not allow; 0 if attempts ran out.
    """
    details = f"{attempts} attempt{'s' if attempts > 1 else ''}"
    if refused_s:
        details += f", and the next in {refused_s:.3g} s would be past the total of {options.total_s:g} s"
    return failure.reworded(f"{failure} (after {details})", elsewhere=0)

"""The loop of a run: it sends the requests that the scheduler has numbered, stores outcomes and has them processed.

An outcome is processed or counted only after its commit is acknowledged, and a request goes out only after its send is
committed. When the loop stops (target, budget, time, Ctrl-C, a fault of the server), it sends nothing new, waits for
the requests in flight and stores their outcomes; only a second interrupt cancels them. It does not wait for a server
that continues without this process (``BatchBackend``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from selfinstruct.backends.base import Backend, BatchBackend, StillPendingError
from selfinstruct.engine.dispatch.budget import Budget
from selfinstruct.engine.dispatch.concurrency import ConcurrencyLimiter
from selfinstruct.engine.dispatch.retry import Retry
from selfinstruct.engine.plan import RunPlan
from selfinstruct.engine.progress import RunProgress
from selfinstruct.engine.run_state import RunState
from selfinstruct.errors import ReplayError, RequestError, SelfInstructError, TransientError, UnreachableError
from selfinstruct.ledger import Ledger, Reader, acknowledged
from selfinstruct.records import Completion, Failure, Outcome, Request

__all__ = ["Engine"]

_MAX_SUSPECTS = 3  # with this many failed requests and no success in between, the server is at fault


class _AttemptRefusedError(SelfInstructError):
    """Another attempt exceeds the budget, or the run is ending: the request stays open."""


@dataclass(slots=True)
class _InFlight:
    """A request in flight. Sends are compared by their ids, which only increase.

    Attributes:
        request: The request.
        first: Its first send in this invocation.
        failed: The newest send of any request when its first attempt failed.
        gave_up: The newest send of any request when its last attempt failed.
        latest: Its latest send.
        idle: Whether it waits for its first or another attempt, so that the server does not hold it.
    """

    request: Request
    first: int = 0
    failed: int = 0
    gave_up: int = 0
    latest: int = 0
    idle: bool = True


class Engine:
    """One invocation of a run.

    Args:
        plan: The plan of the run.
        state: The state of the run after all outcomes in the ledger.
        ledger: Stores sends and outcomes.
        reader: Reads the same ledger.
        backend: Completes requests.
        budget: Reserves the worst case of each request.
        progress: Updated while the loop runs.

    Attributes:
        in_batches: Number of requests that the server continues to process after the end.
    """

    def __init__(
        self,
        plan: RunPlan,
        state: RunState,
        ledger: Ledger,
        reader: Reader,
        backend: Backend,
        budget: Budget,
        progress: RunProgress,
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._backend = backend
        self._batch_backend = backend if isinstance(backend, BatchBackend) else None
        self._at_server: set[int] = set()  # sent by an earlier invocation and still processed by the server
        self.in_batches = 0
        self._budget = budget
        self._progress = progress
        self._recorded = set(state.recorded)
        self._window = min(plan.settings.concurrency or plan.capabilities.concurrency, plan.settings.lag)
        self._limiter = ConcurrencyLimiter(self._window)
        self._retry = Retry(plan.settings.retry, self._limiter, on_wait=self._on_wait)
        self._patience = plan.settings.patience
        self._time_limit = plan.settings.budget.time_limit_s
        self._in_flight: dict[asyncio.Task[Outcome], _InFlight] = {}
        self._suspects: dict[int, tuple[_InFlight, TransientError | RequestError]] = {}
        self._replay_errors: dict[int, ReplayError] = {}
        self._next_to_send = state.scheduler.decided
        self._newest_answered = reader.newest_answered()
        self._earlier_sends = reader.open_sends()
        self._newest_send = max((latest for _, _, latest in self._earlier_sends.values()), default=0)
        self._attempts = plan.settings.retry.attempts
        self._ending = ""
        self._fault: SelfInstructError | None = None
        self._interrupts = 0
        self._wake = asyncio.Event()

    async def run(self) -> str:
        """Run until the target is reached or something else ends the run.

        Returns:
            ``complete``, ``exhausted``, ``stalled``, ``saturated``, ``budget``, ``time`` or ``interrupted``.

        Raises:
            BackendError: If the server or the account is at fault; everything received is stored.
            LedgerError: If the ledger can't be written.
        """
        if not await self._start():
            return self._ending
        if self._batch_backend is not None:
            open_ = self._state.scheduler.open
            self._at_server = await self._batch_backend.resume(
                [open_[number] for number in sorted(self._earlier_sends) if number in open_]
            )
        for number in sorted(self._at_server):  # regardless of the budget, which counts them already
            self._begin(self._state.scheduler.open[number])
        self._progress.phase, self._progress.started = "running", time.monotonic()
        try:
            while True:
                self._send_due()
                if self._ending or self._fault:
                    self._release_waiting()
                if self._in_flight:
                    if self._batch_backend is not None:
                        self._batch_backend.active_count_changed(min(len(self._in_flight), self._window))
                    await self._wait()
                elif self._fault or self._ending or not await self._resolve_suspects(thorough=True):
                    break
        finally:
            await self._cancel()
            self._progress.phase = "done"
        if self._fault:
            raise self._fault
        if self._ending:
            return self._ending
        if errors := self._replay_errors | {number: error for number, (_, error) in self._suspects.items()}:
            raise errors[min(errors)]
        return "exhausted"

    async def _start(self) -> bool:
        """Start the backend, which may take minutes; return False if it was interrupted."""
        start, wake = asyncio.create_task(self._backend.start()), asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({start, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()
            start.cancel()  # has no effect on a finished task
        with contextlib.suppress(asyncio.CancelledError):
            await start
        return not self._ending

    def interrupt(self) -> None:
        """Drain at the first call, cancel requests in flight at the second. For signal handlers of the event loop."""
        self._interrupts += 1
        self._end("interrupted")
        if self._batch_backend is not None:
            self._batch_backend.detach()
        if self._interrupts > 1:
            for task in self._in_flight:
                task.cancel()
        self._wake.set()

    def _end(self, ending: str) -> None:
        self._ending = self._ending or ending
        if self._progress.phase == "running":
            self._progress.phase = "draining"

    def _send_due(self) -> None:
        """Send the requests that may go out, in order of number."""
        if self._state.done:
            self._end("complete")
        elif self._state.unproductive_streak >= self._patience:
            self._end("stalled")
        elif self._state.saturation.reached:
            self._end("saturated")
        if self._time_is_up:
            self._end("time")
        scheduler = self._state.scheduler
        self._next_to_send = max(self._next_to_send, scheduler.decided)
        while not self._ending and not self._fault and len(self._in_flight) < self._window:
            while self._next_to_send in self._state.waiting or self._next_to_send in self._at_server:
                self._next_to_send += 1
            if self._next_to_send >= scheduler.numbered or scheduler.decided in self._replay_errors:
                return
            request = scheduler.open[self._next_to_send]
            if not self._budget.fits(request):
                if not self._in_flight:
                    self._end("budget")
                return
            self._next_to_send += 1
            self._budget.reserve(request)
            self._begin(request)

    @property
    def _time_is_up(self) -> bool:
        return self._time_limit is not None and self._progress.elapsed >= self._time_limit

    @property
    def _waits_for_batches(self) -> bool:
        """Whether the run is ending, and still waits for batches at the server."""
        spent = self._ending == "budget" and not self._fault
        return self._batch_backend is not None and spent and not self._time_is_up

    def _begin(self, request: Request) -> None:
        flight = _InFlight(request)
        self._in_flight[asyncio.create_task(self._complete(flight))] = flight
        self._progress.in_flight = len(self._in_flight)

    def _release_waiting(self) -> None:
        """Cancel requests that wait for an attempt, since a run that is ending sends nothing new.

        The loop waits for batches at the server only if the budget is spent: then nobody asked to stop.
        """
        if self._batch_backend is not None and not self._waits_for_batches:
            self._batch_backend.detach()
        for task, flight in self._in_flight.items():
            if flight.idle:
                task.cancel()

    async def _wait(self) -> None:
        """Wait until a request finishes, the time is up or the user interrupts; handle finished requests."""
        self._wake.clear()
        timeout = None
        if self._time_limit is not None and (not self._ending or self._waits_for_batches):
            timeout = max(0.0, self._time_limit - self._progress.elapsed)
        wake = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({wake, *self._in_flight}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()
        for task in [task for task in self._in_flight if task.done()]:
            await self._handle_result(task)
        self._progress.in_flight = len(self._in_flight)

    async def _handle_result(self, task: asyncio.Task[Outcome]) -> None:
        flight = self._in_flight.pop(task)
        number = flight.request.number
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, StillPendingError):
            self.in_batches += 1
            return
        if error is None:
            if isinstance(task.result(), Completion):
                self._newest_answered = max(self._newest_answered, flight.latest)
            self._receive(number, task.result())
        elif isinstance(error, TransientError | RequestError):
            self._suspects[number] = flight, error
        elif isinstance(error, ReplayError):
            self._replay_errors[number] = error  # raised only when the scheduler reaches it
        elif isinstance(error, _AttemptRefusedError):
            self._end("budget")  # has no effect if the run is ending already
        elif isinstance(error, SelfInstructError):
            self._fault = self._fault or error
        else:
            raise error
        await self._resolve_suspects()
        if len(self._suspects) >= _MAX_SUSPECTS:
            self._fault = self._fault or self._suspects[min(self._suspects)][1]

    async def _resolve_suspects(self, *, thorough: bool = False) -> bool:
        """Record a failure for each request that used up its attempts while the server answered others.

        If the server fails on every request, the run stops and the requests stay open. Requests that reached no server
        stay open too, and are sent again once a server answers.

        Args:
            thorough: Whether nothing else remains to be sent.

        Returns:
            Whether a request was recorded as failed or sent again.
        """
        resolved = False
        for number, (flight, error) in sorted(self._suspects.items()):
            if isinstance(error, UnreachableError) and error.unheard:
                reachable = self._newest_answered > (flight.first if thorough else flight.gave_up)
                if reachable and not self._ending and self._budget.fits(flight.request):
                    del self._suspects[number]
                    self._budget.reserve(flight.request)
                    self._begin(flight.request)
                    resolved = True
            elif self._is_own_fault(number, flight, error, thorough=thorough):
                failure = Failure(error.code if isinstance(error, RequestError) else "attempts", str(error))
                await acknowledged(self._ledger.record_outcome(number, flight.latest, failure, 0.0))
                del self._suspects[number]
                self._receive(number, failure)
                resolved = True
        return resolved

    def _is_own_fault(
        self, number: int, flight: _InFlight, error: TransientError | RequestError, *, thorough: bool
    ) -> bool:
        """Return whether a request itself is at fault: the server answered others while it failed on this one.

        The evidence is a completion of a request that was sent after the first failure, since servers fail suddenly.
        A lost connection may mark the moment when the server went down, so there the completion must be of a request
        sent after the last failure. If nothing else remains to be sent, any later request counts as evidence.
        """
        if isinstance(error, RequestError):
            return self._newest_answered > 0
        if error.throttled:
            return False
        since = flight.gave_up if isinstance(error, UnreachableError) else flight.failed
        if self._newest_answered > (flight.first if thorough else since):
            return True
        # It also used up its attempts in an earlier invocation, while later requests were answered.
        count, first, _ = self._earlier_sends.get(number, (0, 0, 0))
        return thorough and count >= self._attempts and self._newest_answered > first

    def _receive(self, number: int, outcome: Outcome) -> None:
        self._progress.received += 1
        if isinstance(outcome, Completion):
            self._progress.generated += outcome.usage.completion_tokens
        self._state.receive(number, outcome)
        self._progress.rows = self._state.count

    async def _complete(self, flight: _InFlight) -> Outcome:
        """Send a request until it has an outcome, and store the outcome."""
        started = time.monotonic()

        async def before_attempt(request: Request, attempt: int) -> None:
            new = request.number not in self._recorded
            if attempt == 1 and request.number in self._at_server:
                flight.idle = False
                _, _, latest = self._earlier_sends[request.number]
                flight.first = flight.latest = latest
                self._recorded.add(request.number)
                if new:
                    await acknowledged(self._ledger.record_request(request))
                return
            if self._batch_backend is not None:
                await self._batch_backend.wait_for_batch(request)
            flight.idle = False
            if attempt > 1:
                flight.failed = flight.failed or self._newest_send
                if self._ending or self._fault or not self._budget.fits(request):
                    raise _AttemptRefusedError("no further attempt now")
                self._budget.reserve(request)
            self._recorded.add(request.number)
            flight.latest, committed = self._ledger.record_send(request, self._budget.reserved(request), first=new)
            flight.first = flight.first or flight.latest
            self._newest_send = flight.latest
            await acknowledged(committed)

        outcome: Outcome
        try:
            outcome = await self._retry.complete(self._backend, flight.request, before_attempt)
        except RequestError as error:
            if not (error.certain or self._newest_answered):
                raise
            outcome = Failure(error.code, str(error))
        except TransientError:
            flight.failed = flight.failed or self._newest_send
            flight.gave_up = self._newest_send
            raise
        seconds = time.monotonic() - started
        # Shielded: a completion that was paid for is stored even if a second interrupt cancels this task now.
        await asyncio.shield(
            acknowledged(self._ledger.record_outcome(flight.request.number, flight.latest, outcome, seconds))
        )
        if isinstance(outcome, Completion):
            self._budget.settle(flight.request, outcome.usage)
        return outcome

    def _on_wait(self, request: Request, error: TransientError, seconds: float) -> None:
        next(flight for flight in self._in_flight.values() if flight.request is request).idle = True
        self._wake.set()  # a run that is ending cancels the request now
        narrowed = f", {self._limiter.width} at a time" if self._limiter.width < self._window else ""
        moves = error.elsewhere and not seconds
        action = "trying another server" if moves else f"next attempt in {seconds:.1f} s"
        self._progress.notify(f"request {request.number}: {error}; {action}{narrowed}")

    async def _cancel(self) -> None:
        for task in self._in_flight:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._in_flight, return_exceptions=True)

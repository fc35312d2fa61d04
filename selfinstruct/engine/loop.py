"""The loop of a run: it sends the requests that the scheduler has numbered, stores outcomes and has them processed.

An outcome is processed or counted only after its commit is acknowledged, and a request goes out only after its send is
committed. When the loop stops (target, budget, time, Ctrl-C, a fault of the server), it sends nothing new, waits for
the requests in flight and stores their outcomes. Only a second interrupt and the end of the grace after the time limit
cancel them: they stay open, and count at their worst case. The loop does not wait for a server that continues without
this process (``BatchBackend``). ``dispatch/suspects.py`` decides whether a failure is final.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

from selfinstruct.backends.base import Backend, BatchBackend, StillPendingError
from selfinstruct.engine.dispatch.budget import Budget
from selfinstruct.engine.dispatch.concurrency import ConcurrencyLimiter
from selfinstruct.engine.dispatch.retry import Retry
from selfinstruct.engine.dispatch.suspects import Suspects
from selfinstruct.engine.plan import RunPlan
from selfinstruct.engine.progress import RunProgress
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.stage_settings import explain_refusal
from selfinstruct.errors import ReplayError, RequestError, SelfInstructError, TransientError
from selfinstruct.ledger import Ledger, Reader, acknowledged
from selfinstruct.records import Completion, Failure, Outcome, Request

__all__ = ["Engine"]


class _AttemptRefusedError(SelfInstructError):
    """Another attempt exceeds the budget, or the run is ending: the request stays open."""


@dataclass(slots=True)
class _InFlight:
    """A request in flight. Sends are compared by their ids, which only increase.

    Attributes:
        request: The request.
        tests: For a control, the stage whose suspects it tests; "" for other requests.
        latest: Its latest send.
        idle: Whether it waits for its first or another attempt, so that the server does not hold it.
    """

    request: Request
    tests: str = ""
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
        judge: Completes the requests that ask for a score; None if the backend completes these, too.

    Attributes:
        in_batches: Number of requests that the server continues to process after the end.
        cancelled: Requests that were cancelled while they were under way.
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
        judge: Backend | None = None,
    ) -> None:
        self._plan = plan
        self._state = state
        self._ledger = ledger
        self._reader = reader
        self._backend = backend
        self._judge = judge
        self._batch_backend = backend if isinstance(backend, BatchBackend) else None
        self._at_server: set[int] = set()  # sent by an earlier invocation and still processed by the server
        self.in_batches = 0
        self.cancelled: list[Request] = []
        self._budget = budget
        self._progress = progress
        reopened = (number for number in state.scheduler.open if number < plan.inherited_until)
        self._recorded = {*state.recorded, *reopened}
        self._window = min(plan.settings.concurrency or plan.capabilities.concurrency, plan.settings.lag)
        self._limiter = ConcurrencyLimiter(self._window)
        self._retry = Retry(plan.settings.retry, self._limiter, on_wait=self._on_wait)
        self._patience = plan.settings.patience
        self._time_limit = plan.settings.budget.time_limit_s
        self._grace = plan.settings.budget.grace_s
        self._in_flight: dict[asyncio.Task[Outcome], _InFlight] = {}
        self._begun: set[int] = set()  # requests that were in flight at any time
        self._suspects = Suspects()
        self._replay_errors: dict[int, ReplayError] = {}
        self._next_to_send = state.scheduler.decided
        self._earlier_sends = reader.open_sends()
        self._newest_send = max((latest for _, _, latest in self._earlier_sends.values()), default=0)
        self._ending = ""
        self._fault: SelfInstructError | None = None
        self._interrupts = 0
        self._wake = asyncio.Event()

    async def run(self) -> str:
        """Run until the target is reached or something else ends the run.

        Returns:
            ``complete``, ``exhausted``, ``stalled``, ``unnamed``, ``saturated``, ``budget``, ``time`` or
            ``interrupted``.

        Raises:
            BackendError: If the server or the account is at fault; everything received is stored.
            LedgerError: If the ledger can't be written.
        """
        if not await self._start():
            return self._ending
        if self._batch_backend is not None:
            open_ = self._state.scheduler.open
            sent = [open_[number] for number in sorted(self._earlier_sends) if number in open_]
            self._at_server = await self._batch_backend.resume(
                [request for request in sent if not request.asks_for_score]
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
                        flights = self._in_flight.values()
                        at_server = sum(not flight.request.asks_for_score for flight in flights)
                        self._batch_backend.active_count_changed(min(at_server, self._window))
                    await self._wait()
                elif self._fault or self._ending or not self._send_control():
                    break
        finally:
            await self._cancel()
            self._progress.phase = "done"
        if self._fault:
            raise self._fault
        if self._ending:
            return "complete" if self._state.done and self._ending in ("budget", "time") else self._ending
        if self._replay_errors:
            raise self._replay_errors[min(self._replay_errors)]
        return "exhausted"

    async def _start(self) -> bool:
        """Start the backend, which may take minutes; return False if it was interrupted."""
        start, wake = asyncio.create_task(self._start_backends()), asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({start, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()
            start.cancel()  # has no effect on a finished task
        with contextlib.suppress(asyncio.CancelledError):
            await start
        return not self._ending

    async def _start_backends(self) -> None:
        if self._judge is not None:
            await self._judge.start()
        await self._backend.start()

    def interrupt(self) -> None:
        """Drain at the first call, cancel requests in flight at the second. For signal handlers of the event loop."""
        self._interrupts += 1
        self._end("interrupted")
        if self._batch_backend is not None:
            self._batch_backend.detach()
        if self._interrupts > 1:
            self._cancel_in_flight()
        self._wake.set()

    def _cancel_in_flight(self) -> None:
        for task, flight in self._in_flight.items():
            if not (flight.idle or task.done() or task.cancelling()):
                self.cancelled.append(flight.request)
            task.cancel()

    def _end(self, ending: str) -> None:
        self._ending = self._ending or ending
        if self._progress.phase == "running":
            self._progress.phase = "draining"

    def _send_due(self) -> None:
        """Send the requests that may go out, in order of number."""
        if self._state.done:
            self._end("complete")
        elif self._plan.counts_every_answer:
            pass  # a model that answers nothing is to be shown as such
        elif self._state.unproductive_streak >= self._patience:
            self._end("stalled")
        elif self._state.stats.names_no_complete_ending:
            self._end("unnamed")
        elif self._state.saturation.reached:
            self._end("saturated")
        if self._time_is_up:
            self._end("time")
        scheduler = self._state.scheduler
        self._next_to_send = max(self._next_to_send, scheduler.decided)
        while not self._ending and not self._fault and len(self._in_flight) < self._window:
            while self._next_to_send < scheduler.numbered and not self._is_unsent(self._next_to_send):
                self._next_to_send += 1
            if self._next_to_send >= scheduler.numbered or scheduler.decided in self._replay_errors:
                return
            if self._suspects.is_series:
                return
            request = scheduler.open[self._next_to_send]
            if not self._budget.fits(request):
                if not self._in_flight:
                    self._end("budget")
                return
            self._next_to_send += 1
            self._budget.reserve(request)
            self._begin(request)

    def _is_unsent(self, number: int) -> bool:
        state = self._state
        return number in state.scheduler.open and number not in state.waiting and number not in self._begun

    @property
    def _time_is_up(self) -> bool:
        return self._time_limit is not None and self._progress.elapsed >= self._time_limit

    @property
    def _waits_for_batches(self) -> bool:
        """Whether the run is ending, and still waits for batches at the server."""
        spent = self._ending == "budget" and not self._fault
        return self._batch_backend is not None and spent and not self._time_is_up

    def _begin(self, request: Request, *, tests: str = "") -> None:
        flight = _InFlight(request, tests)
        self._begun.add(request.number)
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
        if self._time_limit is not None:
            running = not self._ending or self._waits_for_batches
            until = self._time_limit if running else self._time_limit + self._grace
            timeout = max(0.0, until - self._progress.elapsed)
            if not running and not timeout:
                self._cancel_in_flight()
                timeout = None  # cancelled tasks end at once, or after the commit of an answer that has arrived
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
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, SelfInstructError | StillPendingError):
            raise error
        if flight.tests:
            self._handle_control(flight, error)
        elif isinstance(error, StillPendingError):
            self.in_batches += 1
        elif error is not None:
            self._handle_error(flight, error)
        else:
            outcome = task.result()
            if isinstance(outcome, Completion) and not flight.request.asks_for_score:
                self._suspects.answered(flight.request, flight.latest)
            self._receive(flight.request.number, outcome)
        await self._resolve_suspects()

    def _handle_error(self, flight: _InFlight, error: SelfInstructError) -> None:
        if isinstance(error, TransientError | RequestError):
            self._suspects.add(flight.request, error, flight.latest, self._newest_send)
            if self._suspects.is_outage and not self._ending:
                self._fault = self._fault or self._suspects.fault(None)
        elif isinstance(error, ReplayError):
            self._replay_errors[flight.request.number] = error  # raised only when the scheduler reaches it
        elif isinstance(error, _AttemptRefusedError):
            self._end("budget")  # has no effect if the run is ending already
        else:
            self._fault = self._fault or error

    def _handle_control(self, flight: _InFlight, error: SelfInstructError | StillPendingError | None) -> None:
        if error is None:
            self._suspects.answered(flight.request, flight.latest, control_of=flight.tests)
        elif isinstance(error, _AttemptRefusedError):
            self._end("budget")
        elif isinstance(error, SelfInstructError) and self._suspects:
            self._fault = self._fault or self._suspects.fault(flight.request, error)
        elif isinstance(error, SelfInstructError):  # the suspects were asked again meanwhile, and answered
            self._fault = self._fault or error

    async def _resolve_suspects(self) -> None:
        """Record the failures of requests that are at fault themselves, and ask the other ones again that are due.

        A run that is ending leaves the latter open.
        """
        for suspect in self._suspects.take_guilty():
            error = suspect.error
            failure = Failure(error.code if isinstance(error, RequestError) else "attempts", str(error))
            await acknowledged(self._ledger.record_outcome(suspect.request.number, suspect.latest, failure, 0.0))
            self._receive(suspect.request.number, failure)
        if not self._ending and not self._fault:
            self._ask_again([suspect.request for suspect in self._suspects.take_to_ask_again()])

    def _ask_again(self, requests: Iterable[Request], *, tests: str = "") -> None:
        for request in requests:
            if self._budget.fits(request):
                self._budget.reserve(request)
                self._begin(request, tests=tests)
            else:
                self._end("budget")

    def _send_control(self) -> bool:
        """Send a control, since no other request can show who is at fault for the suspects.

        Returns:
            Whether something was sent. Without a suspect there is nothing to test; without a request that was answered
            before, the run ends with the suspects' failure.
        """
        if not self._suspects:
            return False
        suspect = self._suspects.first_to_test
        control = self._control(suspect.request.stage) if suspect is not None else None
        if suspect is None or control is None:
            self._fault = self._suspects.fault(None)
            return False
        if self._batch_backend is not None:  # a batch may take a day: one is enough for both
            self._ask_again([each.request for each in self._suspects.take_all()])
        self._progress.notify(
            f"request {suspect.request.number}: {suspect.error}; sending request {control.number} again, which was "
            "answered before, to see who is at fault"
        )
        self._ask_again([control], tests=suspect.request.stage)
        return bool(self._in_flight)

    def _control(self, stage: str) -> Request | None:
        """Return a request that was answered before: of the given stage, or, unless all fail there, of any stage."""
        if latest := self._suspects.latest_answered(stage) or self._reader.latest_answered(stage):
            return latest
        return None if self._suspects.is_series_in(stage) else self._reader.latest_answered()

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
            new = not flight.tests and request.number not in self._recorded
            if attempt == 1 and request.number in self._at_server:
                self._at_server.remove(request.number)
                flight.idle = False
                _, _, flight.latest = self._earlier_sends[request.number]
                self._recorded.add(request.number)
                if new:
                    await acknowledged(self._ledger.record_request(request))
                return
            if self._batch_backend is not None and not request.asks_for_score:
                await self._batch_backend.wait_for_batch(request)
            flight.idle = False
            if attempt > 1:
                if self._ending or self._fault or not self._budget.fits(request):
                    raise _AttemptRefusedError("no further attempt now")
                self._budget.reserve(request)
            self._recorded.add(request.number)
            flight.latest, committed = self._ledger.record_send(request, self._budget.reserved(request), first=new)
            self._newest_send = flight.latest
            await acknowledged(committed)

        outcome: Outcome
        try:
            if self._judge is not None and flight.request.asks_for_score:
                await before_attempt(flight.request, 1)
                outcome = await self._judge.complete(flight.request)
            else:
                outcome = await self._retry.complete(self._backend, flight.request, before_attempt)
        except SelfInstructError as error:
            self._release(flight, error)
            explain_refusal(self._plan, flight.request, error)
            if not isinstance(error, RequestError) or not error.certain or flight.tests:
                raise
            outcome = Failure(error.code, str(error))
        if flight.tests:  # the request has its outcome; this answer only proves that the server works
            if isinstance(outcome, Completion) and outcome.usage.counted:
                usage = outcome.usage
                self._budget.settle(flight.request, usage)
                cost = usage.prompt_tokens, usage.completion_tokens
                self._ledger.settle_send(flight.latest, flight.request.number, cost)
            return outcome
        seconds = time.monotonic() - started
        # Shielded: a completion that was paid for is stored even if a second interrupt cancels this task now.
        await asyncio.shield(
            acknowledged(self._ledger.record_outcome(flight.request.number, flight.latest, outcome, seconds))
        )
        if isinstance(outcome, Completion):
            self._budget.settle(flight.request, outcome.usage)
        return outcome

    def _release(self, flight: _InFlight, error: SelfInstructError) -> None:
        """Replace the worst case of a failed send by its cost, if that is known; an error without a send has none."""
        if error.cost is not None and not flight.idle:
            self._budget.release(flight.request, error.cost)
            self._ledger.settle_send(flight.latest, flight.request.number, error.cost)

    def _on_wait(self, request: Request, error: TransientError, seconds: float) -> None:
        flight = next(flight for flight in self._in_flight.values() if flight.request is request)
        self._release(flight, error)
        flight.idle = True
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

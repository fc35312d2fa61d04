"""The loop: sends what the line has numbered, stores what comes back, and lets the line judge it.

Nothing is judged or counted before its commit was acknowledged, and nothing goes out before its send was. Whatever
stops the loop (target, budget, time, Ctrl-C, a fault of the server), it sends nothing new, waits for what is in flight
and stores it; only a second interrupt gives that up. A server that works on without this
process (``BatchBackend``) is not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from selfinstruct.backends.base import Backend, BatchBackend, StillThereError
from selfinstruct.engine.dispatch.budget import Budget, worst_case
from selfinstruct.engine.dispatch.concurrency import ConcurrencyLimiter
from selfinstruct.engine.dispatch.retry import Retry
from selfinstruct.engine.plan import RunPlan
from selfinstruct.engine.progress import RunProgress
from selfinstruct.engine.run_state import RunState
from selfinstruct.errors import ReplayError, RequestError, SelfInstructError, TransientError, UnreachableError
from selfinstruct.ledger import Ledger, Reader, acknowledged
from selfinstruct.records import Completion, Failure, Outcome, Request

__all__ = ["Engine"]

_SUSPECTS = 3  # requests that used up their attempts with no success between them: the server is at fault, not they


class _HeldBackError(SelfInstructError):
    """Another attempt that the budget does not cover, or that the end of the run forbids: the request stays open."""


@dataclass(slots=True)
class _Sent:
    """A request under way, by the ids of sends (they only grow).

    Attributes:
        first: Its first send in this invocation.
        failed: The newest send of all when its first attempt failed.
        gave_up: The newest send of all when its last attempt failed.
        latest: Its latest send.
        idle: It waits for its turn or for another attempt: nothing of it is at the server.
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
        course: The line, already driven over what the ledger holds.
        progress: Kept up to date while the loop runs.

    Attributes:
        left: Requests that the server goes on with, after the end.
    """

    def __init__(
        self,
        plan: RunPlan,
        course: RunState,
        ledger: Ledger,
        reader: Reader,
        backend: Backend,
        budget: Budget,
        progress: RunProgress,
    ) -> None:
        self._course = course
        self._ledger = ledger
        self._backend = backend
        self._detached = backend if isinstance(backend, BatchBackend) else None
        self._held: set[int] = set()  # sent by an earlier invocation, and still the server's
        self.left = 0
        self._budget = budget
        self._progress = progress
        self._known = set(course.recorded)
        self._window = min(plan.settings.concurrency or backend.concurrency, plan.settings.lag)
        self._pace = ConcurrencyLimiter(self._window)
        self._retry = Retry(plan.settings.retry, self._pace, on_wait=self._on_wait)
        self._patience = plan.settings.patience
        self._time_limit = plan.settings.budget.time_limit_s
        self._flight: dict[asyncio.Task[Outcome], _Sent] = {}
        self._suspects: dict[int, tuple[_Sent, TransientError | RequestError]] = {}
        self._missing: dict[int, ReplayError] = {}
        self._next_to_send = course.line.judged
        self._newest_answered = reader.newest_answered()
        self._before = reader.open_sends()
        self._newest_send = max((latest for _, _, latest in self._before.values()), default=0)
        self._attempts = plan.settings.retry.attempts
        self._ending = ""
        self._fault: SelfInstructError | None = None
        self._interrupts = 0
        self._wake = asyncio.Event()

    async def run(self) -> str:
        """Run until something ends it.

        Returns:
            ``complete``, ``exhausted``, ``stalled``, ``saturated``, ``budget``, ``time`` or ``interrupted``.

        Raises:
            BackendError: The server or the account is at fault; everything received is stored.
            LedgerError: The ledger can't be written.
        """
        if not await self._start():
            return self._ending
        if self._detached is not None:
            open_ = self._course.line.open
            self._held = await self._detached.resume([open_[one] for one in sorted(self._before) if one in open_])
        for number in sorted(self._held):  # whatever the budget: they are counted already
            self._begin(self._course.line.open[number])
        self._progress.phase, self._progress.started = "running", time.monotonic()
        try:
            while True:
                self._launch()
                if self._ending or self._fault:
                    self._release()
                if self._flight:
                    if self._detached is not None:
                        self._detached.under_way(min(len(self._flight), self._window))
                    await self._wait()
                elif self._fault or self._ending or not await self._condemn(thorough=True):
                    break
        finally:
            await self._cancel()
            self._progress.phase = "done"
        if self._fault:
            raise self._fault
        if self._ending:
            return self._ending
        if unanswered := self._missing | {number: error for number, (_, error) in self._suspects.items()}:
            raise unanswered[min(unanswered)]
        return "exhausted"

    async def _start(self) -> bool:
        """Start the backend; False if an interrupt came first: a large model takes minutes, and nothing is lost."""
        start, wake = asyncio.create_task(self._backend.start()), asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({start, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()
            start.cancel()  # does nothing to one that is done
        with contextlib.suppress(asyncio.CancelledError):
            await start
        return not self._ending

    def interrupt(self) -> None:
        """Stop: drain at the first call, give up what is in flight at the second. For signal handlers of the loop."""
        self._interrupts += 1
        self._end("interrupted")
        if self._detached is not None:
            self._detached.leave()
        if self._interrupts > 1:
            for task in self._flight:
                task.cancel()
        self._wake.set()

    def _end(self, ending: str) -> None:
        self._ending = self._ending or ending
        if self._progress.phase == "running":
            self._progress.phase = "draining"

    def _launch(self) -> None:
        """Send what may go out, in order of number."""
        if self._course.done:
            self._end("complete")
        elif self._course.unproductive_streak >= self._patience:
            self._end("stalled")
        elif self._course.saturation.reached:
            self._end("saturated")
        if self._time_is_up:
            self._end("time")
        line = self._course.line
        self._next_to_send = max(self._next_to_send, line.judged)
        while not self._ending and not self._fault and len(self._flight) < self._window:
            while self._next_to_send in self._course.waiting or self._next_to_send in self._held:
                self._next_to_send += 1
            if self._next_to_send >= line.numbered or line.judged in self._missing:
                return
            request = line.open[self._next_to_send]
            if not self._budget.fits(request):
                if not self._flight:
                    self._end("budget")
                return
            self._next_to_send += 1
            self._budget.reserve(request)
            self._begin(request)

    @property
    def _time_is_up(self) -> bool:
        return self._time_limit is not None and self._progress.elapsed >= self._time_limit

    @property
    def _patient(self) -> bool:
        """It is ending, but waits for a server that goes on by itself."""
        spent = self._ending == "budget" and not self._fault
        return self._detached is not None and spent and not self._time_is_up

    def _begin(self, request: Request) -> None:
        sent = _Sent(request)
        self._flight[asyncio.create_task(self._fulfil(sent))] = sent
        self._progress.in_flight = len(self._flight)

    def _release(self) -> None:
        """A run that is ending sends nothing new: let go of what waits for another attempt.

        A server that goes on by itself is waited for only when the budget is spent: nobody asked to stop then.
        """
        if self._detached is not None and not self._patient:
            self._detached.leave()
        for task, sent in self._flight.items():
            if sent.idle:
                task.cancel()

    async def _wait(self) -> None:
        """Wait until something has arrived, the time is up or somebody interrupts; take in what arrived."""
        self._wake.clear()
        timeout = None
        if self._time_limit is not None and (not self._ending or self._patient):
            timeout = max(0.0, self._time_limit - self._progress.elapsed)
        wake = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({wake, *self._flight}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()
        for task in [task for task in self._flight if task.done()]:
            await self._arrived(task)
        self._progress.in_flight = len(self._flight)

    async def _arrived(self, task: asyncio.Task[Outcome]) -> None:
        sent = self._flight.pop(task)
        number = sent.request.number
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, StillThereError):
            self.left += 1
            return
        if error is None:
            if isinstance(task.result(), Completion):
                self._newest_answered = max(self._newest_answered, sent.latest)
            self._take(number, task.result())
        elif isinstance(error, TransientError | RequestError):
            self._suspects[number] = sent, error
        elif isinstance(error, ReplayError):
            self._missing[number] = error  # an error only once the line reaches it
        elif isinstance(error, _HeldBackError):
            self._end("budget")  # unless it is ending anyhow
        elif isinstance(error, SelfInstructError):
            self._fault = self._fault or error
        else:
            raise error
        await self._condemn()
        if len(self._suspects) >= _SUSPECTS:
            self._fault = self._fault or self._suspects[min(self._suspects)][1]

    async def _condemn(self, *, thorough: bool = False) -> bool:
        """Record those that used up their attempts as failures if others succeed: then they are at fault themselves.

        A server that fails on everything is another matter: it stops the run, and the requests stay open. So do those
        that found no server, which are sent once more when one answers again.

        Args:
            thorough: Nothing else is left to send.

        Returns:
            True if there was one.
        """
        found = False
        for number, (sent, error) in sorted(self._suspects.items()):
            if isinstance(error, UnreachableError) and error.unheard:
                found_again = self._newest_answered > (sent.first if thorough else sent.gave_up)
                if found_again and not self._ending and self._budget.fits(sent.request):
                    del self._suspects[number]
                    self._budget.reserve(sent.request)
                    self._begin(sent.request)
                    found = True
            elif self._is_own_fault(number, sent, error, thorough=thorough):
                failure = Failure(error.code if isinstance(error, RequestError) else "attempts", str(error))
                await acknowledged(self._ledger.outcome(number, sent.latest, failure, 0.0))
                del self._suspects[number]
                self._take(number, failure)
                found = True
        return found

    def _is_own_fault(self, number: int, sent: _Sent, error: TransientError | RequestError, *, thorough: bool) -> bool:
        """Whether the server was well while it failed on a request.

        It is where an answer came to a request sent after the first failure, since servers fail from one moment to the
        next. A connection that broke may be the moment of its end: the answer must be to one sent after the last. Where
        nothing else is left to send, any later request will do as evidence.
        """
        if isinstance(error, RequestError):
            return self._newest_answered > 0
        if error.throttled:
            return False
        since = sent.gave_up if isinstance(error, UnreachableError) else sent.failed
        if self._newest_answered > (sent.first if thorough else since):
            return True
        # It used up its attempts in an earlier invocation too, while later requests were answered.
        count, first, _ = self._before.get(number, (0, 0, 0))
        return thorough and count >= self._attempts and self._newest_answered > first

    def _take(self, number: int, outcome: Outcome) -> None:
        self._progress.received += 1
        if isinstance(outcome, Completion):
            self._progress.generated += outcome.usage.completion_tokens
        self._course.receive(number, outcome)
        self._progress.rows = self._course.count

    async def _fulfil(self, sent: _Sent) -> Outcome:
        """Send one request until it has an outcome, and store that."""
        started = time.monotonic()

        async def before_attempt(request: Request, attempt: int) -> None:
            new = request.number not in self._known
            if attempt == 1 and request.number in self._held:
                sent.idle = False
                _, _, latest = self._before[request.number]
                sent.first = sent.latest = latest
                self._known.add(request.number)
                if new:
                    await acknowledged(self._ledger.describe(request))
                return
            if self._detached is not None:
                await self._detached.gathered(request)
            sent.idle = False
            if attempt > 1:
                sent.failed = sent.failed or self._newest_send
                if self._ending or self._fault or not self._budget.fits(request):
                    raise _HeldBackError("no other attempt now")
                self._budget.reserve(request)
            self._known.add(request.number)
            sent.latest, committed = self._ledger.send(request, worst_case(request), first=new)
            sent.first = sent.first or sent.latest
            self._newest_send = sent.latest
            await acknowledged(committed)

        outcome: Outcome
        try:
            outcome = await self._retry.complete(self._backend, sent.request, before_attempt)
        except RequestError as error:
            if not (error.certain or self._newest_answered):
                raise
            outcome = Failure(error.code, str(error))
        except TransientError:
            sent.failed = sent.failed or self._newest_send
            sent.gave_up = self._newest_send
            raise
        seconds = time.monotonic() - started
        # Shielded: what was paid for is stored even if a second interrupt cancels this task now.
        await asyncio.shield(acknowledged(self._ledger.outcome(sent.request.number, sent.latest, outcome, seconds)))
        if isinstance(outcome, Completion):
            self._budget.settle(sent.request, outcome.usage)
        return outcome

    def _on_wait(self, request: Request, error: TransientError, seconds: float) -> None:
        next(sent for sent in self._flight.values() if sent.request is request).idle = True
        self._wake.set()  # if the run is ending, it lets go of this one now
        narrowed = f", {self._pace.width} at a time" if self._pace.width < self._window else ""
        then = "another server is asked" if error.elsewhere and not seconds else f"next attempt in {seconds:.1f} s"
        self._progress.notice = f"request {request.number}: {error}; {then}{narrowed}"

    async def _cancel(self) -> None:
        for task in self._flight:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._flight, return_exceptions=True)

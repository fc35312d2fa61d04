"""The scheduler: a state machine that is driven only by outcomes, in order of request number.

Request k depends on the rows accepted before it, and completions arrive in any order. To keep arrival order,
concurrency, the target and budgets from having any influence, requests are numbered and processed in order:

- k is the next request number, j the number of processed requests. Outcome j is processed once it is available.
- After each processed request the scheduler tops up: while k - j < min(lag, 8 + j), it takes the oldest follow-up or
  else lets the strategy propose a request with the generator of (run seed, k). That request gets number k. The bound
  8 + j is a slow start: a small run does not pay for a window of 256.
- Processing lets the strategy parse the completion and the filters decide on its candidates; an accepted pending task
  queues its own follow-up.

A fork starts with the requests of another run (``inherited.py``): they are processed first, as they were sent, and
only then are new requests numbered.

The scheduler neither waits nor sends nor stores: the same outcomes lead to the same state, in one process or twenty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from selfinstruct.common.codec import Json
from selfinstruct.common.rng import Rng, derive
from selfinstruct.engine.inherited import NOTHING_INHERITED, InheritedRequests
from selfinstruct.engine.row_filters import FilterOptions, FilterOutcome, FullComparison, RowFilters, no_request
from selfinstruct.parse.answers import AnswerReader
from selfinstruct.pool import AcceptedRow, MethodProgress, Pool
from selfinstruct.records import Completion, Failure, Outcome, Request, Task, Usage, Verdict
from selfinstruct.strategies.abilities import recover
from selfinstruct.strategies.base import Strategy

__all__ = ["Scheduler", "SchedulerState"]

_SLOW_START = 8  # requests that may be open before the first is processed
_CURRENT_RULES = AnswerReader()
_BYTES_PER_TOKEN = 4  # a rough average for English text


@dataclass(frozen=True)
class SchedulerState:
    """The state of a scheduler between two requests. Together with the pool it determines everything that follows.

    Attributes:
        decided: Number of processed requests (j).
        numbered: Number of numbered requests (k).
        open: Requests that are numbered and not processed, by number, without the inherited ones of a fork.
        follow_ups: Follow-ups without a number, oldest first.
        claimed: Numbers of inherited follow-ups whose parent was accepted again, and which are not processed yet.
        progress_by_method: JSON form of the ``MethodProgress`` of each method.
    """

    decided: int
    numbered: int
    open: Mapping[int, Request]
    follow_ups: tuple[Request, ...]
    claimed: frozenset[int]
    progress_by_method: Mapping[str, Json] = field(default_factory=dict)


class Scheduler:
    """The scheduler of one run.

    Args:
        strategy: Proposes requests and reads completions.
        seeds: The run's seed tasks.
        filters: Settings of the filters.
        seed: The run's seed, from which the generators of proposals and the sampling seeds of requests derive.
        lag: Maximum number of requests between the last processed and the last numbered one; part of the run's
            identity.
        full_comparison: See ``RowFilters``.
        inherited: The requests that a fork starts with.
        reader: The rules by which completions are read.
        answering: See ``RowFilters``.

    Attributes:
        pool: Everything accepted so far.
        open: Requests that are numbered and not processed, by number and in order. Of the inherited requests, only
            those without an outcome.
    """

    def __init__(
        self,
        strategy: Strategy,
        seeds: Sequence[Task],
        filters: FilterOptions,
        *,
        seed: int,
        lag: int,
        full_comparison: FullComparison = no_request,
        inherited: InheritedRequests = NOTHING_INHERITED,
        reader: AnswerReader = _CURRENT_RULES,
        answering: Collection[str] = (),
    ) -> None:
        self.pool = Pool(seeds)
        self.open = inherited.unanswered()
        self._strategy = strategy
        self._reader = reader
        self._filters = RowFilters(filters, self.pool, full_comparison=full_comparison, answering=answering)
        self._seed = seed
        self._lag = lag
        self._follow_ups: deque[Request] = deque()
        self._inherited = inherited
        self._claimed: set[int] = set()
        self._next = inherited.until
        self._decided = inherited.next(0, self._claimed)
        self._top_up()

    @property
    def numbered(self) -> int:
        """Number of numbered requests (k), which is also the number of the next one."""
        return self._next

    @property
    def decided(self) -> int:
        """Number of processed requests (j), which is also the number of the next one to process."""
        return self._decided

    @property
    def exhausted(self) -> bool:
        """Whether every request is processed and the strategy has nothing to propose."""
        return self._decided == self._next

    @property
    def queued(self) -> int:
        """Number of follow-ups that are not processed, with or without a request number."""
        return len(self._follow_ups) + sum(request.parent is not None for request in self.open.values())

    @property
    def repeated_tasks(self) -> list[Verdict]:
        """The novelty filter's rejections of seed tasks that a method answers, see ``RowFilters.repeated_tasks``."""
        return self._filters.repeated_tasks

    def state(self) -> SchedulerState:
        """Return the current state."""
        progress = {method: value.to_json() for method, value in sorted(self.pool.progress_by_method.items())}
        open_ = {number: request for number, request in self.open.items() if number >= self._inherited.until}
        return SchedulerState(
            self._decided, self._next, open_, tuple(self._follow_ups), frozenset(self._claimed), progress
        )

    def restore(
        self, state: SchedulerState, tasks: Sequence[Task], others: Sequence[Task], rows: Sequence[AcceptedRow]
    ) -> None:
        """Adopt the state and the pool of another scheduler of the same run, and continue as that one would."""
        self.pool.tasks.extend(tasks)
        self.pool.others.extend(others)
        self.pool.rows.extend(rows)
        for method, progress in state.progress_by_method.items():
            self.pool.progress_by_method[method] = MethodProgress.from_json(progress)
        self._filters.index_pool()
        reopened = {number: request for number, request in self.open.items() if number >= state.decided}
        self.open = {**reopened, **state.open}
        self._follow_ups = deque(state.follow_ups)
        self._claimed = set(state.claimed)
        self._decided, self._next = state.decided, state.numbered

    def process(self, outcome: Outcome) -> FilterOutcome:
        """Process the outcome of request number ``decided``, then number new requests."""
        number = self._decided
        request = self.open.pop(number) if number in self.open else self._inherited.request(number)
        if number < self._inherited.until:
            self._record_item(request)
        self._claimed.discard(number)
        if isinstance(outcome, Failure):
            received = recover(self._strategy, request, self.pool)
        else:
            read = self._reader.read(outcome, chat=not request.is_raw)
            received = read.restore(self._strategy.receive(request, read.completion, self.pool))
        rows = len(self.pool.rows)
        filtered = self._filters.apply(request, received)
        for follow_up in received.follow_ups:
            self._queue(follow_up)
        for candidate in filtered.candidates:
            next_ = candidate.candidate.on_accept if candidate.kept else candidate.candidate.on_reject
            if next_ is not None:
                self._queue(next_)
        self._record_usage(request, outcome, len(self.pool.rows) - rows)
        self._decided += 1
        if self._decided < self._inherited.until:
            self._decided = self._inherited.next(self._decided, self._claimed)
            for skipped in range(number + 1, self._decided):
                self.open.pop(skipped, None)
        self._top_up()
        return filtered

    def _record_item(self, request: Request) -> None:
        """Record the seed task that a proposal starts work on; a follow-up starts none."""
        if request.item is not None and request.parent is None:
            self.pool.progress_by_method[request.method].take(request.item)

    def _record_usage(self, request: Request, outcome: Outcome, rows: int) -> None:
        """Record the tokens and rows of a request under its method, in a mixed run.

        A failed request, or one whose tokens the server did not count, is not free: its tokens are estimated.
        """
        if not request.method:
            return
        usage = outcome.usage if isinstance(outcome, Completion) else Usage()
        tokens = usage.prompt_tokens + usage.completion_tokens
        if not usage.counted:
            answer = outcome.text if isinstance(outcome, Completion) else ""
            tokens = 1 + (request.text_bytes + len(answer.encode("utf-8"))) // _BYTES_PER_TOKEN
        self.pool.progress_by_method[request.method].add(rows, tokens)

    def _queue(self, follow_up: Request) -> None:
        if (number := self._inherited.child(follow_up, self._claimed)) is None:
            self._follow_ups.append(follow_up)
        else:
            self._claimed.add(number)

    def _top_up(self) -> None:
        if self._decided < self._inherited.until:
            return
        while self._next - self._decided < min(self._lag, _SLOW_START + self._decided):
            number = self._next
            if self._follow_ups:
                request = self._follow_ups.popleft()
            elif proposed := self._propose(number):
                request = proposed
            else:
                break
            self.open[number] = request.numbered(number, derive("request", self._seed, number))
            self._next += 1

    def _propose(self, number: int) -> Request | None:
        """Return the strategy's next proposal, passing over tasks that the novelty filter rejects."""
        while request := self._strategy.propose(self.pool, Rng("propose", self._seed, number)):
            self._record_item(request)
            if not self._filters.repeats_task(request):
                return request
        return None

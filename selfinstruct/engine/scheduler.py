"""The line: a state machine moved only by outcomes, in the order of their numbers.

Request k depends on the rows accepted before it, and completions arrive in any order. So that the order of arrival,
concurrency, the target and budgets can have no influence, requests are numbered and judged in order:

- k is the next number, j how many requests are judged. The outcome of j is judged when it is there and not before.
- After each judged request the line tops up: while k - j < min(lag, 8 + j), the oldest follow-up is taken, or else
  the strategy proposes with the generator of (run seed, k); what is taken gets number k. The bound 8 + j is a slow
  start: a small run does not pay for a window of 256.
- Judging lets the strategy read the completion and the filters decide; a kept draft queues its own follow-up.

A fork begins with another run's requests (``history.py``): those are judged first, as they were asked, and only then
is anything numbered.

Nothing here waits, sends or stores: the same outcomes give the same line, in one process or in twenty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from selfinstruct.common.codec import Json
from selfinstruct.common.rng import Rng, derive
from selfinstruct.engine.inherited import NONE, InheritedRequests
from selfinstruct.engine.row_filters import FilterOptions, FilterOutcome, FullComparison, RowFilters, no_request
from selfinstruct.pool import AcceptedRow, MethodProgress, Pool
from selfinstruct.records import Completion, Failure, Outcome, Request, Task, Usage
from selfinstruct.strategies.abilities import recover
from selfinstruct.strategies.base import Strategy

__all__ = ["Scheduler", "SchedulerState"]

_SLOW_START = 8  # requests that may be open before the first is judged
_BYTES_A_TOKEN = 4  # of English text, roughly


@dataclass(frozen=True)
class SchedulerState:
    """Where a line stands between two judgements: with what the pool holds, all that decides how it goes on.

    Attributes:
        judged: j.
        numbered: k.
        open: Requests numbered and not judged; those of a fork's history are not among them.
        follow_ups: The queue, oldest first.
        claimed: Recorded follow-ups of what a fork kept, not judged yet.
        progress_by_method: Of each method, see ``MethodProgress``, as JSON.
    """

    judged: int
    numbered: int
    open: Mapping[int, Request]
    follow_ups: tuple[Request, ...]
    claimed: frozenset[int]
    progress_by_method: Mapping[str, Json] = field(default_factory=dict)


class Scheduler:
    """The line of one run.

    Args:
        seed: The run's seed: generators of proposals and sampling seeds of requests derive from it.
        lag: Most requests between the last judged and the last numbered one; part of the run's identity.
        dense: See ``RowFilters``.
        history: What a fork begins with.

    Attributes:
        pool: What has been accepted.
        open: Requests numbered and not yet judged, by number, in order; without those of the history.
    """

    def __init__(
        self,
        strategy: Strategy,
        seeds: Sequence[Task],
        filters: FilterOptions,
        *,
        seed: int,
        lag: int,
        dense: FullComparison = no_request,
        history: InheritedRequests = NONE,
    ) -> None:
        self.pool = Pool(seeds)
        self.open: dict[int, Request] = {}
        self._strategy = strategy
        self._judge = RowFilters(filters, self.pool, dense=dense)
        self._seed = seed
        self._lag = lag
        self._follow_ups: deque[Request] = deque()
        self._history = history
        self._claimed: set[int] = set()
        self._next = history.until
        self._judged = history.next(0, self._claimed)
        self._top_up()

    @property
    def numbered(self) -> int:
        """k: requests numbered so far, and so the number of the next."""
        return self._next

    @property
    def judged(self) -> int:
        """j: requests judged so far, and so the number of the next to be judged."""
        return self._judged

    @property
    def exhausted(self) -> bool:
        """True when everything is judged and the strategy has nothing to propose."""
        return self._judged == self._next

    @property
    def queued(self) -> int:
        """Follow-ups that are not judged, with a number or without."""
        return len(self._follow_ups) + sum(request.parent is not None for request in self.open.values())

    @property
    def standing(self) -> SchedulerState:
        """Where it stands now."""
        accounts = {method: account.to_json() for method, account in sorted(self.pool.progress_by_method.items())}
        return SchedulerState(
            self._judged, self._next, dict(self.open), tuple(self._follow_ups), frozenset(self._claimed), accounts
        )

    def restore(
        self, standing: SchedulerState, tasks: Sequence[Task], others: Sequence[Task], rows: Sequence[AcceptedRow]
    ) -> None:
        """Stand where another line of the same run stood: with what its pool held, this one goes on as that did."""
        self.pool.tasks.extend(tasks)
        self.pool.others.extend(others)
        self.pool.rows.extend(rows)
        for method, account in standing.progress_by_method.items():
            self.pool.progress_by_method[method] = MethodProgress.from_json(account)
        self._judge.know_pool()
        self.open = dict(standing.open)
        self._follow_ups = deque(standing.follow_ups)
        self._claimed = set(standing.claimed)
        self._judged, self._next = standing.judged, standing.numbered

    def judge(self, outcome: Outcome) -> FilterOutcome:
        """Judge the outcome of request ``judged``, then number whatever has become due."""
        number = self._judged
        if number >= self._history.until:
            request = self.open.pop(number)
        else:
            request = self._history.request(number)
            self._note_asked(request)
        self._claimed.discard(number)
        if isinstance(outcome, Failure):
            received = recover(self._strategy, request, self.pool)
        else:
            received = self._strategy.receive(request, outcome, self.pool)
        rows = len(self.pool.rows)
        judged = self._judge.judge(request, received)
        for follow_up in received.follow_ups:
            self._queue(follow_up)
        for candidate in judged.candidates:
            next_ = candidate.candidate.on_accept if candidate.kept else candidate.candidate.on_reject
            if next_ is not None:
                self._queue(next_)
        self._account(request, outcome, len(self.pool.rows) - rows)
        self._judged += 1
        if self._judged < self._history.until:
            self._judged = self._history.next(self._judged, self._claimed)
        self._top_up()
        return judged

    def _note_asked(self, request: Request) -> None:
        """Whatever has an item was proposed: a follow-up has none."""
        if request.item is not None and request.parent is None:
            self.pool.progress_by_method[request.method].take(request.item)

    def _account(self, request: Request, outcome: Outcome, rows: int) -> None:
        """What the methods of a mixed run cost and bring.

        What fails, or is not counted by the server, is not free: it is estimated from the text.
        """
        if not request.method:
            return
        usage = outcome.usage if isinstance(outcome, Completion) else Usage()
        tokens = usage.prompt_tokens + usage.completion_tokens
        if not usage.counted:
            answer = outcome.text if isinstance(outcome, Completion) else ""
            tokens = 1 + (request.text_bytes + len(answer.encode("utf-8"))) // _BYTES_A_TOKEN
        self.pool.progress_by_method[request.method].add(rows, tokens)

    def _queue(self, follow_up: Request) -> None:
        if (recorded := self._history.child(follow_up, self._claimed)) is None:
            self._follow_ups.append(follow_up)
        else:
            self._claimed.add(recorded)

    def _top_up(self) -> None:
        if self._judged < self._history.until:
            return
        while self._next - self._judged < min(self._lag, _SLOW_START + self._judged):
            number = self._next
            if self._follow_ups:
                request = self._follow_ups.popleft()
            elif proposed := self._strategy.propose(self.pool, Rng("propose", self._seed, number)):
                request = proposed
                self._note_asked(request)
            else:
                break
            self.open[number] = request.numbered(number, derive("request", self._seed, number))
            self._next += 1

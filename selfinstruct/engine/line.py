"""The line: a state machine moved only by outcomes, in the order of their numbers.

Request k depends on the rows accepted before it, and completions arrive in any order. So that the order of arrival,
concurrency, the target and budgets can have no influence, requests are numbered and judged in order:

- k is the next number, j how many requests are judged. The outcome of j is judged when it is there and not before.
- After each judged request the line tops up: while k - j < min(lag, 8 + j), the oldest follow-up is taken, or else
  the strategy proposes with the generator of (run seed, k); what is taken gets number k. The bound 8 + j is a slow
  start: a small run does not pay for a window of 256.
- Judging lets the strategy read the completion and the filters decide; a kept draft queues its own follow-up.

Nothing here waits, sends or stores: the same outcomes give the same line, in one process or in twenty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from selfinstruct.judge import Dense, FilterOptions, Judge, Judged, nothing
from selfinstruct.pool import Pool
from selfinstruct.records import Failure, Outcome, Received, Request, Task
from selfinstruct.rng import Rng, derive
from selfinstruct.strategies.base import Strategy

__all__ = ["Line"]

_SLOW_START = 8  # requests that may be open before the first is judged


class Line:
    """The line of one run.

    Args:
        seed: The run's seed: generators of proposals and sampling seeds of requests derive from it.
        lag: Most requests between the last judged and the last numbered one; part of the run's identity.
        dense: See ``Judge``.

    Attributes:
        pool: What has been accepted.
        open: Requests numbered and not yet judged, by number, in order.
    """

    def __init__(
        self,
        strategy: Strategy,
        seeds: Sequence[Task],
        filters: FilterOptions,
        *,
        seed: int,
        lag: int,
        dense: Dense = nothing,
    ) -> None:
        self.pool = Pool(seeds)
        self.open: dict[int, Request] = {}
        self._strategy = strategy
        self._judge = Judge(filters, self.pool, dense=dense)
        self._seed = seed
        self._lag = lag
        self._follow_ups: deque[Request] = deque()
        self._next = 0
        self._judged = 0
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

    def judge(self, outcome: Outcome) -> Judged:
        """Judge the outcome of request ``judged``, then number whatever has become due."""
        request = self.open.pop(self._judged)
        received = Received()
        if not isinstance(outcome, Failure):
            received = self._strategy.receive(request, outcome, self.pool)
        judged = self._judge.judge(request, received)
        self._follow_ups.extend(received.follow_ups)
        for candidate in judged.candidates:
            if candidate.kept and candidate.candidate.then is not None:
                self._follow_ups.append(candidate.candidate.then)
        self._judged += 1
        self._top_up()
        return judged

    def _top_up(self) -> None:
        while self._next - self._judged < min(self._lag, _SLOW_START + self._judged):
            number = self._next
            if self._follow_ups:
                request = self._follow_ups.popleft()
            elif proposed := self._strategy.propose(self.pool, Rng("propose", self._seed, number)):
                request = proposed
            else:
                break
            self.open[number] = request.numbered(number, derive("request", self._seed, number))
            self._next += 1

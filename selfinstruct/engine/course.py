"""A line driven over recorded outcomes: the one way in which a ledger becomes rows.

The engine drives it with outcomes as they arrive, ``export`` and ``status`` with those of the ledger; there is no
second reading of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from selfinstruct.engine.line import Line
from selfinstruct.engine.plan import Plan
from selfinstruct.engine.saturation import Saturation
from selfinstruct.engine.tally import Tally
from selfinstruct.errors import RunChangedError
from selfinstruct.judge import Dense, Judged, nothing
from selfinstruct.ledger import Reader
from selfinstruct.pool import Row
from selfinstruct.records import Outcome

__all__ = ["Course"]


class Course:
    """The line of a plan, with the outcomes that wait for their turn.

    Args:
        target: Rows after which nothing more is judged (N).
        recorded: Digest of every request that the ledger holds, by number: what is rebuilt must equal it.
        on_judged: Called with each judged request and its outcome.
        dense: See ``Judge``.

    Attributes:
        saturation: Whether the model repeats itself.
        barren: Judged requests since the last row that brought nothing at all: no row, no draft kept, no follow-up.

    Raises:
        RunChangedError: A rebuilt request differs from the recorded one.
    """

    def __init__(
        self,
        plan: Plan,
        target: int,
        recorded: Mapping[int, str] | None = None,
        on_judged: Callable[[Judged, Outcome], None] | None = None,
        *,
        dense: Dense = nothing,
    ) -> None:
        self.target = target
        self.tally = Tally()
        self.barren = 0
        self.saturation = Saturation(plan.settings.saturation)
        self.waiting: dict[int, Outcome] = {}
        self.recorded = recorded or {}
        self._on_judged = on_judged
        self._checked = 0
        settings = plan.settings
        self.line = Line(plan.strategy, plan.seeds, settings.filters, seed=settings.seed, lag=settings.lag, dense=dense)
        self._check()

    @classmethod
    def of(
        cls,
        plan: Plan,
        reader: Reader,
        on_judged: Callable[[Judged, Outcome], None] | None = None,
        *,
        dense: Dense = nothing,
    ) -> Course:
        """The course as far as the ledger's outcomes take it."""
        course = cls(plan, plan.settings.n, reader.request_digests(), on_judged, dense=dense)
        for recorded in reader.outcomes():
            course.receive(recorded.number, recorded.outcome)
        return course

    @property
    def done(self) -> bool:
        """True when the target is reached."""
        return len(self.line.pool.rows) >= self.target

    @property
    def count(self) -> int:
        """Rows of the dataset so far."""
        return min(len(self.line.pool.rows), self.target)

    @property
    def rows(self) -> list[Row]:
        """The dataset: the first N kept rows in order of (request, candidate)."""
        return self.line.pool.rows[: self.target]

    def receive(self, number: int, outcome: Outcome) -> None:
        """Take in an outcome, and judge all that has become due."""
        self.waiting[number] = outcome
        while not self.done and self.line.judged in self.waiting:
            due = self.waiting.pop(self.line.judged)
            rows = len(self.line.pool.rows)
            judged = self.line.judge(due)
            if len(self.line.pool.rows) > rows:
                self.barren = 0
            elif not judged.fruitful:
                self.barren += 1
            self.tally.add(judged, due)
            self.saturation.add(judged)
            self._check()
            if self._on_judged:
                self._on_judged(judged, due)

    def _check(self) -> None:
        for number in range(self._checked, self.line.numbered):
            digest = self.recorded.get(number)
            if digest is not None and digest != self.line.open[number].digest:
                raise RunChangedError(
                    f"request {number} is rebuilt differently from the one in the ledger: this version of "
                    "selfinstruct reads the run differently; use the version that made it, or start a new run"
                )
        self._checked = self.line.numbered

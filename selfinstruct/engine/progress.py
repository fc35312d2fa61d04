"""What a run is doing now: written by the engine, read by whatever shows it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from selfinstruct.engine.dispatch.budget import BudgetOptions
from selfinstruct.engine.forecast import Forecast
from selfinstruct.engine.stats import Stats

__all__ = ["RunProgress"]


@dataclass
class RunProgress:
    """A live snapshot. Times are those of ``time.monotonic``.

    Attributes:
        phase: ``loading``, ``running``, ``draining`` or ``done``.
        rows: Accepted rows, those of earlier invocations included.
        rows_before: Of these, rows that were there when this invocation began.
        generated: Completion tokens received by this invocation.
        notice: The last thing worth telling (a retry, a pause), or "".
        servers: Which servers are set aside, and why; "" when none is.
    """

    target: int
    tally: Stats
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    phase: str = "loading"
    rows: int = 0
    rows_before: int = 0
    in_flight: int = 0
    received: int = 0
    generated: int = 0
    notice: str = ""
    servers: str = ""
    started: float = field(default_factory=time.monotonic)

    def tell(self, notice: str) -> None:
        """Show something worth telling."""
        self.notice = notice

    @property
    def forecast(self) -> Forecast | None:
        """What is still to come; None before there is a row to judge by."""
        return Forecast.of(self.tally, self.target, self.budget)

    @property
    def elapsed(self) -> float:
        """Seconds since requests began to go out."""
        return time.monotonic() - self.started

    def rejected(self, most: int) -> str:
        """The commonest reasons of rejection with their counts; "" when there are none."""
        counts = Counter(dict(self.tally.rejected))  # a copy: the engine counts on in another thread
        return ", ".join(f"{reason} {count}" for reason, count in counts.most_common(most))

    @property
    def tokens_per_second(self) -> float:
        return self.generated / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time to the target at this invocation's pace; None until there is a pace."""
        made = self.rows - self.rows_before
        if made <= 0:
            return None
        return max(0.0, (self.target - self.rows) * self.elapsed / made)

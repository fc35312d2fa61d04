"""Live progress of a run, written by the engine and read by displays."""

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
    """The current progress of one invocation.

    Attributes:
        target: Number of rows to reach (N).
        stats: Counts over all processed requests of the run.
        budget: Limits and prices.
        phase: ``loading``, ``running``, ``draining`` or ``done``.
        rows: Accepted rows, including rows of earlier invocations.
        rows_before: Rows of earlier invocations.
        in_flight: Requests that are in flight.
        received: Outcomes received by this invocation.
        generated: Completion tokens received by this invocation.
        notice: The latest message for the user (a retry, a pause), or "".
        servers: The excluded servers and the reasons; "" without any.
        remarks: What the user should know about the servers after the run too.
        started: When requests began to go out, as ``time.monotonic`` seconds.
    """

    target: int
    stats: Stats
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    phase: str = "loading"
    rows: int = 0
    rows_before: int = 0
    in_flight: int = 0
    received: int = 0
    generated: int = 0
    notice: str = ""
    servers: str = ""
    remarks: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def notify(self, notice: str) -> None:
        """Show a message to the user."""
        self.notice = notice

    def remark(self, remark: str) -> None:
        """Show a message now, and again at the end of the run."""
        self.remarks.append(remark)
        self.notify(remark)

    @property
    def forecast(self) -> Forecast | None:
        """The forecast of what remains to be requested; None before the first row."""
        return Forecast.of(self.stats, self.target, self.budget)

    @property
    def elapsed(self) -> float:
        """Seconds since requests began to go out."""
        return time.monotonic() - self.started

    def rejected(self, limit: int) -> str:
        """Return up to ``limit`` of the most frequent reject reasons with their counts; "" without any."""
        counts = Counter(dict(self.stats.rejected))  # a copy, since the engine updates it in another thread
        return ", ".join(f"{reason} {count}" for reason, count in counts.most_common(limit))

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second of this invocation."""
        return self.generated / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the target at the rate of this invocation; None before its first row."""
        new_rows = self.rows - self.rows_before
        if new_rows <= 0:
            return None
        return max(0.0, (self.target - self.rows) * self.elapsed / new_rows)

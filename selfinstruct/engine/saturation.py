"""Detection of a model that repeats itself: too few of its recent instructions are new."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from selfinstruct.engine.row_filters import FilterOutcome
from selfinstruct.reasons import RejectReason

__all__ = ["Saturation", "SaturationOptions"]

_REPEATED = frozenset({RejectReason.SIMILAR, RejectReason.NEAR_DUPLICATE})
_SAMPLES = 3


@dataclass(frozen=True)
class SaturationOptions:
    """When a run stops because its model repeats itself. The settings may change at any time.

    Attributes:
        window: Number of the most recently decided instructions to consider.
        novelty: Lowest fraction of new instructions in the window, by the ROUGE-L and MinHash filters. Below it the
            run stops; 0 disables the test.
    """

    window: int = 200
    novelty: float = 0.03

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError("window must be at least 1")
        if not 0 <= self.novelty <= 1:
            raise ValueError("novelty must be from 0 to 1")


class Saturation:
    """A sliding window over the decided instructions, in order."""

    def __init__(self, options: SaturationOptions) -> None:
        self._options = options
        self._recent: deque[tuple[bool, str]] = deque(maxlen=options.window)
        self._new = 0

    def add(self, filtered: FilterOutcome) -> None:
        """Add the instructions of one completion to the window."""
        for decided in filtered.candidates:
            if decided.candidate.task is not None or not decided.candidate.is_task:  # not a new instruction
                continue
            if len(self._recent) == self._recent.maxlen:
                self._new -= self._recent[0][0]
            new = decided.reason not in _REPEATED
            self._recent.append((new, decided.candidate.instruction))
            self._new += new

    @property
    def recent(self) -> list[tuple[bool, str]]:
        """The window, oldest first: for each instruction whether it was new, and its text."""
        return list(self._recent)

    @recent.setter
    def recent(self, window: Iterable[tuple[bool, str]]) -> None:
        self._recent.clear()
        self._recent.extend(window)
        self._new = sum(new for new, _ in self._recent)

    @property
    def novelty(self) -> float | None:
        """Fraction of new instructions in the window; None while the window is empty."""
        return self._new / len(self._recent) if self._recent else None

    @property
    def reached(self) -> bool:
        """Whether the window is full and too few of its instructions are new."""
        return len(self._recent) == self._recent.maxlen and self._new < self._options.novelty * len(self._recent)

    @property
    def samples(self) -> list[str]:
        """The most recent repeated instructions, newest first."""
        repeated = [text for new, text in reversed(self._recent) if not new]
        return repeated[:_SAMPLES]

"""Whether the model repeats itself: most of what it writes resembles what is there already."""

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
    """When a run stops because its model repeats itself. It may change at any time.

    Attributes:
        window: Instructions looked back on: the last so many that were judged.
        novelty: Least share of them that were new, by the ROUGE-L and MinHash filters; below it the run stops. 0 never
            stops.
    """

    window: int = 200
    novelty: float = 0.03

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError("window must be at least 1")
        if not 0 <= self.novelty <= 1:
            raise ValueError("novelty must be from 0 to 1")


class Saturation:
    """Looks at instructions as they are judged, in their order."""

    def __init__(self, options: SaturationOptions) -> None:
        self._options = options
        self._recent: deque[tuple[bool, str]] = deque(maxlen=options.window)
        self._new = 0

    def add(self, judged: FilterOutcome) -> None:
        """Take in what one completion came to."""
        for one in judged.candidates:
            if one.candidate.task is not None or not one.candidate.is_task:  # of a task judged before, or no task
                continue
            if len(self._recent) == self._recent.maxlen:
                self._new -= self._recent[0][0]
            new = one.reason not in _REPEATED
            self._recent.append((new, one.candidate.instruction))
            self._new += new

    @property
    def recent(self) -> list[tuple[bool, str]]:
        """The window: whether each instruction was new, and its text, the oldest first."""
        return list(self._recent)

    @recent.setter
    def recent(self, window: Iterable[tuple[bool, str]]) -> None:
        self._recent.clear()
        self._recent.extend(window)
        self._new = sum(new for new, _ in self._recent)

    @property
    def novelty(self) -> float | None:
        """Share of the last instructions that were new; None before the first."""
        return self._new / len(self._recent) if self._recent else None

    @property
    def reached(self) -> bool:
        """Whether the window is full, and too little in it new."""
        return len(self._recent) == self._recent.maxlen and self._new < self._options.novelty * len(self._recent)

    @property
    def samples(self) -> list[str]:
        """The last few instructions that were not new, the newest first."""
        repeated = [text for new, text in reversed(self._recent) if not new]
        return repeated[:_SAMPLES]

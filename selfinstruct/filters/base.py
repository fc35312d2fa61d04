"""What the stateless filters share: a frozen dataclass that holds its configuration and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from selfinstruct.records import Verdict

__all__ = ["Filter"]


@dataclass(frozen=True)
class Filter(ABC):
    """A judgement of one text at a time, without memory.

    Calling it on a list of texts gives a list of bools, so that it works in
    ``Dataset.filter(f, batched=True, input_columns=...)``, in worker processes and with fingerprint caching.
    """

    filter: ClassVar[str]

    @abstractmethod
    def verdict(self, text: str) -> Verdict:
        """Judge one text."""

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Judge each text."""
        return [self.verdict(text) for text in texts]

    def __call__(self, texts: Sequence[str]) -> list[bool]:
        """True for each text that is kept."""
        return [verdict.kept for verdict in self.judge(texts)]

    def kept(self, score: float | None = None) -> Verdict:
        """A verdict for the text."""
        return Verdict(self.filter, True, "", score)

    def dropped(self, reason: str, score: float | None = None, **detail: Any) -> Verdict:
        """A verdict against the text."""
        return Verdict(self.filter, False, reason, score, None, detail)

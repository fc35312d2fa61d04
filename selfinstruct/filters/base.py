"""The contract of a stateless filter: a frozen dataclass that holds its settings and nothing else.

A filter of your own is a subclass with a ``name`` and one method::

    @dataclass(frozen=True)
    class Question(Filter):
        name: ClassVar[str] = "question"

        def verdict(self, text: str) -> Verdict:
            return self.keep() if text.endswith("?") else self.reject("no_question")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from selfinstruct.records import Verdict

__all__ = ["Filter", "Reads"]

Reads: TypeAlias = Literal["row", "instruction", "output"]
"""The text of a row that a filter decides on; ``row`` is instruction, input and output together."""


@dataclass(frozen=True)
class Filter:
    """A rule that decides on each text by itself, without memory.

    A subclass implements ``verdict``, or ``decide`` where many texts at once are faster than one by one; each has a
    default in terms of the other. Fields of the dataclass are the filter's settings. Instances must be picklable, and
    equal settings must give equal verdicts: ``datasets`` then runs the filter in worker processes and caches its
    results.

    Attributes:
        name: Short name of the filter, as verdicts, reports and the command line show it.
        reads: The text of a row that the filter decides on, where a command or a run applies it to rows. ``Pipeline``
            and ``Dataset.filter`` name the column instead.
    """

    name: ClassVar[str]
    reads: ClassVar[Reads] = "row"

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.verdict is Filter.verdict and cls.decide is Filter.decide:
            raise TypeError(f"the filter {cls.__name__} implements neither verdict(text) nor decide(texts)")

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        return self.decide([text])[0]

    def decide(self, texts: Sequence[str]) -> list[Verdict]:
        """Decide on each text.

        Returns:
            One verdict per text, in the order of the texts.
        """
        return [self.verdict(text) for text in texts]

    def __call__(self, texts: Sequence[str]) -> list[bool]:
        """Return True for each text that is kept: the form that ``Dataset.filter(..., batched=True)`` calls."""
        return [verdict.kept for verdict in self.decide(texts)]

    def keep(self, score: float | None = None) -> Verdict:
        """Return a verdict that keeps the text."""
        return Verdict(self.name, True, "", score)

    def reject(self, reason: str, score: float | None = None, **detail: Any) -> Verdict:
        """Return a verdict that rejects the text.

        Args:
            reason: Reason code, one short word such as ``too_short``.
            score: The figure that decided, if there is one.
            detail: Further JSON values for the report.
        """
        return Verdict(self.name, False, reason, score, None, detail)

"""Outputs that repeat their own input or a demonstration from the prompt, a failure of small models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfinstruct.errors import UsageError
from selfinstruct.filters.rouge.index import LONGEST
from selfinstruct.filters.rouge.lcs import f1, lcs_length
from selfinstruct.filters.text import Tokenizer, count_words, tokenize
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Copied"]


@dataclass(frozen=True)
class Copied:
    """Rejects an output that nearly equals its input or an output shown in the prompt (this project's own rule).

    Attributes:
        threshold: Highest ROUGE-L F1 that is kept.
        min_words: Shorter outputs are always kept: a label or a number may legitimately occur in the prompt.
        tokenizer: Tokenizer of ROUGE-L, see ``tokenize``.
    """

    name: ClassVar[str] = "copied"
    threshold: float = 0.7
    min_words: int = 4
    tokenizer: Tokenizer = "auto"

    @staticmethod
    def count(text: str) -> int:
        """Return the number of words of a text."""
        return count_words(text)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold} is not between 0 and 1")
        if self.min_words < 0:
            raise UsageError(f"min_words is {self.min_words}, but a number of words is 0 or more")

    def decide(self, output: str, input: str = "", shown: Sequence[str] = ()) -> Verdict:  # noqa: A002
        """Decide on one output.

        Args:
            output: The output.
            input: Its input.
            shown: The outputs that the prompt showed as demonstrations.

        Returns:
            A verdict with the reason ``copied_input``, or ``copied_demonstration`` with the position in ``shown`` as
            ``detail["shown"]``; the score is the F1. The input is compared first, then the most similar demonstration.
        """
        if self.count(output) < self.min_words:
            return Verdict(self.name, True)
        tokens = tokenize(output, self.tokenizer)[:LONGEST]  # as in NoveltyIndex: bounds the time
        distinct = frozenset(tokens)
        score = self._score(tokens, distinct, input)
        if score > self.threshold:
            return Verdict(self.name, False, RejectReason.COPIED_INPUT, score)
        scores = [self._score(tokens, distinct, text) for text in shown]
        best = max(range(len(scores)), key=scores.__getitem__, default=0)
        if scores and scores[best] > self.threshold:
            return Verdict(self.name, False, RejectReason.COPIED_DEMONSTRATION, scores[best], detail={"shown": best})
        return Verdict(self.name, True)

    def _score(self, tokens: Sequence[str], distinct: frozenset[str], other: str) -> float:
        """Return the F1 of the output and another text, or 0.0 if shared tokens can't raise it above the threshold."""
        others = tokenize(other, self.tokenizer)[:LONGEST]
        m, n = len(tokens), len(others)
        if f1(min(m, n), m, n) <= self.threshold:
            return 0.0
        shared = sum(map(distinct.__contains__, others))  # an upper bound of the longest common subsequence
        if f1(min(shared, m), m, n) <= self.threshold:
            return 0.0
        return f1(lcs_length(tokens, others), m, n)

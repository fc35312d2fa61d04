"""Outputs that were copied: from their own input, or from a demonstration in the prompt. A small model does that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfinstruct.filters.rouge.index import LONGEST
from selfinstruct.filters.rouge.lcs import f1, lcs_length
from selfinstruct.filters.text import Tokenizer, count_words, tokenize
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Copied"]


@dataclass(frozen=True)
class Copied:
    """An output of some length that is nearly its input or an output shown in the prompt (this project's own rule).

    Attributes:
        threshold: Highest ROUGE-L F1 that is still kept.
        min_words: Shorter outputs are not judged: a label or a number may well stand in the prompt.
    """

    filter: ClassVar[str] = "copied"
    threshold: float = 0.7
    min_words: int = 4
    tokenizer: Tokenizer = "auto"

    def judge(self, output: str, input: str = "", shown: Sequence[str] = ()) -> Verdict:  # noqa: A002
        """Judge one output.

        Returns:
            Reason ``copied_input``, or ``copied_demonstration`` with the position in ``shown`` as
            ``detail["shown"]``; the score is the F1. The input is compared first, then the most similar of the shown.
        """
        if count_words(output) < self.min_words:
            return Verdict(self.filter, True)
        tokens = tokenize(output, self.tokenizer)[:LONGEST]  # as of NoveltyIndex: the time has a bound
        known = frozenset(tokens)
        score = self._score(tokens, known, input)
        if score > self.threshold:
            return Verdict(self.filter, False, RejectReason.COPIED_INPUT, score)
        best, place = max(((self._score(tokens, known, text), -at) for at, text in enumerate(shown)), default=(0.0, 0))
        if best > self.threshold:
            return Verdict(self.filter, False, RejectReason.COPIED_DEMONSTRATION, best, detail={"shown": -place})
        return Verdict(self.filter, True)

    def _score(self, tokens: Sequence[str], known: frozenset[str], other: str) -> float:
        """F1 of the output and another text; 0.0 where the tokens they share can't bring it above the threshold."""
        others = tokenize(other, self.tokenizer)[:LONGEST]
        m, n = len(tokens), len(others)
        if f1(min(m, n), m, n) <= self.threshold:
            return 0.0
        shared = sum(map(known.__contains__, others))  # at least as many as the longest common subsequence has
        if f1(min(shared, m), m, n) <= self.threshold:
            return 0.0
        return f1(lcs_length(tokens, others), m, n)

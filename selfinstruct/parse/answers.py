"""The answers in a completion, as strategies read them: the one place that decides what of a completion is an answer.

The ledger holds completions unaltered. Before a strategy reads one, thoughts and special tokens are removed
(``thoughts``), and each finish reason becomes ``stop`` for a complete answer (``records.endings``). Afterwards the
positions in what the strategy read are translated back, and rejections of a text that is not complete get the ending's
reason code.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import accumulate

from selfinstruct.common.codec import Json
from selfinstruct.parse.thoughts import Span, find_answer
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Candidate, Choice, Completion, CounterKey, Discard, Received, Usage, Verdict
from selfinstruct.records.endings import COMPLETE, IN_REASONING, LENGTH, ending, is_cut

__all__ = ["AnswerReader", "ReadCompletion", "holds_answer", "shows_reasoning", "spent_on_reasoning"]

_FIRST_SEMANTICS = 1  # rules of runs whose completions were read unaltered


@dataclass(frozen=True, slots=True)
class ReadCompletion:
    """A completion as a strategy reads it.

    Attributes:
        completion: The copy whose texts are answers.
        pieces: Spans of the first answer in the text of the recorded first choice.
        length: Number of characters of that text.
    """

    completion: Completion
    pieces: tuple[Span, ...]
    length: int

    def restore(self, received: Received) -> Received:
        """Return what a strategy read with positions in the recorded text, and with the ending named.

        An answer of which nothing was read becomes a discard: nothing is dropped without a reason.
        """
        reason = self.completion.choices[0].cut_reason
        name = reason if len(self.completion.choices) == 1 else ""  # the stage names the ending of each choice itself
        candidates = tuple(self._candidate(candidate, name) for candidate in received.candidates)
        discards = tuple(Discard(_named(each.reason, name), self._span(each.span)) for each in received.discards)
        counters = tuple(CounterKey(key.table, key.row, _named(key.column, name)) for key in received.counters)
        read = candidates or discards or received.follow_ups
        if reason and not (read if not self.completion.failed else _names(reason, candidates, discards)):
            discards = (*discards, Discard(reason, (0, self.length)))
        elif not read and not received.counters:
            discards = (Discard(RejectReason.EMPTY, (0, self.length)),)
        return replace(received, candidates=candidates, discards=discards, counters=counters)

    def _candidate(self, candidate: Candidate, reason: str) -> Candidate:
        verdicts = tuple(
            replace(verdict, reason=_named(verdict.reason, reason), detail=_named_detail(verdict, reason))
            for verdict in candidate.verdicts
        )
        return replace(candidate, span=self._span(candidate.span), verdicts=verdicts)

    def _span(self, span: Span) -> Span:
        """Return the position in the recorded text of a span of the answer."""
        if span == (0, 0) or self.pieces == ((0, self.length),):
            return span
        start, end = span
        return self._position(start), (self._position(end - 1) + 1 if end > start else self._position(start))

    def _position(self, at: int) -> int:
        if not self.pieces:
            return 0
        starts = [0, *accumulate(end - start for start, end in self.pieces[:-1])]
        index = bisect_right(starts, at) - 1
        return self.pieces[index][0] + at - starts[index]


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """The rules by which the completions of a run are read.

    Attributes:
        accepted: Further endings of complete answers, in the form of ``records.endings.ending``.
        semantics: Version of the rules; see ``version``.
    """

    accepted: Collection[str] = ()
    semantics: int = _FIRST_SEMANTICS + 1

    def read(self, completion: Completion, *, chat: bool = True) -> ReadCompletion:
        """Return a completion as strategies read it.

        Args:
            chat: False for the continuation of a raw prompt.
        """
        length = len(completion.text)
        if self.semantics == _FIRST_SEMANTICS:
            choices = tuple(Choice(each.text, _first_ending(each.finish_reason)) for each in completion.choices)
            return ReadCompletion(replace(completion, choices=choices), ((0, length),), length)
        answers = [self._answer(choice, completion.usage, chat=chat) for choice in completion.choices]
        read = replace(completion, choices=tuple(choice for choice, _ in answers))
        return ReadCompletion(read, answers[0][1], length)

    def _answer(self, choice: Choice, usage: Usage, *, chat: bool) -> tuple[Choice, tuple[Span, ...]]:
        """Return a choice with its answer alone, and the spans of the answer in its text."""
        parts, text = find_answer(choice.text, chat=chat), choice.text
        answer = "".join(text[start:end] for start, end in parts.answer)
        reasoning = [choice.reasoning.strip(), *(text[start:end] for start, end in parts.reasoning)]
        name = ending(choice.finish_reason)
        if name in self.accepted:
            name = COMPLETE
        thought = "\n\n".join(part for part in reasoning if part)
        ended = name == COMPLETE or is_cut(name)
        reasoned = thought or (is_cut(name) and usage.completion_tokens)  # some servers hide the reasoning
        if parts.unfinished or (ended and reasoned and not answer.strip()):
            name = IN_REASONING
        return Choice(answer, name, thought), parts.answer


def holds_answer(completion: Completion) -> bool:
    """Return whether any choice holds a character of an answer."""
    return any(
        choice.text[start:end].strip()
        for choice in completion.choices
        for start, end in find_answer(choice.text).answer
    )


def shows_reasoning(completion: Completion) -> bool:
    """Return whether the model reasoned: by its own text, by the server's fields or by the server's count.

    An answer without a character that took all its tokens shows it too: the server keeps the reasoning to itself.
    """
    return bool(completion.usage.reasoning_tokens) or any(
        choice.reasoning
        or find_answer(choice.text).reasoning
        or (not choice.text and is_cut(choice.finish_reason) and completion.usage.completion_tokens)
        for choice in completion.choices
    )


def spent_on_reasoning(completion: Completion) -> bool:
    """Return whether the model reasoned and a choice was cut, so that the limit went into reasoning."""
    return shows_reasoning(completion) and any(is_cut(choice.finish_reason) for choice in completion.choices)


def _first_ending(finish_reason: str) -> str:
    return LENGTH if finish_reason == LENGTH else COMPLETE


def _named(reason: str, ending_reason: str) -> str:
    return ending_reason if ending_reason and reason == RejectReason.TRUNCATED else reason


def _named_detail(verdict: Verdict, ending_reason: str) -> dict[str, Json]:
    return {
        key: _named(value, ending_reason) if isinstance(value, str) else value for key, value in verdict.detail.items()
    }


def _names(reason: str, candidates: tuple[Candidate, ...], discards: tuple[Discard, ...]) -> bool:
    """Return whether a rejection names the reason."""
    verdicts = (verdict.reason for candidate in candidates for verdict in candidate.verdicts)
    return reason in (*verdicts, *(discard.reason for discard in discards))

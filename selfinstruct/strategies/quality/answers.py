"""The answers to one row's question with their scores: the state that a row's chain of quality requests carries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct.common.codec import Json
from selfinstruct.common.formats import TrainingRow
from selfinstruct.filters import check_instances
from selfinstruct.prompts import Prompts
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Candidate, CounterRow, Instance, Pair, Request, Sampling, Verdict
from selfinstruct.strategies.quality.options import Criteria
from selfinstruct.verifiers import verify

__all__ = ["Answers", "Score", "conversation", "transcript"]

_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Score:
    """A judge's score by one rubric, and its reason; None where no score could be read."""

    value: float | None
    reason: str


@dataclass(frozen=True)
class Answers:
    """A row with all answers to its question.

    Attributes:
        task: Task id of the final row.
        row: The row as its strategy offered it, without ids, spans and shown outputs.
        others: Answers besides the row's own, which is the first of ``texts``.
        complete: True if further answers were requested, or are not needed.
        own_fault: Reason code for which the row's own answer is no candidate, so that only the others count; ""
            otherwise.
        wrong: Indexes of answers that fail the row's verifier.
        scores: For each judged answer, its scores by rubric.
        on_accept, on_reject: The strategy's next request if the row is kept or rejected, as JSON.
    """

    task: str
    row: Candidate
    others: tuple[str, ...] = ()
    complete: bool = False
    own_fault: str = ""
    wrong: frozenset[int] = frozenset()
    scores: tuple[Mapping[str, Score], ...] = ()
    on_accept: Mapping[str, Json] | None = None
    on_reject: Mapping[str, Json] | None = None

    @classmethod
    def of_candidate(cls, candidate: Candidate) -> Answers:
        """Return the answers of a row that its strategy has just offered: its own."""
        row = Candidate(candidate.instruction, candidate.input, candidate.output, counter=candidate.counter)
        return cls(
            candidate.task or candidate.id,
            row.with_extras(candidate.extras),
            on_accept=None if candidate.on_accept is None else _request_json(candidate.on_accept),
            on_reject=None if candidate.on_reject is None else _request_json(candidate.on_reject),
        )

    def to_json(self) -> dict[str, Json]:
        """Return the answers as JSON, without empty fields."""
        row = {"instruction": self.row.instruction, "input": self.row.input, "output": self.row.output}
        required: dict[str, Json] = {"task": self.task, "row": {**row, **self.row.extras}}
        optional: dict[str, Json] = {
            "mark": None if self.row.counter is None else str(self.row.counter),
            "others": list(self.others),
            "complete": self.complete,
            "fault": self.own_fault,
            "wrong": sorted(self.wrong),
            "scores": [
                {rubric: [score.value, score.reason] for rubric, score in scores.items()} for scores in self.scores
            ],
            "then": None if self.on_accept is None else dict(self.on_accept),
            "otherwise": None if self.on_reject is None else dict(self.on_reject),
        }
        return {**required, **{name: value for name, value in optional.items() if value}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Answers:
        """Rebuild the answers from ``to_json``."""
        row = value["row"]
        counter = CounterRow.from_text(value["mark"]) if "mark" in value else None
        return cls(
            value["task"],
            Candidate(row["instruction"], row["input"], row["output"], counter=counter).with_extras(row),
            tuple(value.get("others", ())),
            value.get("complete", False),
            value.get("fault", ""),
            frozenset(value.get("wrong", ())),
            tuple({rubric: Score(*score) for rubric, score in scores.items()} for scores in value.get("scores", ())),
            value.get("then"),
            value.get("otherwise"),
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """All answers, the row's own first."""
        return (self.row.output, *self.others)

    @property
    def candidates(self) -> range:
        """Indexes of the answers that may become the row's."""
        return range(1 if self.own_fault else 0, len(self.texts))

    def with_others(self, others: Sequence[str]) -> Answers:
        """Return a copy with further answers; the row's verifier checks all of them."""
        answers = replace(self, others=tuple(others), complete=True)
        verifier = self.row.verifier
        if verifier is None:
            return answers
        wrong = (index for index in answers.candidates if not verify(verifier, answers.texts[index]).kept)
        return replace(answers, wrong=frozenset(wrong))

    def instance_fault(self, text: str) -> str:
        """Return the reason code by which the instance rules reject a further answer; "" if they accept it."""
        return check_instances([Instance(self.row.input, text)], truncated=False)[0].reason

    def row_with(self, index: int) -> Candidate:
        """Return the row with answer ``index`` as its output."""
        return replace(self.row, output=self.texts[index]) if index else self.row

    def unjudged(self, criteria: Criteria) -> tuple[int, str] | None:
        """Return the first answer and the name of a score that it lacks; None if none is missing.

        An answer that got no score by one rubric is not judged by the others.
        """
        for index in self.candidates:
            scores = self._scores(index)
            if index not in self.wrong and all(score.value is not None for score in scores.values()):
                for name in criteria.names:
                    if name not in scores:
                        return index, name
        return None

    def with_score(self, index: int, name: str, score: Score) -> Answers:
        """Return a copy with a score of answer ``index``."""
        scores = [dict(self._scores(at)) for at in range(max(index + 1, len(self.scores)))]
        scores[index][name] = score
        return replace(self, scores=tuple(scores))

    def means(self, criteria: Criteria) -> list[float | None]:
        """Return each answer's mean score, or 1 without scores; None for a wrong answer or one that lacks a score."""
        return [self._mean(index, criteria.names) for index in range(len(self.texts))]

    def best(self, criteria: Criteria) -> int:
        """Return the index of the answer with the highest mean, the first of equals; 0 if no answer has a mean."""
        means = self.means(criteria)
        return max(range(len(means)), key=lambda index: (_or_lowest(means[index]), -index))

    def pair(self, criteria: Criteria) -> Pair | None:
        """Return the worst answer for a preference pair with the best; None if no answer is worse."""
        means, best = self.means(criteria), self.best(criteria)
        high = means[best]
        if high is None:
            return None
        others = [index for index in range(len(means)) if self.texts[index] != self.texts[best]]
        scored = [(mean, index) for index in others if (mean := means[index]) is not None]
        scored += [(_or_lowest(criteria.of_wrong), index) for index in others if index in self.wrong]
        low, index = min(scored, default=(high, best))
        if low >= high:
            return None
        shown = round(low, criteria.digits) if math.isfinite(low) else None
        return Pair(self.texts[index], (round(high, criteria.digits), shown))

    def verdict(self, criteria: Criteria) -> Verdict | None:
        """Return the judge's verdict on the best answer; None if every answer fails the verifier, which rejects it.

        If the row's own answer is no candidate and no other is acceptable, its own fault rejects the row.
        """
        if len(self.wrong) == len(self.candidates):
            return Verdict("answer", False, self.own_fault) if self.own_fault else None
        index = self.best(criteria)
        mean, scores, threshold = self.means(criteria)[index], self._scores(index), criteria.threshold
        low = RejectReason.LOW_SCORE if mean is not None and threshold is not None and mean < threshold else ""
        reason = RejectReason.NO_SCORE if mean is None else low
        detail: dict[str, Json] = {
            "scores": {name: score.value for name, score in scores.items()},
            "reasons": {name: score.reason for name, score in scores.items()},
        }
        return Verdict("judge", not reason, reason, mean, detail=detail)

    def choice(self, criteria: Criteria) -> Verdict:
        """Return the verdict that records the chosen answer and the means of all answers."""
        means = [None if mean is None else round(mean, criteria.digits) for mean in self.means(criteria)]
        return Verdict("best_of", True, detail={"answer": self.best(criteria) + 1, "means": list(means)})

    def columns(self, criteria: Criteria) -> dict[str, Json]:
        """Return the columns with the best answer's mean and scores."""
        index = self.best(criteria)
        mean = self.means(criteria)[index]
        if not criteria.names or mean is None:
            return {}
        scores = self._scores(index)
        shown = round(mean, criteria.digits)
        return {"score": shown, "scores": {name: scores[name].value for name in criteria.names}}

    def follow_ups(self, prompts: Prompts, parent: int) -> tuple[Request | None, Request | None]:
        """Return ``on_accept`` and ``on_reject`` as requests that follow ``parent``."""
        on_accept, on_reject = self.on_accept, self.on_reject
        return (
            None if on_accept is None else _request_from_json(on_accept, prompts, parent),
            None if on_reject is None else _request_from_json(on_reject, prompts, parent),
        )

    def _scores(self, index: int) -> Mapping[str, Score]:
        return self.scores[index] if index < len(self.scores) else {}

    def _mean(self, index: int, names: Sequence[str]) -> float | None:
        if index in self.wrong or index not in self.candidates:
            return None
        scores = self._scores(index)
        values = [score.value for name in names if (score := scores.get(name)) and score.value is not None]
        if len(values) < len(names):
            return None
        return math.fsum(values) / len(values) if values else 1.0  # ``sum`` differs between Python versions


def conversation(row: Candidate) -> list[tuple[str, str]]:
    """Return role and content of each message of a row, as an export holds them."""
    messages = tuple((message.role, message.content) for message in row.messages)
    return TrainingRow(row.instruction, row.input, row.output, row.system, messages).turns


def transcript(row: Candidate, *, answer: bool = True) -> str:
    """Return a row as a judge reads it, each message with its speaker.

    Args:
        answer: False omits the last answer.
    """
    turns = conversation(row)
    if not answer:
        turns = turns[:-1]
    return "\n\n".join(f"{_NAMES[role]}: {content}" for role, content in turns)


def _or_lowest(mean: float | None) -> float:
    return -math.inf if mean is None else mean


def _request_json(request: Request) -> dict[str, Json]:
    """Return a later request as JSON; its text is rendered again from its template."""
    return {
        "stage": request.stage,
        "turns": [[turn.role, turn.template, dict(turn.variables)] for turn in request.turns],
        "sampling": request.sampling.to_json(),
        "context": request.stored_context,
    }


def _request_from_json(value: Mapping[str, Any], prompts: Prompts, parent: int) -> Request:
    turns = tuple(prompts.turn(role, template, variables) for role, template, variables in value["turns"])
    sampling = Sampling.from_json(value["sampling"])
    return Request.from_stored(value["stage"], turns, sampling, value["context"], parent)

"""The answers to one question, what was said of them, and which is the best: what travels from request to request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct.common.codec import Json
from selfinstruct.common.formats import TrainingRow
from selfinstruct.filters import check_instances
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Instance, Pair, Request, Sampling, Verdict
from selfinstruct.verifiers import verify

__all__ = ["Answers", "Score", "transcript"]

_DIGITS = 3  # of a mean, where it is shown
_WRONG = 0.0  # what an answer counts for that fails its verifier: less than any score, and it is not judged

_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Score:
    """What a judge said by one rubric; None where no score could be read."""

    value: float | None
    reason: str


@dataclass(frozen=True)
class Answers:
    """A row with all answers to its question.

    Attributes:
        task: Of the row that comes of it.
        row: As its strategy offered it, but for ids, spans and what it was shown.
        others: Answers beside the row's own, which is the first of ``texts``.
        complete: Whether further answers were asked for, or need not be.
        wrong: Places of answers that fail the row's verifier.
        scores: Of each answer that was judged, by rubric.
        then, otherwise: What the strategy asks next if the row is kept, or rejected.
    """

    task: str
    row: Candidate
    others: tuple[str, ...] = ()
    complete: bool = False
    wrong: frozenset[int] = frozenset()
    scores: tuple[Mapping[str, Score], ...] = ()
    on_accept: Mapping[str, Json] | None = None
    on_reject: Mapping[str, Json] | None = None

    @classmethod
    def of(cls, one: Candidate, name: str) -> Answers:
        """Those of a row that was just offered.

        Args:
            name: Its id as a candidate.
        """
        then, otherwise = (None if request is None else _packed(request) for request in (one.on_accept, one.on_reject))
        row = Candidate(one.instruction, one.input, one.output, mark=one.mark).with_extras(one.extras)
        return cls(one.task or name, row, on_accept=then, on_reject=otherwise)

    def to_json(self) -> dict[str, Json]:
        row = {"instruction": self.row.instruction, "input": self.row.input, "output": self.row.output}
        value: dict[str, Json] = {"task": self.task, "row": {**row, **self.row.extras}}
        more: dict[str, Json] = {
            "mark": self.row.mark,
            "others": list(self.others),
            "complete": self.complete,
            "wrong": sorted(self.wrong),
            "scores": [{name: [one.value, one.reason] for name, one in each.items()} for each in self.scores],
            "then": None if self.on_accept is None else dict(self.on_accept),
            "otherwise": None if self.on_reject is None else dict(self.on_reject),
        }
        return {**value, **{name: one for name, one in more.items() if one}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Answers:
        row = value["row"]
        return cls(
            value["task"],
            Candidate(row["instruction"], row["input"], row["output"], mark=value.get("mark", "")).with_extras(row),
            tuple(value.get("others", ())),
            value.get("complete", False),
            frozenset(value.get("wrong", ())),
            tuple({name: Score(*one) for name, one in each.items()} for each in value.get("scores", ())),
            value.get("then"),
            value.get("otherwise"),
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """All answers, the row's own first."""
        return (self.row.output, *self.others)

    def with_others(self, others: Sequence[str]) -> Answers:
        """With further answers; all of them are checked where code can."""
        found = replace(self, others=tuple(others), complete=True)
        verifier = self.row.verifier
        if verifier is None:
            return found
        return replace(
            found, wrong=frozenset(place for place, text in enumerate(found.texts) if not verify(verifier, text).kept)
        )

    def fault(self, text: str) -> str:
        """Why a further answer is none, by the rules that hold for every row; "" if it is one."""
        row = self.row
        return check_instances([Instance(row.input, text)], truncated=False)[0].reason

    def of_place(self, place: int) -> Candidate:
        """The row with one of the answers."""
        return replace(self.row, output=self.texts[place]) if place else self.row

    def unjudged(self, rubrics: Sequence[str]) -> tuple[int, str] | None:
        """The first answer and rubric to be judged; of an answer without a score by one rubric no more is asked."""
        for place in range(len(self.texts)):
            known = self._known(place)
            if place not in self.wrong and all(one.value is not None for one in known.values()):
                for rubric in rubrics:
                    if rubric not in known:
                        return place, rubric
        return None

    def with_score(self, place: int, rubric: str, score: Score) -> Answers:
        """With what was said of one answer."""
        scores = [dict(self._known(at)) for at in range(max(place + 1, len(self.scores)))]
        scores[place][rubric] = score
        return replace(self, scores=tuple(scores))

    def means(self, rubrics: Sequence[str]) -> list[float | None]:
        """Of each answer the mean of its scores, or 1 where nobody judges; None for one that is wrong, or lacks one."""
        return [self._mean(place, rubrics) for place in range(len(self.texts))]

    def best(self, rubrics: Sequence[str]) -> int:
        """The place of the answer with the highest mean, the first of equals; 0 where none has one."""
        means = self.means(rubrics)
        return max(range(len(means)), key=lambda place: (_or_none(means[place]), -place))

    def pair(self, rubrics: Sequence[str]) -> Pair | None:
        """The worst answer beside the best one; None where none is worse."""
        means, best = self.means(rubrics), self.best(rubrics)
        high = means[best]
        if high is None:
            return None
        worse = [
            (_WRONG if place in self.wrong else mean, place)
            for place, mean in enumerate(means)
            if self.texts[place] != self.texts[best] and (place in self.wrong or mean is not None)
        ]
        low, place = min(((low, place) for low, place in worse if low is not None), default=(high, best))
        return Pair(self.texts[place], (round(high, _DIGITS), round(low, _DIGITS))) if low < high else None

    def verdict(self, rubrics: Sequence[str], threshold: float) -> Verdict | None:
        """The judge's on the best answer; None where all are wrong, which the verifier says."""
        if len(self.wrong) == len(self.texts):
            return None
        place = self.best(rubrics)
        mean, known = self.means(rubrics)[place], self._known(place)
        reason = "no_score" if mean is None else "low_score" if mean < threshold else ""
        detail: dict[str, Json] = {
            "scores": {name: one.value for name, one in known.items()},
            "reasons": {name: one.reason for name, one in known.items()},
        }
        return Verdict("judge", not reason, reason, mean, detail=detail)

    def choice(self, rubrics: Sequence[str]) -> Verdict:
        """Which of the answers was taken, and what all of them had."""
        means = [None if mean is None else round(mean, _DIGITS) for mean in self.means(rubrics)]
        return Verdict("best_of", True, detail={"answer": self.best(rubrics) + 1, "means": list(means)})

    def columns(self, rubrics: Sequence[str]) -> dict[str, Json]:
        """What the row tells of its scores."""
        place = self.best(rubrics)
        mean = self.means(rubrics)[place]
        if not rubrics or mean is None:
            return {}
        known = self._known(place)
        return {"score": round(mean, _DIGITS), "scores": {name: known[name].value for name in rubrics}}

    def follow_ups(self, prompts: Prompts, parent: int) -> tuple[Request | None, Request | None]:
        """``then`` and ``otherwise`` as requests that follow ``parent``."""
        then, otherwise = (
            None if value is None else _unpacked(value, prompts, parent) for value in (self.on_accept, self.on_reject)
        )
        return then, otherwise

    def _known(self, place: int) -> Mapping[str, Score]:
        return self.scores[place] if place < len(self.scores) else {}

    def _mean(self, place: int, rubrics: Sequence[str]) -> float | None:
        if place in self.wrong:
            return None
        known = self._known(place)
        values = [known[rubric].value if rubric in known else None for rubric in rubrics]
        found = [value for value in values if value is not None]
        if len(found) < len(values):
            return None
        return math.fsum(found) / len(found) if found else 1.0  # ``sum`` differs between versions of Python


def transcript(row: Candidate, *, answer: bool = True) -> str:
    """A row as a judge reads it: who said what.

    Args:
        answer: False leaves out the last answer.
    """
    said = tuple((message.role, message.content) for message in row.messages)
    turns = TrainingRow(row.instruction, row.input, row.output, row.system, said).turns
    if not answer:
        turns = turns[:-1]
    return "\n\n".join(f"{_NAMES[role]}: {content}" for role, content in turns)


def _or_none(mean: float | None) -> float:
    return -1.0 if mean is None else mean


def _packed(request: Request) -> dict[str, Json]:
    """A request that is to be asked later, as JSON; its text is made again from its template."""
    return {
        "stage": request.stage,
        "turns": [[turn.role, turn.template, dict(turn.variables)] for turn in request.turns],
        "sampling": request.sampling.to_json(),
        "context": dict(request.context),
    }


def _unpacked(value: Mapping[str, Any], prompts: Prompts, parent: int) -> Request:
    turns = tuple(prompts.turn(role, template, variables) for role, template, variables in value["turns"])
    return Request(value["stage"], turns, Sampling.from_json(value["sampling"]), value["context"], parent)

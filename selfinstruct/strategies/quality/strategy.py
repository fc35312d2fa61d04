"""Quality, round any strategy: the best of several answers, a judge with a rubric, preference pairs, tags.

What the strategy offers as a row becomes a trial: the filters judge it as a row, and if it is kept, a chain of requests
follows. ``candidates`` asks for further answers to its question, all in one completion (rejection sampling: Llama 3,
arXiv:2407.21783, section 4.2.2); ``judge`` scores one answer by one rubric, and so on for each; ``tags`` names what
kind of question it is. The last of them offers the row, with the best answer, as an instance of the trial's task.

Each request carries in its context, under ``quality``, what is known so far: nothing in it depends on the threshold,
so that a run can be judged again under another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from selfinstruct.common.codec import Json
from selfinstruct.common.formats import user_text
from selfinstruct.common.rng import Rng
from selfinstruct.parse import read_labels, read_score, spoken, stripped
from selfinstruct.prompts import Api, Prompts
from selfinstruct.records import (
    Candidate,
    Completion,
    Discard,
    PromptMessage,
    Received,
    Request,
    Sampling,
    Task,
    Verdict,
    candidate_id,
)
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.quality.answers import Answers, Score, transcript
from selfinstruct.strategies.quality.options import RUBRICS, QualityOptions
from selfinstruct.strategies.shared import schemas

__all__ = ["TAGS", "QualityStrategy"]

_JUDGEMENT, _LABELS = 256, 60  # most tokens of a score with its reason, and of three tags, in a raw prompt
_KEY = "quality"  # of a context: the request is this wrapper's own

TAGS: Mapping[str, tuple[str, ...]] = {
    "category": (
        "facts", "explanation", "reasoning", "math", "coding", "data analysis", "writing", "editing", "translation",
        "summary", "classification", "planning", "advice", "brainstorming", "role play", "conversation", "other",
    ),
    "difficulty": ("very easy", "easy", "medium", "hard", "very hard"),
    "language": (
        "English", "Arabic", "Chinese", "Czech", "Dutch", "Finnish", "French", "German", "Greek", "Hebrew", "Hindi",
        "Indonesian", "Italian", "Japanese", "Korean", "Polish", "Portuguese", "Russian", "Spanish", "Swedish",
        "Thai", "Turkish", "Ukrainian", "Vietnamese", "other",
    ),
}  # fmt: skip
"""The words that a tag may be; the kinds of task follow those by which Magpie (arXiv:2406.08464) sorts its own."""


class QualityStrategy(Strategy):
    """A strategy whose rows are judged before they are rows.

    Args:
        inner: The strategy, which knows nothing of this.
        options: What is asked about each row.
        prompts: The run's templates, those of ``templates_of`` among them.
    """

    name: ClassVar[str] = "quality"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {}

    def __init__(self, inner: Strategy, options: QualityOptions, prompts: Prompts) -> None:
        self.inner = inner
        self.options = options
        self.prompts = prompts

    @staticmethod
    def templates_of(options: QualityOptions) -> dict[str, frozenset[str]]:
        """The templates that these options need, as ``Strategy.templates``."""
        found: dict[str, frozenset[str]] = {}
        form = "-json" if options.structured else ""
        if options.best_of > 1:
            found["quality/candidates"] = frozenset({"instruction"})
            found["quality/system"] = frozenset({"system"})
        if options.judge is not None:
            found[f"quality/judge{form}"] = frozenset({"conversation", "rubric", "low", "high"})
            found |= {f"{RUBRICS}/{name}": frozenset({"low", "high"}) for name in options.rubrics}
        if options.tags:
            found[f"quality/tags{form}"] = frozenset({"request", "categories", "difficulties", "languages"})
        return found

    @property
    def format(self) -> str:
        return self.inner.format

    def rows(self, seeds: Sequence[Task]) -> int | None:
        return self.inner.rows(seeds)

    def schema_apis(self, api: Api) -> frozenset[Api]:
        options = self.options
        asked = ((options.judging, options.judge is not None), (options.tagging, options.tags))
        own = (stage.api_in(api) for stage, on in asked if on and options.structured)
        return self.inner.schema_apis(api).union(own)

    def propose(self, view: View, rng: Rng) -> Request | None:
        """What the strategy asks."""
        return self.inner.propose(view, rng)

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """What the strategy reads, its rows as trials; or the next step of a row's chain, at last the row."""
        value = request.context.get(_KEY)
        if not isinstance(value, Mapping):
            return self._tried(request, self.inner.receive(request, completion, view))
        asked: Any = value["asked"]
        known, stage = Answers.from_json(value), request.stage.rpartition("/")[2]
        if stage == "candidates":
            return self._answered(request, known, completion)
        if stage == "judge":
            return self._judged(request, known, asked, completion)
        return self._tagged(request, known, completion)

    def failed(self, request: Request, view: View) -> Received:
        """What the strategy does instead; a step of a row's chain is passed over: no answers, no score, no tags."""
        value = request.context.get(_KEY)
        if not isinstance(value, Mapping):
            return self._tried(request, self.inner.failed(request, view))
        asked: Any = value["asked"]
        known, stage = Answers.from_json(value), request.stage.rpartition("/")[2]
        if stage == "candidates":
            return self._gone_on(request, known.with_others(()))
        if stage == "judge":
            return self._gone_on(request, known.with_score(asked["answer"], asked["rubric"], Score(None, "")))
        return self._row(request, known, tags=dict.fromkeys(TAGS))

    def _tried(self, request: Request, received: Received) -> Received:
        offered = enumerate(received.candidates)
        return replace(received, candidates=tuple(self._trial(request, place, one) for place, one in offered))

    def _trial(self, request: Request, place: int, one: Candidate) -> Candidate:
        """A row as the beginning of its chain; whatever else it is, or one that is rejected already, as it is."""
        if one.kind != "row" or not all(verdict.kept for verdict in one.verdicts):
            return one
        known = Answers.of(one, candidate_id(request.number, place))
        # A conversation has no one question to be answered again. Of several answers one has to be the better.
        several = not one.messages and (self.options.judge is not None or one.verifier is not None)
        known = replace(known, complete=self.options.best_of == 1 or not several)
        then = self._next(request, known)
        if then is None:
            return one
        # With other answers to come, its own may be wrong: the verifier judges the row that is chosen.
        return replace(one, kind="provisional_row", on_accept=then, verifier=one.verifier if known.complete else None)

    def _next(self, request: Request, known: Answers) -> Request | None:
        """The next request of the chain after this one; None when all is known that is needed, or no more is of use."""
        options = self.options
        if not known.complete:
            return self._candidates(request, known)
        if (asked := known.unjudged(options.rubrics)) is not None:
            return self._judge(request, known, *asked)
        if options.tags and self._is_good(known):
            return self._tags(request, known)
        return None

    def _candidates(self, request: Request, known: Answers) -> Request:
        stage, row, count = self.options.candidates, known.row, self.options.best_of - 1
        text = user_text(row.instruction, row.input)
        turns = stage.turns(self.prompts, "quality/candidates", instruction=text)
        if row.system and turns[0].role == "user":
            turns = (self.prompts.turn("system", "quality/system", {"system": row.system}), *turns)
        elif row.system:
            turns = stage.turns(self.prompts, "quality/candidates", instruction=f"{row.system}\n\n{text}")
        sampling = replace(stage.answering(self.prompts, "\nTask:"), n=count)
        return self._request(request, "candidates", turns, sampling, known, {"count": count})

    def _judge(self, request: Request, known: Answers, place: int, rubric: str) -> Request:
        options, stage = self.options, self.options.judging.of_a_word(self.prompts, _JUDGEMENT)
        assert options.judge is not None
        low, high = options.judge.scale
        scale = {"low": str(low), "high": str(high)}
        turns = stage.turns(
            self.prompts,
            "quality/judge-json" if options.structured else "quality/judge",
            conversation=transcript(known.of_place(place)),
            rubric=self.prompts.turn("user", f"{RUBRICS}/{rubric}", scale).text,
            **scale,
        )
        sampling = stage.sampling(schema=schemas.score(low, high) if options.structured else None)
        asked: dict[str, Json] = {"answer": place, "rubric": rubric, "scale": [low, high]}
        return self._request(request, "judge", turns, sampling, known, asked)

    def _tags(self, request: Request, known: Answers) -> Request:
        stage, row = self.options.tagging.of_a_word(self.prompts, _LABELS), known.row
        structured = self.options.structured
        turns = stage.turns(
            self.prompts,
            "quality/tags-json" if structured else "quality/tags",
            request=transcript(row, answer=False) if row.messages else user_text(row.instruction, row.input),
            categories=", ".join(TAGS["category"]),
            difficulties=", ".join(TAGS["difficulty"]),
            languages=", ".join(TAGS["language"]),
        )
        sampling = stage.sampling(schema=schemas.labels(TAGS) if structured else None)
        return self._request(request, "tags", turns, sampling, known, {})

    def _request(
        self,
        after: Request,
        stage: str,
        turns: tuple[PromptMessage, ...],
        sampling: Sampling,
        known: Answers,
        asked: Mapping[str, Json],
    ) -> Request:
        """A step of the chain. What it asks stands in the context, so a fork that asks the same finds it answered."""
        name = f"{after.method}/{stage}" if after.method else stage
        return Request(name, turns, sampling, {_KEY: {**known.to_json(), "asked": dict(asked)}}, after.number)

    def _answered(self, request: Request, known: Answers, completion: Completion) -> Received:
        """Take the further answers: those that could be a row's, and differ."""
        others: list[str] = []
        discards: list[Discard] = []
        choices = completion.choices[: request.sampling.n]
        for place, choice in enumerate(choices):
            start, end = stripped(choice.text)
            text = choice.text[start:end]
            if choice.finish_reason == "length":
                reason = "truncated"
            elif text in (known.row.output, *others):
                reason = "same_answer"
            else:
                reason = known.fault(text) or self.inner.fault(known.row, text)
            if reason:
                discards.append(Discard(reason, (0, 0) if place else (start, end)))
            else:
                others.append(text)
        discards += [Discard("missing_choice", (0, 0))] * (request.sampling.n - len(choices))
        return self._gone_on(request, known.with_others(others), discards=discards, completion=completion)

    def _judged(self, request: Request, known: Answers, asked: Mapping[str, Any], completion: Completion) -> Received:
        low, high = asked["scale"]
        continued = request.is_raw and request.sampling.schema is None
        score = Score(*read_score(_said(completion), low, high, continued=continued))
        column = "none" if score.value is None else f"{score.value:g}"
        found = known.with_score(asked["answer"], asked["rubric"], score)
        return self._gone_on(request, found, counters=[_mark(request, asked["rubric"], column)])

    def _tagged(self, request: Request, known: Answers, completion: Completion) -> Received:
        tags = read_labels(_said(completion), TAGS, continued=request.is_raw and request.sampling.schema is None)
        marks = [_mark(request, name, word or "none") for name, word in tags.items()]
        return self._row(request, known, counters=marks, tags=tags)

    def _gone_on(
        self,
        request: Request,
        known: Answers,
        *,
        discards: Sequence[Discard] = (),
        counters: Sequence[str] = (),
        completion: Completion | None = None,
    ) -> Received:
        after = self._next(request, known)
        if after is None:
            return self._row(request, known, discards=discards, counters=counters, completion=completion)
        return Received(follow_ups=(after,), discards=tuple(discards), counters=tuple(counters))

    def _row(
        self,
        request: Request,
        known: Answers,
        *,
        discards: Sequence[Discard] = (),
        counters: Sequence[str] = (),
        completion: Completion | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> Received:
        """The row with the best answer, and with the judge's verdict on it.

        Args:
            completion: Given where the answer may stand in it.
        """
        options, rubrics, several = self.options, self.options.rubrics, len(known.texts) > 1
        place = known.best(rubrics)
        row, verdict = known.of_place(place), self._verdict(known)
        if several:
            counters = [*counters, _mark(request, "best answer", str(place + 1))]
        then, otherwise = known.follow_ups(self.prompts, request.number)
        found = Candidate(
            row.instruction,
            row.input,
            row.output,
            span=_span(row.output, completion) if place else (0, 0),
            task=known.task,
            shown=(row.instruction,) if place else (),  # a small model at times says the task again; its own was judged
            on_accept=then,
            on_reject=otherwise,
            mark=row.mark,
        ).with_extras(row.extras)
        found = replace(
            found,
            columns={**found.columns, **known.columns(rubrics), **(tags or {})},
            pair=known.pair(rubrics) if options.pairs else found.pair,
            verdicts=(*((known.choice(rubrics),) if several else ()), *((verdict,) if verdict else ())),
        )
        return Received((found,), discards=tuple(discards), counters=tuple(counters))

    def _is_good(self, known: Answers) -> bool:
        """Whether the best answer would do: no more is asked about one that wouldn't."""
        verdict = self._verdict(known)
        return known.means(self.options.rubrics)[known.best(self.options.rubrics)] is not None and (
            verdict is None or verdict.kept
        )

    def _verdict(self, known: Answers) -> Verdict | None:
        judge = self.options.judge
        return None if judge is None else known.verdict(judge.rubrics, judge.threshold)


def _said(completion: Completion) -> str:
    """What a judge says, without the reasoning before it."""
    start, end = spoken(completion.text)
    return completion.text[start:end]


def _mark(request: Request, row: str, column: str) -> str:
    """A count in the table ``quality``; of a mixed run, in that of its method."""
    return f"{request.method}: quality|{row}|{column}" if request.method else f"quality|{row}|{column}"


def _span(output: str, completion: Completion | None) -> tuple[int, int]:
    """Where the output is the whole of the first choice; (0, 0) where it isn't."""
    if completion is None:
        return 0, 0
    start, end = stripped(completion.text)
    return (start, end) if completion.text[start:end] == output else (0, 0)

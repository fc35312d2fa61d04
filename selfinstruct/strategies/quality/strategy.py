"""Quality for any strategy: the best of several answers, a judge with rubrics, preference pairs, tags.

The strategy's rows become provisional rows: the filters decide on them as rows, and each kept one starts a chain of
requests. ``candidates`` requests further answers to the row's question, all in one completion (rejection sampling:
Llama 3, arXiv:2407.21783, section 4.2.2); ``judge`` scores one answer by one rubric, and is repeated for each; or
``reward`` scores one answer by a reward model; ``tags`` classifies the question. The last request of the chain offers
the final row, with the best answer, as an instance of the provisional row's task.

Each request carries the state of its chain in its context, under ``quality``. Nothing in it depends on the threshold,
so that a run can be filtered again under another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from selfinstruct.common.codec import Json
from selfinstruct.common.formats import user_text
from selfinstruct.common.rng import Rng
from selfinstruct.common.unused import Unused
from selfinstruct.parse import answer_span, content_span, read_labels, read_score
from selfinstruct.prompts import Api, Prompts
from selfinstruct.reasons import RejectReason
from selfinstruct.records import (
    Candidate,
    Completion,
    CounterKey,
    Discard,
    PromptMessage,
    Received,
    Request,
    Role,
    Sampling,
    Task,
    Verdict,
)
from selfinstruct.strategies.abilities import (
    ChoosesFormat,
    ChoosesTarget,
    RecoversFailures,
    UsesSchemas,
    default_target,
    recover,
    reject_reason,
    row_format,
    schema_apis,
    unanswered_row,
)
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.quality.answers import Answers, Score, conversation, transcript
from selfinstruct.strategies.quality.options import REWARD, RUBRICS, QualityOptions
from selfinstruct.strategies.quality.steps import CandidatesStep, JudgeStep, RewardStep, TagsStep
from selfinstruct.strategies.shared import schemas
from selfinstruct.strategies.shared.contexts import context_json, from_json

__all__ = ["TAGS", "QualityStrategy"]

_SCORE_TOKENS, _TAGS_TOKENS = 256, 60  # limits for raw prompts: a score with its reason, and three tags
_MESSAGE = "quality/message"  # the template of each message that a reward model reads
_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_KEY = "quality"  # key of the context that marks a request of this module

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
"""The vocabulary of each tag; the categories follow the ones of Magpie (arXiv:2406.08464)."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """The data that one completion of a chain adds to the result, besides the answers.

    Attributes:
        completion: The completion, if the row's answer may be a part of it.
    """

    discards: tuple[Discard, ...] = ()
    counters: tuple[CounterKey, ...] = ()
    completion: Completion | None = None


_NOTHING = _Reading()


class QualityStrategy(Strategy, ChoosesFormat, ChoosesTarget, RecoversFailures, UsesSchemas):
    """A strategy whose rows are judged before they enter the dataset.

    Args:
        inner: The strategy that makes the rows; it knows nothing of this one.
        options: The requests about each row.
        prompts: The templates of the run, with the ones of ``templates_of``.
    """

    name: ClassVar[str] = "quality"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {}
    Options: ClassVar[type[QualityOptions]] = QualityOptions
    options: QualityOptions

    def __init__(self, inner: Strategy, options: QualityOptions, prompts: Prompts) -> None:
        super().__init__(options, prompts)
        self.inner = inner

    @staticmethod
    def templates_of(options: QualityOptions) -> dict[str, frozenset[str]]:
        """Return the templates that these options need, in the form of ``Strategy.templates``."""
        templates: dict[str, frozenset[str]] = {}
        suffix = "-json" if options.structured else ""
        if options.best_of > 1:
            templates["quality/candidates"] = frozenset({"instruction"})
            templates["quality/system"] = frozenset({"system"})
        if options.judge is not None:
            templates[f"quality/judge{suffix}"] = frozenset({"conversation", "rubric", "low", "high"})
            templates |= {f"{RUBRICS}/{name}": frozenset({"low", "high"}) for name in options.rubrics}
        if options.reward is not None:
            templates[_MESSAGE] = frozenset({"text"})
        if options.tags:
            templates[f"quality/tags{suffix}"] = frozenset({"request", "categories", "difficulties", "languages"})
        return templates

    @staticmethod
    def unused_options(options: QualityOptions, api: Api) -> Iterable[Unused]:
        """Return the stages that are not requested, and the template that only a chat uses."""
        if options.best_of == 1:
            yield Unused("best_of", "2 or more", ("candidates",))
        elif options.candidates.api_in(api) == "completion":
            yield Unused("candidates.api", "chat", (), ("quality/system",))
        if options.judge is None:
            yield Unused("judge", "{}", ("judging",))
        if not options.tags:
            yield Unused("tags", "true", ("tagging",))
        if options.judge is None and not options.tags:
            yield Unused("judge", "{}", ("structured",))

    @property
    def format(self) -> str:
        """The format of the strategy that makes the rows."""
        return row_format(self.inner)

    def default_target(self, seeds: Sequence[Task]) -> int | None:
        """Return the target of the strategy that makes the rows."""
        return default_target(self.inner, seeds)

    def schema_apis(self, api: Api) -> frozenset[Api]:
        """Return the APIs in which the strategy, the judge or the tags use a schema."""
        options = self.options
        stages = ((options.judging, options.judge is not None), (options.tagging, options.tags))
        quality_apis = (stage.api_in(api) for stage, is_used in stages if is_used and options.structured)
        return schema_apis(self.inner, api).union(quality_apis)

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Return the strategy's next request."""
        return self.inner.propose(view, rng)

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Turn the strategy's rows into provisional rows, or take the next step of a row's chain."""
        state = request.context.get(_KEY)
        if not isinstance(state, Mapping):
            received = self.inner.receive(request, completion, view)
            return self._start_chains(request, received, completion.choices[0].cut_reason)
        answers, stage = Answers.from_json(state), request.stage.rpartition("/")[2]
        if stage == "candidates":
            return self._receive_candidates(request, answers, completion)
        if stage == "judge":
            return self._receive_score(request, answers, _judge_step(state), completion)
        if stage == "reward":
            return self._receive_reward(request, answers, _reward_step(state), completion)
        return self._receive_tags(request, answers, completion)

    def recover(self, request: Request, view: View) -> Received:
        """Let the strategy recover; in a row's chain, skip the step: no answers, no score, no tags."""
        state = request.context.get(_KEY)
        if not isinstance(state, Mapping):
            return self._start_chains(request, recover(self.inner, request, view))
        answers, stage = Answers.from_json(state), request.stage.rpartition("/")[2]
        if stage == "candidates":
            return self._continue(request, answers.with_others(()))
        if stage == "judge":
            step = _judge_step(state)
            return self._continue(request, answers.with_score(step.answer, step.rubric, Score(None, "")))
        if stage == "reward":
            return self._continue(request, answers.with_score(_reward_step(state).answer, REWARD, Score(None, "")))
        return self._finish(request, answers, tags=dict.fromkeys(TAGS))

    def _start_chains(self, request: Request, received: Received, cut_reason: str = "") -> Received:
        if self._asks_others and received.discards and not received.candidates:
            received = self._with_unanswered_row(request, received)
        received = received.with_ids(request)
        candidates = tuple(self._start_chain(request, row, cut_reason) for row in received.candidates)
        faults = tuple(
            Discard(_own_fault(row, cut_reason), row.span)
            for row, started in zip(received.candidates, candidates, strict=True)
            if row.kind == "row" and started.kind == "pending_task"
        )
        return replace(received, candidates=candidates, discards=(*received.discards, *faults))

    @property
    def _asks_others(self) -> bool:
        """Whether other answers are requested in place of an unacceptable one."""
        return self.options.best_of > 1 and self.prompts.semantics > 1

    def _with_unanswered_row(self, request: Request, received: Received) -> Received:
        """Offer the row of an answer that the strategy discarded, with the reason for that as its verdict."""
        row = unanswered_row(self.inner, request)
        if row is None:
            return received
        discard, *others = received.discards
        verdict = Verdict("answer", False, discard.reason)
        row = replace(row, span=discard.span, verdicts=(verdict,))
        return replace(received, candidates=(row,), discards=tuple(others))

    def _start_chain(self, request: Request, candidate: Candidate, cut_reason: str) -> Candidate:
        """Return a row as a provisional row with its first request; any other candidate unchanged.

        A row whose own answer is unacceptable becomes a pending task whose other answers are requested.
        """
        if candidate.kind != "row":
            return candidate
        if self._asks_others and not candidate.messages and (fault := _own_fault(candidate, cut_reason)):
            answers = replace(Answers.of_candidate(replace(candidate, output="")), own_fault=fault)
            first = self._next_request(request, answers)
            return replace(candidate, kind="pending_task", output="", on_accept=first, verifier=None, verdicts=())
        if not all(verdict.kept for verdict in candidate.verdicts):
            return candidate
        # A conversation has no single question to answer again, and several answers need something to compare them by.
        can_compare = not candidate.messages and (self.options.scores or candidate.verifier is not None)
        answers = replace(Answers.of_candidate(candidate), complete=self.options.best_of == 1 or not can_compare)
        first = self._next_request(request, answers)
        if first is None:
            return candidate
        # While further answers are to come, the row's own may be wrong: the verifier decides on the chosen answer.
        verifier = candidate.verifier if answers.complete else None
        return replace(candidate, kind="provisional_row", on_accept=first, verifier=verifier)

    def _next_request(self, request: Request, answers: Answers) -> Request | None:
        """Return the next request of the chain after ``request``; None if no further one is needed or useful."""
        options = self.options
        if not answers.complete:
            return self._request_candidates(request, answers)
        if (unjudged := answers.unjudged(options.criteria)) is not None:
            index, name = unjudged
            if options.reward is not None:
                return self._request_reward(request, answers, index, options.reward.identity)
            return self._request_score(request, answers, index, name)
        if options.tags and self._is_acceptable(answers):
            return self._request_tags(request, answers)
        return None

    def _request_candidates(self, request: Request, answers: Answers) -> Request:
        stage, row, count = self.options.candidates, answers.row, self.options.best_of - 1
        text = user_text(row.instruction, row.input)
        turns = stage.turns(self.prompts, "quality/candidates", instruction=text)
        if row.system and turns[0].role == "user":
            turns = (self.prompts.turn("system", "quality/system", {"system": row.system}), *turns)
        elif row.system:
            turns = stage.turns(self.prompts, "quality/candidates", instruction=f"{row.system}\n\n{text}")
        sampling = replace(stage.free_answer_sampling(self.prompts, "\nTask:"), n=count)
        return _chain_request(request, "candidates", turns, sampling, answers, context_json(CandidatesStep(count)))

    def _request_score(self, request: Request, answers: Answers, index: int, rubric: str) -> Request:
        options, stage = self.options, self.options.judging.with_short_answer(self.prompts, _SCORE_TOKENS)
        assert options.judge is not None
        low, high = options.judge.scale
        scale = {"low": str(low), "high": str(high)}
        turns = stage.turns(
            self.prompts,
            "quality/judge-json" if options.structured else "quality/judge",
            conversation=transcript(answers.row_with(index)),
            rubric=self.prompts.turn("user", f"{RUBRICS}/{rubric}", scale).text,
            **scale,
        )
        sampling = stage.sampling(schema=schemas.score(low, high) if options.structured else None)
        step = context_json(JudgeStep(index, rubric, (low, high)))
        return _chain_request(request, "judge", turns, sampling, answers, step)

    def _request_reward(self, request: Request, answers: Answers, index: int, model: str) -> Request:
        messages = conversation(answers.row_with(index))
        turns = tuple(self.prompts.turn(_ROLES[role], _MESSAGE, {"text": content}) for role, content in messages)
        step = context_json(RewardStep(index, model))
        return _chain_request(request, "reward", turns, Sampling(max_tokens=0, temperature=0.0), answers, step)

    def _request_tags(self, request: Request, answers: Answers) -> Request:
        stage, row = self.options.tagging.with_short_answer(self.prompts, _TAGS_TOKENS), answers.row
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
        return _chain_request(request, "tags", turns, sampling, answers, context_json(TagsStep()))

    def _receive_candidates(self, request: Request, answers: Answers, completion: Completion) -> Received:
        """Take the further answers that are acceptable as a row's output and differ from the others."""
        others: list[str] = []
        discards: list[Discard] = []
        choices = completion.choices[: request.sampling.n]
        for index, choice in enumerate(choices):
            start, end = content_span(choice.text)
            text = choice.text[start:end]
            reason = choice.cut_reason
            if not reason and text in (answers.row.output, *others):
                reason = RejectReason.SAME_ANSWER
            reason = reason or answers.instance_fault(text) or reject_reason(self.inner, answers.row, text)
            if reason:
                discards.append(Discard(reason, (0, 0) if index else (start, end)))
            else:
                others.append(text)
        discards += [Discard(RejectReason.MISSING_CHOICE, (0, 0))] * (request.sampling.n - len(choices))
        reading = _Reading(discards=tuple(discards), completion=completion)
        return self._continue(request, answers.with_others(others), reading)

    def _receive_score(self, request: Request, answers: Answers, step: JudgeStep, completion: Completion) -> Received:
        continued = request.is_raw and request.sampling.schema is None
        score = Score(*read_score(_text_without_reasoning(completion), *step.scale, continued=continued))
        counter = _counter(request, step.rubric, "none" if score.value is None else f"{score.value:g}")
        answers = answers.with_score(step.answer, step.rubric, score)
        return self._continue(request, answers, _Reading(counters=(counter,)))

    def _receive_reward(
        self, request: Request, answers: Answers, step: RewardStep, completion: Completion
    ) -> Received:  # fmt: skip
        value = float(completion.text)
        answers = answers.with_score(step.answer, REWARD, Score(value, ""))
        return self._continue(request, answers, _Reading(counters=(_counter(request, REWARD, str(round(value))),)))

    def _receive_tags(self, request: Request, answers: Answers, completion: Completion) -> Received:
        continued = request.is_raw and request.sampling.schema is None
        tags = read_labels(_text_without_reasoning(completion), TAGS, continued=continued)
        counters = tuple(_counter(request, name, word or "none") for name, word in tags.items())
        return self._finish(request, answers, _Reading(counters=counters), tags=tags)

    def _continue(self, request: Request, answers: Answers, reading: _Reading = _NOTHING) -> Received:
        """Send the next request of the chain, or finish it."""
        next_request = self._next_request(request, answers)
        if next_request is None:
            return self._finish(request, answers, reading)
        return Received(follow_ups=(next_request,), discards=reading.discards, counters=reading.counters)

    def _finish(
        self,
        request: Request,
        answers: Answers,
        reading: _Reading = _NOTHING,
        *,
        tags: Mapping[str, str | None] | None = None,
    ) -> Received:
        """Offer the row with the best answer and the judge's verdict on it."""
        criteria, has_choice = self.options.criteria, len(answers.texts) > 1
        best = answers.best(criteria)
        row, verdict = answers.row_with(best), self._verdict(answers)
        counters = reading.counters
        if has_choice:
            counters = (*counters, _counter(request, "best answer", str(best + 1)))
        on_accept, on_reject = answers.follow_ups(self.prompts, request.number)
        final = replace(
            row,
            span=_span(row.output, reading.completion) if best else (0, 0),
            task=answers.task,
            # A small model sometimes repeats the task; the row's own answer was checked for that before.
            shown_outputs=(row.instruction,) if best else (),
            on_accept=on_accept,
            on_reject=on_reject,
            columns={**row.columns, **answers.columns(criteria), **(tags or {})},
            pair=answers.pair(criteria) if self.options.pairs else row.pair,
            verdicts=(*((answers.choice(criteria),) if has_choice else ()), *((verdict,) if verdict else ())),
        )
        return Received((final,), discards=reading.discards, counters=counters)

    def _is_acceptable(self, answers: Answers) -> bool:
        """Decide whether the best answer would be kept; tags are not requested otherwise."""
        criteria, verdict = self.options.criteria, self._verdict(answers)
        return answers.means(criteria)[answers.best(criteria)] is not None and (verdict is None or verdict.kept)

    def _verdict(self, answers: Answers) -> Verdict | None:
        if self.options.scores or len(answers.wrong) == len(answers.candidates):
            return answers.verdict(self.options.criteria)
        return None


def _own_fault(candidate: Candidate, cut_reason: str) -> str:
    """Return the reason code for which a row's own answer is unacceptable, although others may not be; "" otherwise.

    Args:
        cut_reason: Reason code for the ending of the completion.
    """
    fault = next((verdict.reason for verdict in candidate.verdicts if not verdict.kept), "")
    fault = fault or Answers.of_candidate(candidate).instance_fault(candidate.output)
    return cut_reason if fault == RejectReason.TRUNCATED and cut_reason else fault


def _chain_request(
    previous: Request,
    stage: str,
    turns: tuple[PromptMessage, ...],
    sampling: Sampling,
    answers: Answers,
    step: Mapping[str, Json],
) -> Request:
    """Return a request of the chain. The context holds the step, so that a fork with the same step finds the answer."""
    name = f"{previous.method}/{stage}" if previous.method else stage
    return Request(name, turns, sampling, {_KEY: {**answers.to_json(), "asked": step}}, previous.number)


def _judge_step(state: Mapping[str, Any]) -> JudgeStep:
    return from_json(JudgeStep, state["asked"])


def _reward_step(state: Mapping[str, Any]) -> RewardStep:
    return from_json(RewardStep, state["asked"])


def _text_without_reasoning(completion: Completion) -> str:
    """Return a judge's answer without the reasoning before it; "" if the completion failed."""
    if completion.failed:
        return ""
    start, end = answer_span(completion.text)
    return completion.text[start:end]


def _counter(request: Request, row: str, column: str) -> CounterKey:
    """Return a cell of the table ``quality``, which each method of a mixed run has for itself."""
    return CounterKey("quality", row, column).for_method(request.method)


def _span(output: str, completion: Completion | None) -> tuple[int, int]:
    """Return the span of the output in the first choice if it is the complete choice, otherwise (0, 0)."""
    if completion is None:
        return 0, 0
    start, end = content_span(completion.text)
    return (start, end) if completion.text[start:end] == output else (0, 0)

"""Evol-Instruct (Xu et al., 2023, arXiv:2304.12244): seed instructions, evolved epoch by epoch.

Each seed goes through several epochs. Each epoch draws one of six operations: five in depth, which add 10 to 20 words,
and one in breadth, which makes a new instruction of the same domain. An epoch takes up to three requests:

- ``evolve`` rewrites the current instruction: a pending task, with the verdicts that need no model;
- ``compare`` shows both instructions to a judge, which decides whether they are equal;
- ``answer`` requests the response to the evolved instruction: a row.

The next epoch begins with the evolved instruction if the row was kept, and with the previous instruction if a rule
(``evol_rules``) or a filter rejected any of the three. All draws for a seed are made when its first request is
proposed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from selfinstruct.common.codec import Json
from selfinstruct.common.formats import user_text
from selfinstruct.common.rng import Rng
from selfinstruct.parse import answer_span, content_span, rewritten_task, skip_preamble
from selfinstruct.parse.text import strip_emphasis, strip_span
from selfinstruct.reasons import RejectReason
from selfinstruct.records import (
    Candidate,
    Completion,
    CounterKey,
    CounterRow,
    Discard,
    Received,
    Request,
    Task,
)
from selfinstruct.strategies.abilities import BeginsWithTasks, ChecksAnswers, RecoversFailures
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared import evol_rules as rules
from selfinstruct.strategies.shared.contexts import context_json, read_context
from selfinstruct.strategies.shared.stage import Stage

__all__ = ["OPERATIONS", "EvolInstruct", "EvolOptions"]

OPERATIONS = ("add-constraints", "deepen", "concretise", "increase-reasoning", "complicate-input", "breadth")
"""The operations of an epoch, equally likely; each has a template of the same name."""

INPUTS = ("a table", "a piece of code", "a formula", "an XML document", "a JSON object", "a CSV file", "a log")
"""Kinds of input that ``complicate-input`` may add; no other operation uses them."""

# The label that a chat model repeats before its answer, in runs of semantics 1.
_LABEL = re.compile(r"[#*_]{0,6}[ \t]?(?:rewritten|created) task[*_]{0,3}[ \t]?:[*_]{0,3}", re.IGNORECASE)

# Section 4: ChatGPT with temperature 1, top-p 0.9 and at most 2048 tokens.
_WRITE = Stage(max_tokens=2048, temperature=1.0, top_p=0.9)
_COMPARE = Stage(max_tokens=1024, temperature=0.0)
_WORD_TOKENS = 16  # limit on the judge's one-word answer to a raw prompt


@dataclass(frozen=True)
class EvolOptions:
    """Settings of this strategy. Defaults are the published ones, where published.

    Attributes:
        epochs: Number of times that each seed is evolved.
        similarity: ROUGE-L F1 to the un-evolved instruction from which an evolution is rejected without a judge.
        audit: Share of these cases that are shown to the judge nevertheless, for the table of agreement in ``status``;
            the result for the dataset does not change.
        sorry_words: A response with "sorry" and fewer words than this is rejected.
        prompt_phrases: Phrases of the prompts; an evolved instruction that contains one was copied from the prompt.
        evolve, compare, answer: The stages. ``compare`` leaves room for the thoughts of a model that reasons; a raw
            prompt is limited to 16 tokens.
    """

    epochs: int = 4  # section 4: M = 4
    similarity: float = 0.95
    audit: float = 0.0
    sorry_words: int = 80  # section 3, elimination
    prompt_phrases: tuple[str, ...] = (
        *("given prompt", "rewritten prompt", "created prompt"),  # the paper's prompts
        *("given task", "rewritten task", "created task"),  # this package's prompts
    )
    evolve: Stage = _WRITE
    compare: Stage = _COMPARE
    answer: Stage = _WRITE

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError("epochs must be 1 or more")
        if not 0 < self.similarity <= 1:
            raise ValueError("similarity must be above 0 and at most 1")
        if not 0 <= self.audit <= 1:
            raise ValueError("audit must be from 0 to 1")
        if self.sorry_words < 0:
            raise ValueError("sorry_words must be 0 or more")


class Draw(NamedTuple):
    """The random choices of one epoch.

    Attributes:
        input_kind: Kind of input for ``complicate-input``.
        audited: Whether the judge also decides on what the similarity test rejects.
    """

    operation: str
    input_kind: str
    audited: bool


class Instruction(NamedTuple):
    """An instruction with the id of its seed or candidate."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class EpochContext:
    """Context of the stages ``evolve`` and ``answer``: the state of one seed's evolution.

    Attributes:
        root: Id of the seed.
        draws: One for each epoch.
        epoch: From 1.
        current: The instruction with which the epoch began.
        evolved: The evolved instruction; empty before it is written.
    """

    root: str
    draws: tuple[Draw, ...]
    epoch: int
    current: Instruction
    evolved: Instruction = Instruction("", "")  # noqa: RUF009  (immutable)

    @property
    def draw(self) -> Draw:
        """The random choices of the current epoch."""
        return self.draws[self.epoch - 1]

    @property
    def columns(self) -> dict[str, Json]:
        """Columns of the exported row."""
        return {"epoch": self.epoch, "operation": self.draw.operation, "root": self.root}

    @property
    def counter(self) -> CounterRow:
        """Row of the table in which the epoch's result is counted."""
        return CounterRow("evol", f"epoch {self.epoch}, {self.draw.operation}")


@dataclass(frozen=True, slots=True)
class CompareContext(EpochContext):
    """Context of the stage ``compare``.

    Attributes:
        audited: True if the similarity test has rejected the evolution, so that the judge's answer is only counted.
    """

    audited: bool = False


class EvolInstruct(Strategy, BeginsWithTasks, ChecksAnswers, RecoversFailures):
    """Rows from seed instructions that are evolved, compared and answered."""

    name: ClassVar[str] = "evol-instruct"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        **{f"evol-instruct/{operation}": frozenset({"instruction"}) for operation in OPERATIONS},
        "evol-instruct/complicate-input": frozenset({"instruction", "kind"}),
        "evol-instruct/compare": frozenset({"first", "second"}),
        "evol-instruct/answer": frozenset({"instruction"}),
    }
    # An evolved instruction resembles its source and grows with each epoch. The filters of words are meant for lists
    # that a model writes freely: a seed with a forbidden word would lose each of its evolutions.
    defaults: ClassVar[Mapping[str, Any]] = {
        "filters": {"novelty": {"threshold": 0.95}, "word_count": {"max_words": 500}, "keywords": None, "program": None}
    }
    Options: ClassVar[type[EvolOptions]] = EvolOptions
    options: EvolOptions

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Start work on the next seed; return None after the last."""
        item = view.progress.next_item
        if item >= len(view.seeds):
            return None
        draws = tuple(
            Draw(rng.choice(OPERATIONS), rng.choice(INPUTS), rng.random() < self.options.audit)
            for _ in range(self.options.epochs)
        )
        seed = view.seeds[item]
        first_epoch = EpochContext(seed.id, draws, 1, Instruction(seed.id, _seed_text(seed)))
        return replace(self._request_evolution(first_epoch, None), item=item)

    def receive(self, request: Request, completion: Completion, view: View) -> Received:  # noqa: ARG002
        """Read an evolved instruction, a judge's decision, or a response, depending on the request's stage."""
        if request.stage == "evolve":
            return self._receive_evolution(request, completion)
        if request.stage == "compare":
            return self._receive_comparison(request, completion)
        return self._receive_answer(request, completion)

    def recover(self, request: Request, view: View) -> Received:  # noqa: ARG002
        """Continue with the un-evolved instruction, as after any other failure."""
        is_comparison = request.stage == "compare"
        epoch = read_context(CompareContext if is_comparison else EpochContext, request)
        counted = isinstance(epoch, CompareContext) and epoch.audited  # the similarity test ended this epoch
        return Received(
            follow_ups=_present(self._next_epoch(epoch, epoch.current, request.number)),
            counters=() if counted else (epoch.counter.column(RejectReason.FAILED),),
        )

    def _next_epoch(self, epoch: EpochContext, current: Instruction, parent: int) -> Request | None:
        """Return the request that begins the next epoch with ``current``; None after the last epoch."""
        if epoch.epoch == len(epoch.draws):
            return None
        return self._request_evolution(EpochContext(epoch.root, epoch.draws, epoch.epoch + 1, current), parent)

    def _request_evolution(self, epoch: EpochContext, parent: int | None) -> Request:
        """Return the request that begins an epoch."""
        operation, input_kind, _ = epoch.draw
        kind = {"kind": input_kind} if operation == "complicate-input" else {}
        return Request(
            stage="evolve",
            turns=self.options.evolve.turns(
                self.prompts, f"evol-instruct/{operation}", instruction=epoch.current.text, **kind
            ),
            sampling=self.options.evolve.sampling("\nGiven task:"),
            context=context_json(epoch),
            parent=parent,
        )

    def _receive_evolution(self, request: Request, completion: Completion) -> Received:
        epoch = read_context(EpochContext, request)
        current = epoch.current
        unchanged = self._next_epoch(epoch, current, request.number)
        is_current = self.prompts.semantics > 1
        start, end = rewritten_task(completion.text) if is_current else _instruction_span(completion.text)
        if start == end:
            return Received(
                follow_ups=_present(unchanged),
                discards=(Discard(RejectReason.NO_INSTRUCTION, (0, len(completion.text))),),
                counters=(epoch.counter.column(RejectReason.NO_INSTRUCTION),),
            )
        evolved = Instruction(request.candidate_id(0), completion.text[start:end])
        epoch = replace(epoch, evolved=evolved)
        # The prompt's own text, not the template's: a fork may have other templates.
        prompt = request.turns[0].text.replace(current.text, " ")
        verdicts = (
            rules.complete(completion.truncated),
            rules.wording(evolved.text, current.text, self.options.prompt_phrases, prompt),
            rules.similarity(evolved.text, current.text, threshold=self.options.similarity, current_id=current.id),
        )
        # An audited evolution that only the similarity test rejects goes to the judge, whose answer is just counted.
        rejecting = [verdict.filter for verdict in verdicts if not verdict.kept]
        audited = epoch.draw.audited and rejecting == ["evol_similarity"]
        task = Candidate(
            evolved.text,
            span=(start, end),
            kind="pending_task",
            on_accept=self._request_comparison(epoch, request.number),
            on_reject=self._request_comparison(epoch, request.number, audited=True) if audited else unchanged,
            columns=epoch.columns,
            counter=epoch.counter,
            verdicts=verdicts,
            id=evolved.id,
        )
        return Received(candidates=(task,))

    def _request_comparison(self, epoch: EpochContext, parent: int, *, audited: bool = False) -> Request:
        """Ask a judge whether the two instructions are equal."""
        stage = self.options.compare.with_short_answer(self.prompts, _WORD_TOKENS)
        context = CompareContext(epoch.root, epoch.draws, epoch.epoch, epoch.current, epoch.evolved, audited)
        return Request(
            stage="compare",
            turns=stage.turns(
                self.prompts, "evol-instruct/compare", first=epoch.current.text, second=epoch.evolved.text
            ),
            sampling=stage.sampling("\nFirst task:"),
            context=context_json(context),
            parent=parent,
        )

    def _receive_comparison(self, request: Request, completion: Completion) -> Received:
        epoch = read_context(CompareContext, request)
        unchanged = self._next_epoch(epoch, epoch.current, request.number)
        start, end = (0, 0) if completion.failed else answer_span(completion.text)
        verdict = rules.gain(completion.text[start:end])
        unjudged = verdict.reason == RejectReason.UNJUDGED
        decision = "unjudged" if unjudged else f"judge: {'gain' if verdict.kept else 'no gain'}"
        cheap_test = f"cheap test: {'no gain' if epoch.audited else 'gain'}"
        counters = (CounterKey("agreement", cheap_test, decision),)
        if epoch.audited:
            return Received(follow_ups=_present(unchanged), counters=counters)
        task = Candidate(
            epoch.evolved.text,
            span=(start, end),
            task=epoch.evolved.id,
            kind="pending_task",
            on_accept=self._request_answer(epoch, request.number),
            on_reject=unchanged,
            columns=epoch.columns,
            counter=epoch.counter,
            verdicts=(verdict,),
        )
        return Received(candidates=(task,), counters=counters)

    def _request_answer(self, epoch: EpochContext, parent: int) -> Request:
        stage = self.options.answer
        context = EpochContext(epoch.root, epoch.draws, epoch.epoch, epoch.current, epoch.evolved)
        return Request(
            stage="answer",
            turns=stage.turns(self.prompts, "evol-instruct/answer", instruction=epoch.evolved.text),
            sampling=stage.free_answer_sampling(self.prompts, "\n### Task"),
            context=context_json(context),
            parent=parent,
        )

    def _receive_answer(self, request: Request, completion: Completion) -> Received:
        epoch = read_context(EpochContext, request)
        start, end = content_span(completion.text)
        output = completion.text[start:end]
        row = Candidate(
            epoch.evolved.text,
            output=output,
            span=(start, end),
            task=epoch.evolved.id,
            # A small model sometimes repeats the task instead of answering.
            shown_outputs=(epoch.evolved.text,),
            on_accept=self._next_epoch(epoch, epoch.evolved, request.number),
            on_reject=self._next_epoch(epoch, epoch.current, request.number),
            columns=epoch.columns,
            counter=epoch.counter,
            verdicts=(
                rules.complete(completion.truncated),
                rules.apology(output, min_words=self.options.sorry_words),
                rules.content(output),
            ),
        )
        return Received(candidates=(row,))

    def reject_reason(self, row: Candidate, text: str) -> str:  # noqa: ARG002  (the contract)
        """Return the reason of rule 2 or rule 3."""
        return rules.apology(text, min_words=self.options.sorry_words).reason or rules.content(text).reason


def _seed_text(seed: Task) -> str:
    """Return a seed as a user would write it: the instruction with its first input."""
    return user_text(seed.instruction, seed.instances[0].input if seed.instances else "")


def _present(request: Request | None) -> tuple[Request, ...]:
    return () if request is None else (request,)


def _instruction_span(text: str) -> tuple[int, int]:
    """Return the span of the instruction as semantics 1 reads it, without an announcement before it alone."""
    start, end = skip_preamble(text, 0, len(text))
    if label := _LABEL.match(text, start, end):
        start = label.end()
    return strip_emphasis(text, *strip_span(text, start, end))

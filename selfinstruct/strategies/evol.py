"""Evol-Instruct (Xu et al., 2023, arXiv:2304.12244): given instructions, made harder or other, epoch by epoch.

Each seed goes through some epochs. In each, one of six operations is drawn: five in depth, which add 10 to 20 words,
and one in breadth, which makes a new instruction of the same domain. An epoch takes up to three requests:

- ``evolve`` rewrites the current instruction: a draft, with the verdicts that need no model;
- ``compare`` shows both to a judge, which says whether they are equal;
- ``answer`` has the evolved instruction answered: a row.

The next epoch begins with the evolved instruction if the row was kept, and with the one before it if a rule
(``evol_rules.py``) or a filter rejected any of the three. All is drawn when a seed is taken up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from selfinstruct.common.codec import Json
from selfinstruct.common.formats import user_text
from selfinstruct.common.rng import Rng
from selfinstruct.parse import behind_announcement, spoken, stripped
from selfinstruct.parse.text import strip, unwrap
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Completion, Discard, Received, Request, Task, Verdict, candidate_id
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared import evol_rules as rules
from selfinstruct.strategies.shared.stage import Stage

__all__ = ["OPERATIONS", "EvolInstruct", "EvolOptions"]

OPERATIONS = ("add-constraints", "deepen", "concretise", "increase-reasoning", "complicate-input", "breadth")
"""What an epoch may do, each drawn as often; a template has the same name."""

INPUTS = ("a table", "a piece of code", "a formula", "an XML document", "a JSON object", "a CSV file", "a log")
"""What ``complicate-input`` may add; used by it alone."""

# What a chat model says again before its answer.
_LABEL = re.compile(r"[#*_]{0,6}[ \t]?(?:rewritten|created) task[*_]{0,3}[ \t]?:[*_]{0,3}", re.IGNORECASE)

# Section 4: ChatGPT with temperature 1, top-p 0.9 and at most 2048 tokens.
_WRITE = Stage(max_tokens=2048, temperature=1.0, top_p=0.9)
_COMPARE = Stage(max_tokens=1024, temperature=0.0)
_WORD = 16  # most tokens of the judge's word in a raw prompt


@dataclass(frozen=True)
class EvolOptions:
    """What a run may set for this strategy. Defaults are the published ones, where there are any.

    Attributes:
        epochs: How often each seed is evolved.
        similarity: ROUGE-L F1 to the un-evolved instruction from which on nothing was gained, and no judge is asked.
        audit: Share of those that the judge is asked about all the same, for the table of agreement in ``status``; it
            changes nothing about them.
        sorry_words: A response that says sorry in fewer words is none.
        prompt_phrases: By which the prompts name their parts: in an evolved instruction they are copied.
        evolve, compare, answer: The stages. ``compare`` has room for the thoughts of a model that reasons; a raw
            prompt is given 16 tokens of it at most.
    """

    epochs: int = 4  # section 4: M = 4
    similarity: float = 0.95
    audit: float = 0.0
    sorry_words: int = 80  # section 3, elimination
    prompt_phrases: tuple[str, ...] = (
        *("given prompt", "rewritten prompt", "created prompt"),  # those of the paper's prompts
        *("given task", "rewritten task", "created task"),  # those of this package's
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


@dataclass(frozen=True, slots=True)
class _Chain:
    """Where a seed stands: what the requests of its epochs remember.

    Attributes:
        root: Id of the seed.
        draws: For each epoch: operation, kind of input, whether the cheap test is audited.
        epoch: From 1.
        current: Id and text of the instruction that the epoch began with.
        evolved: Id and text of what it has become; empty before it is written.
    """

    root: str
    draws: tuple[tuple[str, str, bool], ...]
    epoch: int
    current: tuple[str, str]
    evolved: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, request: Request) -> _Chain:
        context: Any = request.context
        draws = tuple((operation, kind, audit) for operation, kind, audit in context["draws"])
        current, evolved = context["current"], context["evolved"]
        return cls(context["root"], draws, context["epoch"], (current[0], current[1]), (evolved[0], evolved[1]))

    @property
    def context(self) -> dict[str, Json]:
        return {
            "root": self.root,
            "draws": [list(draw) for draw in self.draws],
            "epoch": self.epoch,
            "current": list(self.current),
            "evolved": list(self.evolved),
        }

    @property
    def draw(self) -> tuple[str, str, bool]:
        return self.draws[self.epoch - 1]

    @property
    def columns(self) -> dict[str, Json]:
        return {"epoch": self.epoch, "operation": self.draw[0], "root": self.root}

    @property
    def mark(self) -> str:
        return f"evol|epoch {self.epoch}, {self.draw[0]}"

    def next(self, current: tuple[str, str]) -> _Chain | None:
        """The next epoch, from this instruction; None after the last."""
        if self.epoch == len(self.draws):
            return None
        return replace(self, epoch=self.epoch + 1, current=current, evolved=("", ""))


class EvolInstruct(Strategy):
    """Rows from given instructions that are evolved, compared and answered.

    Args:
        options: Numbers of the method.
        prompts: The run's templates.
    """

    name: ClassVar[str] = "evol-instruct"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        **{f"evol-instruct/{one}": frozenset({"instruction"}) for one in OPERATIONS},
        "evol-instruct/complicate-input": frozenset({"instruction", "kind"}),
        "evol-instruct/compare": frozenset({"first", "second"}),
        "evol-instruct/answer": frozenset({"instruction"}),
    }
    # An evolved instruction resembles the one that it was made of, and grows with each epoch. What forbids words is
    # meant for lists that a model writes freely: a seed that has one would lose its every evolution.
    defaults: ClassVar[Mapping[str, Any]] = {
        "filters": {"novelty": {"threshold": 0.95}, "word_count": {"max_words": 500}, "keywords": None, "program": None}
    }
    begins_with_tasks: ClassVar[bool] = True
    Options: ClassVar[type[EvolOptions]] = EvolOptions

    def __init__(self, options: EvolOptions, prompts: Prompts) -> None:
        self.options = options
        self.prompts = prompts

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Take up the next seed; None after the last."""
        item = view.progress.next_item
        if item >= len(view.seeds):
            return None
        draws = tuple(
            (rng.choice(OPERATIONS), rng.choice(INPUTS), rng.random() < self.options.audit)
            for _ in range(self.options.epochs)
        )
        seed = view.seeds[item]
        request = self._evolve(_Chain(seed.id, draws, 1, (seed.id, _text(seed))), None)
        assert request is not None
        return replace(request, context={**request.context, "item": item})

    def receive(self, request: Request, completion: Completion, view: View) -> Received:  # noqa: ARG002
        """Read an evolved instruction, a judge's word, or a response, as the request's stage says."""
        if request.stage == "evolve":
            return self._evolved(request, completion)
        if request.stage == "compare":
            return self._compared(request, completion)
        return self._answered(request, completion)

    def failed(self, request: Request, view: View) -> Received:  # noqa: ARG002
        """Go on with the instruction un-evolved, as after any other failure."""
        chain = _Chain.of(request)
        stay = self._evolve(chain.next(chain.current), request.number)
        counted = request.context.get("audited")  # the cheap test ended this epoch, and was counted for it
        return Received(follow_ups=_some(stay), counters=() if counted else (f"{chain.mark}|failed",))

    def _evolve(self, chain: _Chain | None, parent: int | None) -> Request | None:
        """The request that begins an epoch; None where there is none."""
        if chain is None:
            return None
        operation, kind, _ = chain.draw
        variables = {"instruction": chain.current[1], **({"kind": kind} if operation == "complicate-input" else {})}
        return Request(
            stage="evolve",
            turns=self.options.evolve.turns(self.prompts, f"evol-instruct/{operation}", **variables),
            sampling=self.options.evolve.sampling("\nGiven task:"),
            context=chain.context,
            parent=parent,
        )

    def _evolved(self, request: Request, completion: Completion) -> Received:
        chain = _Chain.of(request)
        stay = self._evolve(chain.next(chain.current), request.number)
        start, end = _written(completion.text)
        if start == end:
            found = Discard("no_instruction", (0, len(completion.text)))
            return Received(follow_ups=_some(stay), discards=(found,), counters=(f"{chain.mark}|no_instruction",))
        text = completion.text[start:end]
        chain = replace(chain, evolved=(candidate_id(request.number, 0), text))
        asked = request.turns[0].text.replace(chain.current[1], " ")  # as it was, also in a fork with other templates
        verdicts = (
            rules.whole(completion.truncated),
            rules.wording(text, chain.current[1], self.options.prompt_phrases, asked),
            rules.similarity(text, chain.current[1], least=self.options.similarity, name=chain.current[0]),
        )
        # What the cheap test alone rejects may be put to the judge all the same: its word is counted, and no more.
        rejecting = [one.filter for one in verdicts if not one.kept]
        audited = chain.draw[2] and rejecting == ["evol_similarity"]
        draft = Candidate(
            text,
            span=(start, end),
            kind="pending_task",
            on_accept=self._compare(chain, request.number),
            on_reject=self._compare(chain, request.number, audited=True) if audited else stay,
            columns=chain.columns,
            mark=chain.mark,
            verdicts=verdicts,
        )
        return Received(candidates=(draft,))

    def _compare(self, chain: _Chain, parent: int, *, audited: bool = False) -> Request:
        """Ask a judge, who sees both instructions."""
        stage, first, second = self.options.compare.of_a_word(self.prompts, _WORD), chain.current[1], chain.evolved[1]
        return Request(
            stage="compare",
            turns=stage.turns(self.prompts, "evol-instruct/compare", first=first, second=second),
            sampling=stage.sampling("\nFirst task:"),
            context={**chain.context, "audited": audited},
            parent=parent,
        )

    def _compared(self, request: Request, completion: Completion) -> Received:
        chain, audited = _Chain.of(request), bool(request.context["audited"])
        stay = self._evolve(chain.next(chain.current), request.number)
        start, end = spoken(completion.text)
        verdict = rules.gain(completion.text[start:end])
        says = "unjudged" if verdict.reason == "unjudged" else f"judge: {'gain' if verdict.kept else 'no gain'}"
        marks = (f"agreement|cheap test: {'no gain' if audited else 'gain'}|{says}",)
        if audited:
            return Received(follow_ups=_some(stay), counters=marks)
        draft = self._about(
            chain, verdict, kind="pending_task", on_accept=self._answer(chain, request.number), on_reject=stay
        )
        return Received(candidates=(replace(draft, span=(start, end)),), counters=marks)

    def _answer(self, chain: _Chain, parent: int) -> Request:
        stage = self.options.answer
        return Request(
            stage="answer",
            turns=stage.turns(self.prompts, "evol-instruct/answer", instruction=chain.evolved[1]),
            sampling=stage.answering(self.prompts, "\n### Task"),
            context=chain.context,
            parent=parent,
        )

    def _answered(self, request: Request, completion: Completion) -> Received:
        chain = _Chain.of(request)
        start, end = stripped(completion.text)
        output = completion.text[start:end]
        row = self._about(
            chain,
            rules.whole(completion.truncated),
            rules.apology(output, words=self.options.sorry_words),
            rules.content(output),
            on_accept=self._evolve(chain.next(chain.evolved), request.number),
            on_reject=self._evolve(chain.next(chain.current), request.number),
        )
        # A small model at times says the task again in place of an answer.
        return Received(candidates=(replace(row, output=output, span=(start, end), shown=(row.instruction,)),))

    def fault(self, row: Candidate, text: str) -> str:  # noqa: ARG002  (the contract)
        return rules.apology(text, words=self.options.sorry_words).reason or rules.content(text).reason

    @staticmethod
    def _about(chain: _Chain, *verdicts: Verdict, **fields: Any) -> Candidate:
        """A candidate whose instruction was judged as a draft."""
        task, instruction = chain.evolved
        about: dict[str, Any] = {"task": task, "columns": chain.columns, "mark": chain.mark, "verdicts": verdicts}
        return Candidate(instruction, **about, **fields)


def _text(seed: Task) -> str:
    """A seed as somebody would put it: its first input belongs to it."""
    return user_text(seed.instruction, seed.instances[0].input if seed.instances else "")


def _some(request: Request | None) -> tuple[Request, ...]:
    return () if request is None else (request,)


def _written(text: str) -> tuple[int, int]:
    """Where the instruction stands: without what a chat model says before it, and what encloses it."""
    start, end = behind_announcement(text, 0, len(text))
    if label := _LABEL.match(text, start, end):
        start = label.end()
    return unwrap(text, *strip(text, start, end))

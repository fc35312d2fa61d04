"""Personas (Persona Hub, Ge et al., 2024, arXiv:2406.20094): tasks from the lives of described people.

A prompt of the stage ``task`` shows a person and asks for one task of a drawn kind: a request of any sort, a
mathematical problem, a piece of code, or a request whose answer must have a certain form. A kept task is sent to the
model without the person (stage ``answer``), and the complete answer is the output.

The last kind, ``precise``, follows Tülu 3 (Lambert et al., 2024, arXiv:2411.15124): one to three constraints that code
can check. The constraints are drawn and worded by this module (``constraints``), not by the model, and are stored with
the row as its verifier, so that an answer that breaks one is never a row.

With ``generate`` each proposed request continues a list of personas instead (stage ``people``; "persona-to-persona").
Each new persona is a candidate; if kept, it is asked for one task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from selfinstruct.common.codec import Json
from selfinstruct.common.config import NAMES_FILE
from selfinstruct.common.resources import builtin_personas
from selfinstruct.common.rng import Rng
from selfinstruct.common.unused import Unused
from selfinstruct.filters import Copied
from selfinstruct.filters.text import count_words
from selfinstruct.parse import collapse, content_span, read_list, read_numbered_list, read_task, without_remarks
from selfinstruct.prompts import Api
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Candidate, Completion, CounterKey, CounterRow, Discard, Received, Request, Verdict
from selfinstruct.strategies.abilities import HasModes, KnowsUnansweredRows, ReadsDataFiles
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.constraints import Constraint, all_of, draw
from selfinstruct.strategies.shared.contexts import context_json, read_context
from selfinstruct.strategies.shared.persona_lists import read_personas
from selfinstruct.strategies.shared.stage import Stage
from selfinstruct.verifiers import verify

__all__ = ["Personas", "PersonasOptions"]

KINDS = ("instruction", "math", "code", "precise")
_ANSWERS = {"math": "personas/answer-math", "code": "personas/answer-code"}
_RESULT = re.compile(
    r"[ \t>*_#]{0,6}(?:the )?(?:final )?(?:answer|result)[*_]{0,3}(?:[ \t]?:| is:?)[*_]{0,3}[ \t]*"
    r"(?:the final answer is )?(\S.*)",
    re.IGNORECASE,
)
"""The last line that the prompt asks for, and the variants that models write instead."""
_COPIED = Copied(tokenizer="words")
_SENTENCE_ENDS = tuple(".!?:;\u2026\u3002\uff01\uff1f\"'\u201d)")  # constraints may follow a task that ends with one

# persona_driven_generate_ifdata.py of open-instruct: temperature and top_p; it leaves the length to the server.
_TASK = Stage(max_tokens=512, temperature=0.7, top_p=0.95)
_PEOPLE = Stage(max_tokens=1024, temperature=0.7, top_p=0.95)
_ANSWER = Stage(max_tokens=2048, temperature=0.7, top_p=0.95)


@dataclass(frozen=True)
class Kinds:
    """Weights of the kinds of tasks; 0 excludes a kind. The papers make each kind by itself and publish no mixture.

    Attributes:
        instruction: A request of any sort.
        math: A problem with one result.
        code: A function in Python.
        precise: A request with constraints that code can check.
    """

    instruction: float = 1.0
    math: float = 1.0
    code: float = 1.0
    precise: float = 1.0

    def __post_init__(self) -> None:
        if min(self.weights) < 0 or not any(self.weights):
            raise ValueError("the weights of the kinds must be 0 or more, and at least one of them above 0")

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights in the order of ``KINDS``."""
        return self.instruction, self.math, self.code, self.precise

    def draw(self, rng: Rng) -> str:
        """Draw one of the kinds."""
        point = rng.random() * sum(self.weights)
        drawable = [(kind, weight) for kind, weight in zip(KINDS, self.weights, strict=True) if weight]
        for kind, weight in drawable:
            point -= weight
            if point < 0:
                return kind
        return drawable[-1][0]  # rounding may leave a remainder


@dataclass(frozen=True)
class PersonasOptions:
    """Settings of this strategy.

    Attributes:
        file: File of personas: JSONL with ``persona`` (``.jsonl``), or text with one persona on each line; null takes
            the built-in ones.
        generate: Let the model write personas, starting from the personas of the file.
        kinds: Weights of the kinds of tasks.
        constraints: Maximum number of constraints of a task of the kind ``precise``.
        demonstrations: Other people's tasks shown before the person's.
        people: Personas shown in a list that the model continues.
        list_length: Number of the last persona of that list, the shown ones included.
        task, continued, answer: The stages; ``continued`` is the stage of ``generate``.
    """

    file: str | None = field(default=None, metadata=NAMES_FILE)
    generate: bool = False
    kinds: Kinds = field(default_factory=Kinds)
    constraints: int = 3  # persona_driven_generate_ifdata.py: one to three
    demonstrations: int = 2
    people: int = 5
    list_length: int = 15
    task: Stage = _TASK
    continued: Stage = _PEOPLE
    answer: Stage = _ANSWER

    def __post_init__(self) -> None:
        if self.constraints < 1:
            raise ValueError("constraints must be 1 or more")
        if self.demonstrations < 0:
            raise ValueError("demonstrations must be 0 or more")
        if not 1 <= self.people < self.list_length:
            raise ValueError("people must be 1 or more, and list_length above it")


@dataclass(frozen=True, slots=True)
class PeopleContext:
    """Context of the stage ``people``.

    Attributes:
        shown: The personas in the prompt.
        first: Number of the first new persona of the list.
        draw: Seed for the random choices about the new personas.
    """

    shown: tuple[str, ...]
    first: int
    draw: int


@dataclass(frozen=True, slots=True)
class TaskContext:
    """Context of the stage ``task``.

    Attributes:
        shown: The examples in the prompt, each a person and a task.
    """

    persona: str
    kind: str
    shown: tuple[str, ...]
    constraints: tuple[Constraint, ...]

    @property
    def counter(self) -> CounterRow:
        """Row of the table in which the results of this kind are counted."""
        return CounterRow("kinds", self.kind)


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """Context of the stage ``answer``.

    Attributes:
        task: Id of the candidate with the task.
        instruction: The task with its constraints.
    """

    persona: str
    kind: str
    task: str
    instruction: str
    constraints: tuple[Constraint, ...]

    @property
    def counter(self) -> CounterRow:
        """Row of the table in which the results of this kind are counted."""
        return CounterRow("kinds", self.kind)


class Personas(Strategy, HasModes[PersonasOptions], KnowsUnansweredRows, ReadsDataFiles[PersonasOptions]):
    """A pending task from a persona, then a row from the kept task."""

    DATA: ClassVar[str] = "personas/people.jsonl"
    name: ClassVar[str] = "personas"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        "personas/people": frozenset({"people", "next"}),
        **{f"personas/{kind}": frozenset({"examples", "persona"}) for kind in KINDS},
        **{f"personas/{kind}-examples": frozenset[str]() for kind in KINDS},
        "personas/answer": frozenset({"instruction"}),
        **{name: frozenset({"instruction"}) for name in _ANSWERS.values()},
    }
    defaults: ClassVar[Mapping[str, Json]] = {
        "filters": {"keywords": None, "program": None}  # some people draw maps, and some tasks are programs
    }
    Options: ClassVar[type[PersonasOptions]] = PersonasOptions
    options: PersonasOptions

    @classmethod
    def data_files(cls, options: PersonasOptions) -> Mapping[str, Path]:
        """Return the file of personas."""
        return {cls.DATA: Path(options.file) if options.file is not None else builtin_personas()}

    @classmethod
    def read_data(cls, path: Path) -> str:
        """Return the personas of a file, one on each line."""
        return read_personas(path)

    @classmethod
    def unused_options(cls, options: PersonasOptions, api: Api) -> Iterable[Unused]:  # noqa: ARG003  # the signature is of HasModes
        """Return the stage ``continued`` where no personas are written, and what belongs to excluded kinds."""
        if not options.generate:
            yield Unused("generate", "true", ("continued", "people", "list_length"), ("personas/people",))
        if not options.kinds.precise:
            yield Unused("kinds.precise", "a number above 0", ("constraints",))
        for kind, weight in zip(KINDS, options.kinds.weights, strict=True):
            if not weight:
                answer = (_ANSWERS[kind],) if kind in _ANSWERS else ()
                templates = (f"personas/{kind}", f"personas/{kind}-examples", *answer)
                yield Unused(f"kinds.{kind}", "a number above 0", (), templates)

    @cached_property
    def personas(self) -> list[str]:
        """The personas of the file, in its order."""
        return self.prompts.texts[self.DATA].split("\n")

    def propose(self, view: View, rng: Rng) -> Request | None:  # noqa: ARG002  (independent of the pool)
        """Request a task of a drawn persona, or more personas that resemble drawn ones."""
        if not self.options.generate:
            return self._request_task(rng.choice(self.personas), rng)
        options, shown = self.options, rng.sample(self.personas, self.options.people)
        first = len(shown) + 1
        return Request(
            stage="people",
            turns=options.continued.turns(
                self.prompts,
                "personas/people",
                people="\n".join(f"{number}. {persona}" for number, persona in enumerate(shown, 1)),
                next=str(first),
            ),
            sampling=options.continued.sampling(f"\n{options.list_length + 1}."),
            context=context_json(PeopleContext(tuple(shown), first, rng.below(2**32))),
        )

    def receive(self, request: Request, completion: Completion, view: View) -> Received:  # noqa: ARG002
        """Read new personas, a task, or an answer, depending on the request's stage."""
        if request.stage == "people":
            return self._receive_people(request, completion)
        if request.stage == "task":
            return self._receive_task(request, completion)
        return _receive_answer(request, completion)

    def _request_task(self, persona: str, rng: Rng, parent: int | None = None) -> Request:
        """Request one task of a drawn kind, with the examples and constraints of the kind."""
        options = self.options
        kind = options.kinds.draw(rng)
        examples = rng.sample(self._examples(kind), options.demonstrations)
        constraints = draw(rng, options.constraints) if kind == "precise" else ()
        turns = options.task.turns(
            self.prompts,
            f"personas/{kind}",
            examples="".join(f"{example}\n\n" for example in examples),
            persona=persona,
        )
        paragraph = ("\n\n",) if turns[0].role == "prompt" else ()
        return Request(
            stage="task",
            turns=turns,
            sampling=options.task.sampling("\nPerson:", *paragraph),
            context=context_json(TaskContext(persona, kind, tuple(examples), constraints)),
            parent=parent,
        )

    def _examples(self, kind: str) -> list[str]:
        """Return the example people with a task of this kind: the paragraphs of a template."""
        return self.prompts.turn("prompt", f"personas/{kind}-examples", {}).text.strip("\n").split("\n\n")

    def unanswered_row(self, request: Request) -> Candidate | None:
        """Return the row of the stage ``answer``."""
        return _answered_row(read_context(AnswerContext, request), "", (0, 0)) if request.stage == "answer" else None

    def _receive_people(self, request: Request, completion: Completion) -> Received:
        """Read new personas; each kept one is asked for a task."""
        context = read_context(PeopleContext, request)
        read = read_list if self.prompts.semantics > 1 else read_numbered_list
        listing = read(
            completion.text,
            first=context.first,
            last=self.options.list_length,
            continued=request.is_raw,
            truncated=completion.truncated,
        )
        candidates = []
        for index, item in enumerate(listing.items):
            persona = collapse(item.text)
            rng = Rng("persona", str(context.draw), index)
            candidates.append(
                Candidate(
                    persona,
                    span=item.span,
                    kind="pending_task",
                    on_accept=self._request_task(persona, rng, request.number),
                    verdicts=(self._novelty_verdict(persona, context.shown),),
                    is_task=False,
                )
            )
        results = ("new" if candidate.verdicts[0].kept else "copied" for candidate in candidates)
        counters = tuple(CounterKey("personas", result, "personas") for result in results)
        return Received(tuple(candidates), discards=listing.discards, counters=counters)

    @cached_property
    def _folded_personas(self) -> frozenset[str]:
        return frozenset(persona.casefold() for persona in self.personas)

    def _novelty_verdict(self, persona: str, shown: tuple[str, ...]) -> Verdict:
        """Reject a persona of the file and one that resembles a persona in the prompt."""
        if persona.casefold() in self._folded_personas:
            return Verdict(_COPIED.name, False, RejectReason.COPIED_DEMONSTRATION)
        return _COPIED.decide(persona, shown=shown)

    def _receive_task(self, request: Request, completion: Completion) -> Received:
        """Read the task; the filters decide on it before it is sent to the model with its constraints."""
        context = read_context(TaskContext, request)
        listing = read_task(completion.text, continued=request.is_raw, truncated=completion.truncated)
        if not listing.items:
            return Received(discards=listing.discards, counters=(context.counter.column("no task"),))
        span, task_id = listing.items[0].span, request.candidate_id(0)
        if self.prompts.semantics > 1:
            span = without_remarks(completion.text, *span)
        text = completion.text[slice(*span)]
        task = text if context.kind in _ANSWERS else collapse(text)
        example_tasks = [example.partition("\nTask: ")[2] for example in context.shown]
        candidate = Candidate(
            task,
            span=span,
            kind="pending_task",
            on_accept=self._request_answer(context, task, task_id, request.number),
            verdicts=(_copy_verdict(task, context.persona, example_tasks),),
            id=task_id,
        )
        return Received((candidate,), discards=listing.discards, counters=(context.counter.column("task"),))

    def _request_answer(self, source: TaskContext, task: str, task_id: str, parent: int) -> Request:
        sentence = task if not source.constraints or task.endswith(_SENTENCE_ENDS) else f"{task}."
        instruction = " ".join((sentence, *(constraint.text for constraint in source.constraints)))
        stage = self.options.answer
        context = AnswerContext(source.persona, source.kind, task_id, instruction, source.constraints)
        return Request(
            stage="answer",
            turns=stage.turns(self.prompts, _ANSWERS.get(source.kind, "personas/answer"), instruction=instruction),
            sampling=stage.sampling(),
            context=context_json(context),
            parent=parent,
        )


def _copy_verdict(task: str, persona: str, examples: list[str]) -> Verdict:
    """Reject a task that repeats an example of the prompt, or that only repeats the persona."""
    rest = collapse(task).casefold().replace(persona.casefold().rstrip("."), " ")
    if count_words(rest) < min(_COPIED.min_words, count_words(task)):
        return Verdict(_COPIED.name, False, RejectReason.COPIED_INPUT)
    return _COPIED.decide(task, persona, examples)


def _receive_answer(request: Request, completion: Completion) -> Received:
    """Take the complete answer as the output, and count which constraints it meets."""
    context = read_context(AnswerContext, request)
    start, end = content_span(completion.text)
    if completion.truncated or start == end:
        reason = RejectReason.TRUNCATED if completion.truncated else RejectReason.NO_OUTPUT
        counter = context.counter.column("cut short" if completion.truncated else "no answer")
        return Received(discards=(Discard(reason, (start, end)),), counters=(counter,))
    output = completion.text[start:end]
    result = _stated_result(output) if context.kind in _ANSWERS else ""
    constraints = context.constraints
    met = [verify(constraint.verifier, output).kept for constraint in constraints]
    counters = [context.counter.column("answer")]
    if result:
        counters.append(context.counter.column("result"))
    if constraints:
        counters.append(context.counter.column("all kept" if all(met) else "one broken"))
    counters += [
        CounterKey("constraints", constraint.name, "kept" if kept else "broken")
        for constraint, kept in zip(constraints, met, strict=True)
    ]
    return Received((_answered_row(context, output, (start, end)),), counters=tuple(counters))


def _answered_row(context: AnswerContext, output: str, span: tuple[int, int]) -> Candidate:
    result = _stated_result(output) if context.kind in _ANSWERS else ""
    columns: dict[str, Json] = {"persona": context.persona, "kind": context.kind}
    return Candidate(
        instruction=context.instruction,
        output=output,
        span=span,
        task=context.task,
        shown_outputs=(context.instruction,),
        columns={**columns, "result": result} if result else columns,
        verifier=all_of(context.constraints) if context.constraints else None,
    )


def _stated_result(output: str) -> str:
    """Return the result that the last line of an answer states; "" without one."""
    result = _RESULT.fullmatch(output.rsplit("\n", 1)[-1].rstrip())
    return "" if result is None else result[1].strip(" \t*_`").rstrip(".")

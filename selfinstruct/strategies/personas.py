"""Personas (Persona Hub, Ge et al., 2024, arXiv:2406.20094): a task from the life of somebody who is described.

A prompt of the stage ``task`` shows a person and asks for one task, of a kind that is drawn: a request of any sort, a
mathematical problem, a piece of code, or a request whose answer must have a given form. The task is a draft; kept, it
is put to the model without the person (stage ``answer``), and the whole answer is the output.

The last kind, ``precise``, is that of Tülu 3 (Lambert et al., 2024, arXiv:2411.15124): one to three constraints that
code can check. Here they are drawn and worded by us (``constraints.py``), not by the model, and go with the row as its
verifier, so that an answer that breaks one is never a row.

With ``generate`` each root continues a list of personas instead (stage ``people``; "persona-to-persona"): each new one
is a draft, and kept, is asked for a task of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from selfinstruct.common.codec import Json
from selfinstruct.common.config import NAMES_FILE
from selfinstruct.common.resources import builtin_personas
from selfinstruct.common.rng import Rng
from selfinstruct.filters import Copied
from selfinstruct.filters.text import count_words
from selfinstruct.parse import collapse, numbered, one_task, stripped
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Completion, Discard, Received, Request, Verdict, candidate_id
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.constraints import Constraint, all_of, draw
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
"""The last line that is asked for, or one of those that models write in its stead."""
_COPIED = Copied()
_ENDS = tuple(".!?:;\u2026\u3002\uff01\uff1f\"'\u201d)")  # of a task that its constraints may follow

# persona_driven_generate_ifdata.py of open-instruct: temperature and top_p; it leaves the length to the server.
_TASK = Stage(max_tokens=512, temperature=0.7, top_p=0.95)
_PEOPLE = Stage(max_tokens=1024, temperature=0.7, top_p=0.95)
_ANSWER = Stage(max_tokens=2048, temperature=0.7, top_p=0.95)


@dataclass(frozen=True)
class Kinds:
    """How often each kind of task is drawn, as weights: 0 for never. The papers make each by itself, none mixes them.

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
            raise ValueError("the weights of the kinds must be 0 or more, and one of them above")

    @property
    def weights(self) -> tuple[float, ...]:
        return self.instruction, self.math, self.code, self.precise

    def draw(self, rng: Rng) -> str:
        """One of the kinds."""
        point = rng.random() * sum(self.weights)
        drawable = [(kind, weight) for kind, weight in zip(KINDS, self.weights, strict=True) if weight]
        for kind, weight in drawable:
            point -= weight
            if point < 0:
                return kind
        return drawable[-1][0]  # what rounding may leave


@dataclass(frozen=True)
class PersonasOptions:
    """What a run may set for this strategy.

    Attributes:
        file: Personas: JSONL with ``persona`` (``.jsonl``), or one on each line of a text file; none given takes the
            built-in ones.
        generate: Let the model write personas, beginning from those of the file.
        kinds: How often each kind of task is drawn.
        constraints: Most constraints of a task of the kind ``precise``.
        demonstrations: Tasks of other people shown before the person's.
        people: Personas shown in a list that is to be continued.
        list_length: Number of the last persona of that list, those shown included.
        task, continued, answer: The stages; ``continued`` is that of ``generate``.
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


class Personas(Strategy):
    """A draft from a persona, then a row from the kept draft.

    Args:
        options: Numbers of the method.
        prompts: The run's templates, and the personas as ``DATA``.
    """

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
        "filters": {"keywords": None, "program": None}  # of people who draw maps, and of tasks that are programs
    }
    Options: ClassVar[type[PersonasOptions]] = PersonasOptions

    def __init__(self, options: PersonasOptions, prompts: Prompts) -> None:
        self.options = options
        self.prompts = prompts

    @classmethod
    def data(cls, options: PersonasOptions) -> Mapping[str, Path]:
        """The file of personas."""
        return {cls.DATA: Path(options.file) if options.file is not None else builtin_personas()}

    @classmethod
    def read_data(cls, path: Path) -> str:
        return read_personas(path)

    @cached_property
    def personas(self) -> list[str]:
        """Those of the file, in its order."""
        return self.prompts.texts[self.DATA].split("\n")

    def propose(self, view: View, rng: Rng) -> Request | None:  # noqa: ARG002  (needs no view)
        """Ask for a task of a persona that is drawn, or for more personas like some that are."""
        if not self.options.generate:
            return self._task(rng.choice(self.personas), rng)
        options, shown = self.options, rng.sample(self.personas, self.options.people)
        first = len(shown) + 1
        return Request(
            stage="people",
            turns=options.continued.turns(
                self.prompts,
                "personas/people",
                people="\n".join(f"{place}. {persona}" for place, persona in enumerate(shown, 1)),
                next=str(first),
            ),
            sampling=options.continued.sampling(f"\n{options.list_length + 1}."),
            context={"shown": shown, "first": first, "draw": rng.below(2**32)},
        )

    def receive(self, request: Request, completion: Completion, view: View) -> Received:  # noqa: ARG002
        """Read new personas, a task, or an answer, as the request's stage says."""
        if request.stage == "people":
            return self._people(request, completion)
        if request.stage == "task":
            return self._draft(request, completion)
        return _answered(request, completion)

    def _task(self, persona: str, rng: Rng, parent: int | None = None) -> Request:
        """Ask for one task of a kind that is drawn, with what the kind needs."""
        options = self.options
        kind = options.kinds.draw(rng)
        examples = rng.sample(self._examples(kind), options.demonstrations)
        constraints = draw(rng, options.constraints) if kind == "precise" else ()
        turns = options.task.turns(
            self.prompts,
            f"personas/{kind}",
            examples="".join(f"{one}\n\n" for one in examples),
            persona=persona,
        )
        paragraph = ("\n\n",) if turns[0].role == "prompt" else ()
        return Request(
            stage="task",
            turns=turns,
            sampling=options.task.sampling("\nPerson:", *paragraph),
            context={
                "persona": persona,
                "kind": kind,
                "shown": list(examples),
                "constraints": [one.to_json() for one in constraints],
            },
            parent=parent,
        )

    def _examples(self, kind: str) -> list[str]:
        """Other people with a task of this kind: the paragraphs of a template."""
        return self.prompts.turn("prompt", f"personas/{kind}-examples", {}).text.strip("\n").split("\n\n")

    def _people(self, request: Request, completion: Completion) -> Received:
        """New personas, each a draft that is followed by a request for its task."""
        first, shown = request.context["first"], request.context["shown"]
        assert isinstance(first, int)
        assert isinstance(shown, list | tuple)
        found = numbered(
            completion.text,
            first=first,
            last=self.options.list_length,
            continued=request.is_raw,
            truncated=completion.truncated,
        )
        drafts = []
        for place, item in enumerate(found.items):
            persona = collapse(item.text)
            rng = Rng("persona", str(request.context["draw"]), place)
            drafts.append(
                Candidate(
                    persona,
                    span=item.span,
                    kind="pending_task",
                    on_accept=self._task(persona, rng, request.number),
                    verdicts=(self._new(persona, [str(one) for one in shown]),),
                    is_task=False,
                )
            )
        marks = tuple(f"personas|{'new' if one.verdicts[0].kept else 'copied'}|personas" for one in drafts)
        return Received(tuple(drafts), discards=found.discards, counters=marks)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(persona.casefold() for persona in self.personas)

    def _new(self, persona: str, shown: list[str]) -> Verdict:
        """Whether it is neither one of the file nor much like one that the prompt shows."""
        if persona.casefold() in self._known:
            return Verdict(_COPIED.name, False, "copied_demonstration")
        return _COPIED.decide(persona, shown=shown)

    def _draft(self, request: Request, completion: Completion) -> Received:
        """The task, judged before it is put to the model with its constraints."""
        kind, persona, shown = _text(request, "kind"), _text(request, "persona"), request.context["shown"]
        assert isinstance(shown, list | tuple)
        found = one_task(completion.text, continued=request.is_raw, truncated=completion.truncated)
        if not found.items:
            return Received(discards=found.discards, counters=(f"kinds|{kind}|no task",))
        item = found.items[0]
        task = item.text if kind in _ANSWERS else collapse(item.text)
        examples = [str(one).partition("\nTask: ")[2] for one in shown]
        draft = Candidate(
            task,
            span=item.span,
            kind="pending_task",
            on_accept=self._answer(request, task),
            verdicts=(_own(task, persona, examples),),
        )
        return Received((draft,), discards=found.discards, counters=(f"kinds|{kind}|task",))

    def _answer(self, asked: Request, task: str) -> Request:
        kind, constraints = _text(asked, "kind"), _constraints(asked)
        ended = task if not constraints or task.endswith(_ENDS) else f"{task}."
        instruction = " ".join((ended, *(one.text for one in constraints)))
        stage = self.options.answer
        return Request(
            stage="answer",
            turns=stage.turns(self.prompts, _ANSWERS.get(kind, "personas/answer"), instruction=instruction),
            sampling=stage.sampling(),
            context={
                "persona": _text(asked, "persona"),
                "kind": kind,
                "task": candidate_id(asked.number, 0),
                "instruction": instruction,
                "constraints": [one.to_json() for one in constraints],
            },
            parent=asked.number,
        )


def _own(task: str, persona: str, examples: list[str]) -> Verdict:
    """Whether a task is neither one that the prompt shows nor only the person, said once more or twice."""
    rest = collapse(task).casefold().replace(persona.casefold().rstrip("."), " ")
    if count_words(rest) < min(_COPIED.min_words, count_words(task)):
        return Verdict(_COPIED.name, False, "copied_input")
    return _COPIED.decide(task, persona, examples)


def _answered(request: Request, completion: Completion) -> Received:
    """The whole answer as the output; of one with constraints, which of them it keeps is counted."""
    kind, constraints = _text(request, "kind"), _constraints(request)
    start, end = stripped(completion.text)
    if completion.truncated or start == end:
        reason = "truncated" if completion.truncated else "no_output"
        mark = f"kinds|{kind}|{'cut short' if completion.truncated else 'no answer'}"
        return Received(discards=(Discard(reason, (start, end)),), counters=(mark,))
    output, instruction = completion.text[start:end], _text(request, "instruction")
    columns: dict[str, Json] = {"persona": _text(request, "persona"), "kind": kind}
    marks = [f"kinds|{kind}|answer"]
    if kind in _ANSWERS:
        result = _RESULT.fullmatch(output.rsplit("\n", 1)[-1].rstrip())
        if result is not None and (stated := result[1].strip(" \t*_`").rstrip(".")):
            columns["result"] = stated
            marks.append(f"kinds|{kind}|result")
    kept = [verify(one.verifier, output).kept for one in constraints]
    if constraints:
        marks.append(f"kinds|{kind}|{'all kept' if all(kept) else 'one broken'}")
    marks += [f"constraints|{one.name}|{'kept' if it else 'broken'}" for one, it in zip(constraints, kept, strict=True)]
    row = Candidate(
        instruction=instruction,
        output=output,
        span=(start, end),
        task=_text(request, "task"),
        shown=(instruction,),
        columns=columns,
        verifier=all_of(constraints) if constraints else None,
    )
    return Received((row,), counters=tuple(marks))


def _constraints(request: Request) -> list[Constraint]:
    found = request.context["constraints"]
    assert isinstance(found, list | tuple)
    return [Constraint.from_json(one) for one in found]


def _text(request: Request, key: str) -> str:
    value = request.context[key]
    assert isinstance(value, str), (key, value)
    return value

"""Self-Instruct (Wang et al., 2022, arXiv:2212.10560): instructions first, their instances later.

Three stages: ``instructions`` continues a list of human and machine tasks, each new one a draft; ``classify`` asks of a
kept draft whether it is a classification task; ``instances`` writes examples of it, label before input for a
classification task (so that the labels vary), input before output for any other.

The examples in the prompts of the later stages are the shortest suitable seeds, the same ones for the whole run: the
prompt's head is then constant and a server's prefix cache holds it.

A small chat model answers a task much better than it continues examples of others. With ``input_first_examples = 0``
an unlabelled task is put to the model as it stands (stage ``answer``): the whole answer is the output, there is no
input, and only seeds without an input are shown in ``instructions``.

With ``structured`` instructions and instances are shown and asked for as JSON, in a form that the backend sees to; an
answer of one word, or one that is an output as a whole, has no form to see to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.config import ADDED
from selfinstruct.common.rng import Rng
from selfinstruct.parse import (
    Blocks,
    Form,
    Listing,
    blank_input,
    collapse,
    first_word,
    numbered,
    read_blocks,
    read_records,
    read_strings,
    stripped,
)
from selfinstruct.prompts import Api, Prompts
from selfinstruct.records import Candidate, Completion, Discard, Instance, Received, Request, Task, candidate_id
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared import schemas
from selfinstruct.strategies.shared.demonstrations import (
    has_instances,
    ids,
    instruction_length,
    interleaved,
    is_alone,
    is_label,
    is_other,
    is_paired,
    named,
    preferred,
    shortest,
)
from selfinstruct.strategies.shared.stage import Stage

__all__ = ["SelfInstruct", "SelfInstructOptions"]

NO_INPUT = "<noinput>"
INPUT_FIRST = Form(
    labels=(("input", ("Input", "Inputs")), ("output", ("Output", "Outputs", "Answer", "Response"))),
    required=("output",),
    opening=("input", "output"),
)
OUTPUT_FIRST = Form(
    labels=(("output", ("Label", "Class label", "Class", "Output")), ("input", ("Input", "Text"))),
    required=("output",),
    opening=("output",),
    gap=False,
)

# The published sampling: bootstrap_instructions.py, identify_clf_or_not.py and generate_instances.py of self-instruct.
_INSTRUCTIONS = Stage(max_tokens=1024, temperature=0.7, top_p=0.5, presence_penalty=2.0)
_CLASSIFY = Stage(max_tokens=3, temperature=0.0)
_INPUT_FIRST = Stage(max_tokens=350, temperature=0.0, presence_penalty=1.5)
_OUTPUT_FIRST = Stage(max_tokens=300, temperature=0.0, presence_penalty=1.5)


@dataclass(frozen=True)
class SelfInstructOptions:
    """What a run may set for this strategy. Defaults are the published ones, from the paper and its code.

    Attributes:
        human_demonstrations: Seed instructions in a prompt of ``instructions`` once there are machine ones.
        machine_demonstrations: At most so many kept machine instructions; seeds take the places that they leave.
        list_length: Number of the last item of the list, the demonstrations included.
        domains: Only seeds of these domains are shown, where there are any that suit; none named shows all.
        classify_yes: Classification tasks shown in ``classify``.
        classify_no: Other tasks shown there.
        input_first_examples: Tasks shown before input-first instances; 0 for the stage ``answer`` in their stead.
        output_first_examples: Tasks shown before output-first instances.
        example_instances: At most so many instances of each task shown.
        instances: At most so many instances of a new task.
        instructions, classify, input_first, output_first, answer: The stages.
        structured: Ask for instructions and instances as JSON by schema, where the backend can be asked for it
            (docs/structured.md).
    """

    human_demonstrations: int = 6  # section 2.2: 6 of the 8 are human-written and 2 the model's own
    machine_demonstrations: int = 2
    list_length: int = 15  # bootstrap_instructions.py stops at "16."
    domains: tuple[str, ...] = ()
    classify_yes: int = 12  # section 2.2: 12 classification and 19 other instructions
    classify_no: int = 19
    input_first_examples: int = 11  # instance_gen_template.py: input_first_template_for_gen
    output_first_examples: int = 16  # instance_gen_template.py: output_first_template_for_clf
    example_instances: int = 3  # those two templates show 1 to 4 of a task
    instances: int = 5  # generate_instances.py: max_instances_to_generate
    instructions: Stage = _INSTRUCTIONS
    classify: Stage = _CLASSIFY
    input_first: Stage = _INPUT_FIRST
    output_first: Stage = _OUTPUT_FIRST
    answer: Stage = _INPUT_FIRST
    structured: bool = field(default=False, metadata=ADDED)

    def __post_init__(self) -> None:
        for name in ("machine_demonstrations", "classify_yes", "classify_no", "input_first_examples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more")
        for name in ("human_demonstrations", "output_first_examples", "example_instances", "instances"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        if self.list_length <= self.human_demonstrations + self.machine_demonstrations:
            raise ValueError("list_length must be above the number of demonstrations, which it includes")


@dataclass(frozen=True, slots=True)
class _Examples:
    """Seeds that a kind of prompt shows: their ids, and how they stand in it."""

    ids: list[Json]
    text: str


class SelfInstruct(Strategy):
    """Drafts from a continued list, then rows from each kept draft.

    Args:
        options: Numbers of the method.
        prompts: The run's templates.
    """

    name: ClassVar[str] = "self-instruct"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        "self-instruct/instructions": frozenset({"tasks", "next"}),
        "self-instruct/classify": frozenset({"examples", "instruction"}),
        "self-instruct/input-first": frozenset({"examples", "instruction"}),
        "self-instruct/output-first": frozenset({"examples", "instruction"}),
        "self-instruct/answer": frozenset({"instruction"}),
    }
    structured_templates: ClassVar[Mapping[str, frozenset[str]]] = {
        "self-instruct/instructions-json": frozenset({"tasks", "count"}),
        "self-instruct/input-first-json": frozenset({"examples", "instruction"}),
        "self-instruct/output-first-json": frozenset({"examples", "instruction"}),
    }
    Options: ClassVar[type[SelfInstructOptions]] = SelfInstructOptions

    def __init__(self, options: SelfInstructOptions, prompts: Prompts) -> None:
        self.options = options
        self.prompts = prompts
        self._seeds: Sequence[Task] = ()
        self._chosen: dict[Callable[[View], _Examples], _Examples] = {}

    @classmethod
    def templates_for(cls, options: SelfInstructOptions) -> Mapping[str, frozenset[str]]:
        return {**cls.templates, **(cls.structured_templates if options.structured else {})}

    def schema_apis(self, api: Api) -> frozenset[Api]:
        options = self.options
        stages = (options.instructions, options.input_first, options.output_first) if options.structured else ()
        return frozenset(stage.api_in(api) for stage in stages)

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Ask for the rest of a list that begins with drawn tasks, 6 human and 2 machine ones; None without seeds."""
        options = self.options
        machine = rng.sample(view.tasks, options.machine_demonstrations)
        human = preferred(view.seeds, self._is_known, lambda seed: bool(options.input_first_examples) or is_alone(seed))
        places = options.human_demonstrations + options.machine_demonstrations
        shown = rng.shuffled([*rng.sample(human, places - len(machine)), *machine])
        if not shown:
            return None
        first = len(shown) + 1
        if options.structured:
            count, stage = options.list_length + 1 - first, options.instructions
            shown_json = dumps({"instructions": [task.instruction for task in shown]})
            return Request(
                stage="instructions",
                turns=stage.turns(self.prompts, "self-instruct/instructions-json", tasks=shown_json, count=str(count)),
                sampling=stage.sampling(schema=schemas.strings("instructions", count)),
                context={"demonstrations": ids(shown), "first": first},
            )
        lines = [f"{place}. {collapse(task.instruction)}" for place, task in enumerate(shown, 1)]
        return Request(
            stage="instructions",
            turns=options.instructions.turns(
                self.prompts, "self-instruct/instructions", tasks="\n".join(lines), next=str(first)
            ),
            sampling=options.instructions.sampling(f"\n{options.list_length + 1}."),
            context={"demonstrations": ids(shown), "first": first},
        )

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Read drafts, an answer of yes or no, or rows, as the request's stage says."""
        if request.stage == "instructions":
            return self._drafts(request, completion, view)
        if request.stage == "classify":
            return self._classified(request, completion, view)
        if request.stage == "answer":
            return _answered(request, completion)
        return self._rows(request, completion, view)

    def _is_known(self, seed: Task) -> bool:
        """True for a seed of the domains that should be shown."""
        return not self.options.domains or seed.domain in self.options.domains

    def _drafts(self, request: Request, completion: Completion, view: View) -> Received:
        found = self._listed(request, completion)
        drafts: list[Candidate] = []
        for place, item in enumerate(found.items):
            instruction = collapse(item.text)
            follow_up = self._follow_up(request.number, candidate_id(request.number, place), instruction, view)
            drafts.append(Candidate(instruction, span=item.span, kind="pending_task", on_accept=follow_up))
        return Received(candidates=tuple(drafts), discards=found.discards)

    def _listed(self, request: Request, completion: Completion) -> Listing:
        """As JSON where the request asked for it, else, or where the answer is none, as a numbered list."""
        text, first, last = completion.text, _integer(request, "first"), self.options.list_length
        structured = request.sampling.schema is not None
        if structured:
            found = read_strings(text, "instructions", most=last + 1 - first, truncated=completion.truncated)
            if found is not None:
                return found
        continued = request.is_raw and not structured
        return numbered(text, first=first, last=last, continued=continued, truncated=completion.truncated)

    def _follow_up(self, parent: int, task: str, instruction: str, view: View) -> Request:
        """The first request about a kept draft; without classification seeds to learn from, its instances at once."""
        examples = self._constant(view, self._classified_seeds)
        if not examples.ids:
            return self._instances(parent, task, instruction, False, view)
        stage = self.options.classify
        return Request(
            stage="classify",
            turns=stage.turns(self.prompts, "self-instruct/classify", examples=examples.text, instruction=instruction),
            sampling=stage.sampling("\n"),
            context={"demonstrations": examples.ids, "instruction": instruction, "task": task},
            parent=parent,
        )

    def _constant(self, view: View, choose: Callable[[View], _Examples]) -> _Examples:
        """What ``choose`` gives: it follows from the seeds alone, so it is asked once."""
        if self._seeds is not view.seeds:
            self._seeds, self._chosen = view.seeds, {}
        if choose not in self._chosen:
            self._chosen[choose] = choose(view)
        return self._chosen[choose]

    def _classified_seeds(self, view: View) -> _Examples:
        """Seeds of both kinds; none at all without one of classification."""
        options = self.options
        yes = self._shortest(view, options.classify_yes, instruction_length, is_label)
        no = self._shortest(view, options.classify_no, instruction_length, is_other) if yes else []
        seeds = interleaved(yes, no)
        text = "\n\n".join(
            f"Task: {collapse(seed.instruction)}\nClassification: {'yes' if seed.is_classification else 'no'}"
            for seed in seeds
        )
        return _Examples(ids(seeds), text)

    def _label_seeds(self, view: View) -> _Examples:
        count = self.options.output_first_examples
        seeds = self._shortest(view, count, self._shown_size, is_label, has_instances)
        return _Examples(ids(seeds), "\n\n".join(self._example(seed, True) for seed in seeds))

    def _other_seeds(self, view: View) -> _Examples:
        count, size = self.options.input_first_examples, self._shown_size
        alone = self._shortest(view, count // 2, size, is_other, has_instances, is_alone)
        paired = self._shortest(view, count - len(alone), size, is_other, has_instances, is_paired)
        seeds = interleaved(paired, alone)
        return _Examples(ids(seeds), "\n\n".join(self._example(seed, False) for seed in seeds))

    def _shortest(
        self, view: View, count: int, size: Callable[[Task], int], *suits: Callable[[Task], bool]
    ) -> list[Task]:
        """The shortest seeds that suit, of the domains that may be shown if there is one."""
        fits = [seed for seed in view.seeds if all(suit(seed) for suit in suits)]
        domains = self.options.domains
        known = [seed for seed in fits if not domains or seed.domain in domains]
        return shortest(known or fits, count, size)

    def _classified(self, request: Request, completion: Completion, view: View) -> Received:
        answer = first_word(completion.text)
        discards = () if answer in {"yes", "no"} else (Discard("no_answer", (0, len(completion.text))),)
        task, instruction = _text(request, "task"), _text(request, "instruction")
        follow_up = self._instances(request.number, task, instruction, answer == "yes", view)
        return Received(follow_ups=(follow_up,), discards=discards)

    def _instances(self, parent: int, task: str, instruction: str, is_classification: bool, view: View) -> Request:
        """Ask for rows of one task, in the form that suits it."""
        options = self.options
        about: dict[str, Json] = {"instruction": instruction, "task": task, "is_classification": is_classification}
        if not is_classification and not options.input_first_examples:
            return Request(
                stage="answer",
                turns=options.answer.turns(self.prompts, "self-instruct/answer", instruction=instruction),
                sampling=options.answer.sampling(),
                context={"demonstrations": [], **about},
                parent=parent,
            )
        if is_classification:
            name, stage, choose = "self-instruct/output-first", options.output_first, self._label_seeds
        else:
            name, stage, choose = "self-instruct/input-first", options.input_first, self._other_seeds
        examples = self._constant(view, choose)
        sampling = stage.sampling("\n### Task", f"\nExample {options.instances + 1}\n")
        if options.structured:
            form = OUTPUT_FIRST if is_classification else INPUT_FIRST
            sampling = stage.sampling(schema=schemas.records("instances", tuple(form.order), options.instances))
            name, instruction = f"{name}-json", dumps(instruction)
        return Request(
            stage="instances",
            turns=stage.turns(self.prompts, name, examples=examples.text, instruction=instruction),
            sampling=sampling,
            context={"demonstrations": examples.ids, **about},
            parent=parent,
        )

    def _shown_size(self, task: Task) -> int:
        return len(task.instruction) + sum(len(one.input) + len(one.output) for one in self._shown(task))

    def _shown(self, task: Task) -> tuple[Instance, ...]:
        return task.instances[: self.options.example_instances]

    def _example(self, task: Task, is_classification: bool) -> str:
        """One seed with its instances as the prompt shows it."""
        if self.options.structured:
            order = ("output", "input") if is_classification else ("input", "output")
            shown = [{name: getattr(one, name) for name in order} for one in self._shown(task)]
            return f"Task: {dumps(task.instruction)}\n{dumps({'instances': shown})}"
        lines = [f"### Task: {collapse(task.instruction)}"]
        for place, one in enumerate(self._shown(task), 1):
            output = f"{'Label' if is_classification else 'Output'}: {one.output}"
            if not one.input:
                lines.append(output)
                break  # a task without an input has one answer
            fields = (output, f"Input: {one.input}") if is_classification else (f"Input: {one.input}", output)
            lines += (f"Example {place}", *fields)
        return "\n".join(lines)

    def _rows(self, request: Request, completion: Completion, view: View) -> Received:
        found = self._read(request, completion)
        shown = tuple(one.output for seed in named(view.seeds, request) for one in self._shown(seed))
        rows = tuple(
            Candidate(
                instruction=_text(request, "instruction"),
                input=blank_input(block.fields.get("input", "").strip()),
                output=block.fields["output"].strip(),
                span=block.span,
                task=_text(request, "task"),
                shown=shown,
            )
            for block in found.blocks
        )
        return Received(candidates=rows, discards=found.discards)

    def _read(self, request: Request, completion: Completion) -> Blocks:
        """As JSON where the request asked for it, else, or where the answer is none, as blocks."""
        form = OUTPUT_FIRST if request.context["is_classification"] else INPUT_FIRST
        text, last, truncated = completion.text, self.options.instances, completion.truncated
        if request.sampling.schema is not None:
            found = read_records(text, "instances", tuple(form.order), form.required, most=last, truncated=truncated)
            if found is not None:
                return found
        return read_blocks(text, form, first=1, last=last, continued=False, truncated=truncated)


def _answered(request: Request, completion: Completion) -> Received:
    """The whole answer as the output of the task that was put as it stands.

    The task itself counts as shown: a small model at times says it again in place of an answer.
    """
    start, end = stripped(completion.text)
    if completion.truncated or start == end:
        return Received(discards=(Discard("truncated" if completion.truncated else "no_output", (start, end)),))
    instruction = _text(request, "instruction")
    row = Candidate(
        instruction=instruction,
        output=completion.text[start:end],
        span=(start, end),
        task=_text(request, "task"),
        shown=(instruction,),
    )
    return Received(candidates=(row,))


def _integer(request: Request, key: str) -> int:
    value = request.context[key]
    assert isinstance(value, int), (key, value)
    return value


def _text(request: Request, key: str) -> str:
    value = request.context[key]
    assert isinstance(value, str), (key, value)
    return value

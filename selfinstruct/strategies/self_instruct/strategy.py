"""Self-Instruct (Wang et al., 2022, arXiv:2212.10560): instructions first, their instances later.

There are three stages. ``instructions`` continues a list of human and machine tasks; each new one is a pending task.
``classify`` asks whether a kept task is a classification task. ``instances`` writes examples of it: label before input
for a classification task, so that the labels vary, and input before output for any other task.

The examples in the prompts of the later stages are the shortest suitable seeds, the same for the whole run: the
beginning of the prompt is then constant, and a server's prefix cache serves it.

A small chat model answers a task much better than it continues examples of other tasks. With
``input_first_examples = 0`` an unlabelled task is therefore sent verbatim (stage ``answer``): the complete answer is
the output, there is no input, and ``instructions`` shows only seeds without an input.

With ``structured`` instructions and instances are shown and requested as JSON, by a schema that the backend enforces.
The stages ``classify`` and ``answer`` stay as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from selfinstruct.common.codec import dumps
from selfinstruct.common.rng import Rng
from selfinstruct.common.unused import Unused
from selfinstruct.parse import (
    Blocks,
    Form,
    Listing,
    blank_input,
    collapse,
    content_span,
    first_word,
    read_blocks,
    read_list,
    read_numbered_list,
    read_records,
    read_strings,
)
from selfinstruct.prompts import Api, Prompts
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Candidate, Completion, Discard, Received, Request
from selfinstruct.strategies.abilities import ChoosesTemplates, HasModes, KnowsUnansweredRows, UsesSchemas
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.self_instruct.examples import SeedExamples
from selfinstruct.strategies.self_instruct.options import SelfInstructOptions
from selfinstruct.strategies.shared import schemas
from selfinstruct.strategies.shared.contexts import context_json, read_context
from selfinstruct.strategies.shared.demonstrations import (
    demonstrated,
    needs_no_input,
    preferred,
    task_ids,
)

__all__ = ["INPUT_FIRST", "OUTPUT_FIRST", "SelfInstruct"]

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


@dataclass(frozen=True, slots=True)
class InstructionsContext:
    """Context of the stage ``instructions``.

    Attributes:
        first: Number of the first new item of the list.
    """

    first: int


@dataclass(frozen=True, slots=True)
class TaskContext:
    """Context of the stage ``classify``: a kept task.

    Attributes:
        task: Id of the candidate that brought the instruction.
    """

    instruction: str
    task: str


@dataclass(frozen=True, slots=True)
class InstancesContext(TaskContext):
    """Context of the stages ``instances`` and ``answer``."""

    is_classification: bool


class SelfInstruct(
    Strategy, ChoosesTemplates[SelfInstructOptions], HasModes[SelfInstructOptions], KnowsUnansweredRows, UsesSchemas
):
    """Pending tasks from a continued list, then rows from each kept task."""

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
    options: SelfInstructOptions

    def __init__(self, options: SelfInstructOptions, prompts: Prompts) -> None:
        super().__init__(options, prompts)
        self._examples = SeedExamples(options)

    @classmethod
    def templates_for(cls, options: SelfInstructOptions) -> Mapping[str, frozenset[str]]:
        """Return the templates, with the ones for JSON if ``structured`` is on."""
        return {**cls.templates, **(cls.structured_templates if options.structured else {})}

    @classmethod
    def unused_options(cls, options: SelfInstructOptions, api: Api) -> Iterable[Unused]:  # noqa: ARG003  # the signature is of HasModes
        """Return the stages that no task reaches, and the templates of the other form, text or JSON."""
        if options.input_first_examples:
            yield Unused("input_first_examples", "0", ("answer",), ("self-instruct/answer",))
        else:
            templates = ("self-instruct/input-first", "self-instruct/input-first-json")
            yield Unused("input_first_examples", "1 or more", ("input_first",), templates)
        if not options.classify_yes:
            yield Unused(
                "classify_yes",
                "1 or more",
                ("classify", "classify_no", "output_first", "output_first_examples"),
                ("self-instruct/classify", "self-instruct/output-first", "self-instruct/output-first-json"),
            )
        if options.structured:
            replaced = tuple(name.removesuffix("-json") for name in cls.structured_templates)
            yield Unused("structured", "false", (), replaced)

    def schema_apis(self, api: Api) -> frozenset[Api]:
        """Return the APIs of the stages that request JSON."""
        options = self.options
        stages = (options.instructions, options.input_first, options.output_first) if options.structured else ()
        return frozenset(stage.api_in(api) for stage in stages)

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Request the rest of a list that begins with drawn tasks, 6 human and 2 machine ones by default.

        Returns:
            The request, or None without seeds.
        """
        options = self.options
        machine = rng.sample(view.tasks, options.machine_demonstrations)
        human = preferred(
            view.seeds,
            self._examples.in_domains,
            lambda seed: bool(options.input_first_examples) or needs_no_input(seed),
        )
        count = options.human_demonstrations + options.machine_demonstrations
        shown = rng.shuffled([*rng.sample(human, count - len(machine)), *machine])
        if not shown:
            return None
        first, stage = len(shown) + 1, options.instructions
        if options.structured:
            new = options.list_length + 1 - first
            shown_json = dumps({"instructions": [task.instruction for task in shown]})
            turns = stage.turns(self.prompts, "self-instruct/instructions-json", tasks=shown_json, count=str(new))
            sampling = stage.sampling(schema=schemas.strings("instructions", new))
        else:
            lines = [f"{number}. {collapse(task.instruction)}" for number, task in enumerate(shown, 1)]
            turns = stage.turns(self.prompts, "self-instruct/instructions", tasks="\n".join(lines), next=str(first))
            sampling = stage.sampling(f"\n{options.list_length + 1}.")
        return Request(
            stage="instructions",
            turns=turns,
            sampling=sampling,
            context=context_json(InstructionsContext(first)),
            demonstrations=task_ids(shown),
        )

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Read pending tasks, an answer of yes or no, or rows, depending on the request's stage."""
        if request.stage == "instructions":
            return self._receive_instructions(request, completion, view)
        if request.stage == "classify":
            return self._receive_class(request, completion, view)
        if request.stage == "answer":
            return _receive_answer(request, completion)
        return self._receive_instances(request, completion, view)

    def unanswered_row(self, request: Request) -> Candidate | None:
        """Return the row of the stage ``answer``."""
        return _answered_row(request, "", (0, 0)) if request.stage == "answer" else None

    def _receive_instructions(self, request: Request, completion: Completion, view: View) -> Received:
        listing = self._parse_list(request, completion)
        tasks: list[Candidate] = []
        for index, item in enumerate(listing.items):
            instruction, task = collapse(item.text), request.candidate_id(index)
            follow_up = self._follow_up(request.number, TaskContext(instruction, task), view)
            tasks.append(Candidate(instruction, span=item.span, kind="pending_task", on_accept=follow_up, id=task))
        return Received(candidates=tuple(tasks), discards=listing.discards)

    def _parse_list(self, request: Request, completion: Completion) -> Listing:
        """Read JSON if the request asked for it and the model wrote it, otherwise a numbered list."""
        text, last = completion.text, self.options.list_length
        first = read_context(InstructionsContext, request).first
        structured = request.sampling.schema is not None
        if structured:
            strings = read_strings(text, "instructions", most=last + 1 - first, truncated=completion.truncated)
            if strings is not None:
                return strings
        continued = request.is_raw and not structured
        read = read_list if self.prompts.semantics > 1 else read_numbered_list
        return read(text, first=first, last=last, continued=continued, truncated=completion.truncated)

    def _follow_up(self, parent: int, task: TaskContext, view: View) -> Request:
        """Return the first request about a kept task: its class, or its instances if no seed shows a classification."""
        examples = self._examples.of_both_classes(view.seeds)
        if not examples.ids:
            return self._request_instances(parent, InstancesContext(task.instruction, task.task, False), view)
        stage = self.options.classify
        return Request(
            stage="classify",
            turns=stage.turns(
                self.prompts, "self-instruct/classify", examples=examples.text, instruction=task.instruction
            ),
            sampling=stage.sampling("\n"),
            context=context_json(task),
            parent=parent,
            demonstrations=examples.ids,
        )

    def _receive_class(self, request: Request, completion: Completion, view: View) -> Received:
        answer = "" if completion.failed else first_word(completion.text)
        no_answer = Discard(RejectReason.NO_ANSWER, (0, len(completion.text)))
        task = read_context(TaskContext, request)
        instances = InstancesContext(task.instruction, task.task, answer == "yes")
        follow_up = self._request_instances(request.number, instances, view)
        return Received(follow_ups=(follow_up,), discards=() if answer in {"yes", "no"} else (no_answer,))

    def _request_instances(self, parent: int, task: InstancesContext, view: View) -> Request:
        """Request rows of one task, in the form that suits it."""
        options, instruction = self.options, task.instruction
        if not task.is_classification and not options.input_first_examples:
            return Request(
                stage="answer",
                turns=options.answer.turns(self.prompts, "self-instruct/answer", instruction=instruction),
                sampling=options.answer.sampling(),
                context=context_json(task),
                parent=parent,
                demonstrations=(),
            )
        if task.is_classification:
            name, stage = "self-instruct/output-first", options.output_first
        else:
            name, stage = "self-instruct/input-first", options.input_first
        examples = self._examples.of_instances(view.seeds, is_classification=task.is_classification)
        sampling = stage.sampling("\n### Task", f"\nExample {options.instances + 1}\n")
        if options.structured:
            form = OUTPUT_FIRST if task.is_classification else INPUT_FIRST
            sampling = stage.sampling(schema=schemas.records("instances", tuple(form.order), options.instances))
            name, instruction = f"{name}-json", dumps(instruction)
        return Request(
            stage="instances",
            turns=stage.turns(self.prompts, name, examples=examples.text, instruction=instruction),
            sampling=sampling,
            context=context_json(task),
            parent=parent,
            demonstrations=examples.ids,
        )

    def _receive_instances(self, request: Request, completion: Completion, view: View) -> Received:
        context = read_context(InstancesContext, request)
        parsed = self._parse_instances(request, completion, OUTPUT_FIRST if context.is_classification else INPUT_FIRST)
        seeds = demonstrated(view.seeds, request)
        shown_outputs = tuple(shown.output for seed in seeds for shown in self._examples.shown(seed))
        rows = tuple(
            Candidate(
                instruction=context.instruction,
                input=blank_input(block.fields.get("input", "").strip()),
                output=block.fields["output"].strip(),
                span=block.span,
                task=context.task,
                shown_outputs=shown_outputs,
            )
            for block in parsed.blocks
        )
        return Received(candidates=rows, discards=parsed.discards)

    def _parse_instances(self, request: Request, completion: Completion, form: Form) -> Blocks:
        """Read JSON if the request asked for it and the model wrote it, otherwise blocks of text."""
        text, last, truncated = completion.text, self.options.instances, completion.truncated
        if request.sampling.schema is not None:
            records = read_records(text, "instances", tuple(form.order), form.required, most=last, truncated=truncated)
            if records is not None:
                return records
        return read_blocks(text, form, first=1, last=last, continued=False, truncated=truncated)


def _receive_answer(request: Request, completion: Completion) -> Received:
    """Take the complete answer as the output of a task that was sent verbatim.

    The task itself counts as shown, because a small model sometimes repeats it instead of answering.
    """
    start, end = content_span(completion.text)
    if completion.truncated or start == end:
        reason = RejectReason.TRUNCATED if completion.truncated else RejectReason.NO_OUTPUT
        return Received(discards=(Discard(reason, (start, end)),))
    return Received(candidates=(_answered_row(request, completion.text[start:end], (start, end)),))


def _answered_row(request: Request, output: str, span: tuple[int, int]) -> Candidate:
    context = read_context(InstancesContext, request)
    return Candidate(
        instruction=context.instruction,
        output=output,
        span=span,
        task=context.task,
        shown_outputs=(context.instruction,),
    )

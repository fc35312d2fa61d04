"""Alpaca (Taori et al., 2023, Stanford CRFM): complete tasks in one call.

A prompt shows three seed tasks and asks for a list of twenty that includes the three. Each new block holds an
instruction, an input or the marker ``<noinput>``, and an output: one row.

With ``structured`` the tasks are shown and requested as JSON, by a schema that the backend enforces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from selfinstruct.common.codec import dumps
from selfinstruct.common.config import ADDED
from selfinstruct.common.rng import Rng
from selfinstruct.common.unused import Unused
from selfinstruct.parse import Blocks, Form, blank_input, collapse, read_blocks, read_records
from selfinstruct.prompts import Api
from selfinstruct.records import Candidate, Completion, Received, Request, Task
from selfinstruct.strategies.abilities import ChoosesTemplates, HasModes, UsesSchemas
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared import schemas
from selfinstruct.strategies.shared.contexts import context_json, read_context
from selfinstruct.strategies.shared.demonstrations import demonstrated, longest_field, preferred, task_ids
from selfinstruct.strategies.shared.stage import Stage

__all__ = ["Alpaca", "AlpacaOptions"]

NO_INPUT = "<noinput>"
FORM = Form(
    labels=(
        ("instruction", ("Instruction", "Instructions", "Task")),
        ("input", ("Input", "Inputs")),
        ("output", ("Output", "Outputs", "Answer", "Response")),
    ),
    required=("instruction", "output"),
    opening=("instruction",),
    inside=True,
)

FIELDS = ("instruction", "input", "output")

_PUBLISHED = Stage(max_tokens=3072, temperature=1.0, top_p=1.0)  # decoding_args in generate_instruction.py


@dataclass(frozen=True)
class AlpacaOptions:
    """Settings of this strategy. Defaults are the published ones.

    Attributes:
        demonstrations: Seed tasks shown in each prompt.
        list_length: Number of the last task of the list, the demonstrations included.
        domains: Only seeds of these domains are shown; an empty list shows all.
        demonstration_chars: Only seeds whose longest field has at most this many characters are shown; 0 shows any.
            For models with a short context, or slow at reading.
        tasks: The only stage.
        structured: Request JSON by schema, where the backend supports it (docs/structured.md).
    """

    demonstrations: int = 3  # generate_instruction.py of stanford_alpaca: num_prompt_instructions
    list_length: int = 20  # its prompt.txt asks for 20 tasks
    domains: tuple[str, ...] = ()
    demonstration_chars: int = 0
    tasks: Stage = _PUBLISHED
    structured: bool = field(default=False, metadata=ADDED)

    def __post_init__(self) -> None:
        if self.demonstrations < 1:
            raise ValueError("demonstrations must be 1 or more")
        if self.list_length <= self.demonstrations:
            raise ValueError("list_length must be above the number of demonstrations, which it includes")
        if self.demonstration_chars < 0:
            raise ValueError("demonstration_chars must be 0 or more")


@dataclass(frozen=True, slots=True)
class TasksContext:
    """Context of the stage ``tasks``.

    Attributes:
        first: Number of the first new task of the list.
    """

    first: int


class Alpaca(Strategy, ChoosesTemplates[AlpacaOptions], HasModes[AlpacaOptions], UsesSchemas):
    """Rows from a continued list of instruction, input and output."""

    name: ClassVar[str] = "alpaca"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {"alpaca/list": frozenset({"count", "tasks", "next"})}
    structured_templates: ClassVar[Mapping[str, frozenset[str]]] = {"alpaca/list-json": frozenset({"count", "tasks"})}
    Options: ClassVar[type[AlpacaOptions]] = AlpacaOptions
    options: AlpacaOptions

    @classmethod
    def templates_for(cls, options: AlpacaOptions) -> Mapping[str, frozenset[str]]:
        """Return the templates, with the ones for JSON if ``structured`` is on."""
        return {**cls.templates, **(cls.structured_templates if options.structured else {})}

    @classmethod
    def unused_options(cls, options: AlpacaOptions, api: Api) -> Iterable[Unused]:  # noqa: ARG003  # the signature is of HasModes
        """Return the template for text where JSON is requested."""
        if options.structured:
            yield Unused("structured", "false", (), ("alpaca/list",))

    def schema_apis(self, api: Api) -> frozenset[Api]:
        """Return the API of the stage ``tasks`` if ``structured`` is on."""
        return frozenset({self.options.tasks.api_in(api)} if self.options.structured else ())

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Request the rest of a list that begins with randomly drawn seeds; return None if no seed can be shown."""
        options = self.options
        shown = rng.sample(self._showable_seeds(view), options.demonstrations)
        if not shown:
            return None
        first = len(shown) + 1
        if options.structured:
            return self._structured(shown, first)
        return Request(
            stage="tasks",
            turns=options.tasks.turns(
                self.prompts,
                "alpaca/list",
                count=str(options.list_length),
                tasks="\n\n".join(_block(number, task) for number, task in enumerate(shown, 1)),
                next=str(first),
            ),
            sampling=options.tasks.sampling(f"\n### Task {options.list_length + 1}"),
            context=context_json(TasksContext(first)),
            demonstrations=task_ids(shown),
        )

    def _structured(self, shown: Sequence[Task], first: int) -> Request:
        """Request the rest of the list as JSON."""
        stage, count = self.options.tasks, self.options.list_length + 1 - first
        return Request(
            stage="tasks",
            turns=stage.turns(
                self.prompts,
                "alpaca/list-json",
                count=str(count),
                tasks=dumps({"tasks": [_record(task) for task in shown]}),
            ),
            sampling=stage.sampling(schema=schemas.records("tasks", FIELDS, count)),
            context=context_json(TasksContext(first)),
            demonstrations=task_ids(shown),
        )

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Read the blocks; each is a row."""
        parsed = self._parse(request, completion)
        shown_outputs = tuple(task.instances[0].output for task in demonstrated(view.seeds, request))
        rows = tuple(
            Candidate(
                instruction=block.fields["instruction"].strip(),
                input=blank_input(block.fields.get("input", "").strip()),
                output=block.fields["output"].strip(),
                span=block.span,
                shown_outputs=shown_outputs,
            )
            for block in parsed.blocks
        )
        return Received(candidates=rows, discards=parsed.discards)

    def _parse(self, request: Request, completion: Completion) -> Blocks:
        """Read JSON if the request asked for it and the model wrote it, otherwise text."""
        first, last = read_context(TasksContext, request).first, self.options.list_length
        structured = request.sampling.schema is not None
        if structured:
            records = read_records(
                completion.text,
                "tasks",
                FIELDS,
                FORM.required,
                most=last + 1 - first,
                truncated=completion.truncated,
            )
            if records is not None:
                return records
        return read_blocks(
            completion.text,
            FORM,
            first=first,
            last=last,
            continued=request.is_raw and not structured,
            truncated=completion.truncated,
        )

    def _showable_seeds(self, view: View) -> list[Task]:
        """Return the seeds with an output; if any meet the settings on domains and length, only these."""
        limit, domains = self.options.demonstration_chars, self.options.domains
        return preferred(
            [seed for seed in view.seeds if seed.instances and seed.instances[0].output],
            lambda seed: not domains or seed.domain in domains,
            lambda seed: not limit or longest_field(seed) <= limit,
        )


def _block(number: int, task: Task) -> str:
    """Return one task in the form of the text prompt."""
    example = task.instances[0]
    return (
        f"### Task {number}\nInstruction: {collapse(task.instruction)}\n"
        f"Input: {example.input or NO_INPUT}\nOutput: {example.output}"
    )


def _record(task: Task) -> dict[str, str]:
    """Return one task in the form of the JSON prompt."""
    example = task.instances[0]
    return {"instruction": task.instruction, "input": example.input, "output": example.output}

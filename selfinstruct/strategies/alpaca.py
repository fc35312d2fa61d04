"""Alpaca (Taori et al., 2023, Stanford CRFM): whole tasks in one call.

A prompt shows three seed tasks and asks for a list of twenty, the three included. Each new block is an instruction, an
input or the marker ``<noinput>``, and an output: one row.

With ``structured`` the tasks are shown and asked for as JSON, in a form that the backend sees to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from selfinstruct.common.codec import dumps
from selfinstruct.common.config import ADDED
from selfinstruct.common.rng import Rng
from selfinstruct.parse import Blocks, Form, blank_input, collapse, read_blocks, read_records
from selfinstruct.prompts import Api, Prompts
from selfinstruct.records import Candidate, Completion, Received, Request, Task
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared import schemas
from selfinstruct.strategies.shared.demonstrations import ids, longest_field, named, preferred
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
    """What a run may set for this strategy. Defaults are the published ones.

    Attributes:
        demonstrations: Seed tasks shown in each prompt.
        list_length: Number of the last task of the list, the demonstrations included.
        domains: Only seeds of these domains are shown; none named shows all.
        demonstration_chars: Only seeds whose longest field is at most this long are shown; 0 shows any. For models
            with a short context, or slow at reading.
        tasks: The one stage.
        structured: Ask for JSON by schema, where the backend can be asked for it (docs/structured.md).
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


class Alpaca(Strategy):
    """Rows from a continued list of instruction, input and output.

    Args:
        options: Numbers of the method.
        prompts: The run's templates.
    """

    name: ClassVar[str] = "alpaca"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {"alpaca/list": frozenset({"count", "tasks", "next"})}
    structured_templates: ClassVar[Mapping[str, frozenset[str]]] = {"alpaca/list-json": frozenset({"count", "tasks"})}
    Options: ClassVar[type[AlpacaOptions]] = AlpacaOptions

    def __init__(self, options: AlpacaOptions, prompts: Prompts) -> None:
        self.options = options
        self.prompts = prompts

    @classmethod
    def templates_for(cls, options: AlpacaOptions) -> Mapping[str, frozenset[str]]:
        return {**cls.templates, **(cls.structured_templates if options.structured else {})}

    def schema_apis(self, api: Api) -> frozenset[Api]:
        return frozenset({self.options.tasks.api_in(api)} if self.options.structured else ())

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Ask for the rest of a list that begins with randomly drawn seeds; None without any seed to show."""
        options = self.options
        shown = rng.sample(self._seeds(view), options.demonstrations)
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
                tasks="\n\n".join(_block(place, task) for place, task in enumerate(shown, 1)),
                next=str(first),
            ),
            sampling=options.tasks.sampling(f"\n### Task {options.list_length + 1}"),
            context={"demonstrations": ids(shown), "first": first},
        )

    def _structured(self, shown: Sequence[Task], first: int) -> Request:
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
            context={"demonstrations": ids(shown), "first": first},
        )

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Read the blocks; each is a row."""
        found = self._read(request, completion)
        shown = tuple(task.instances[0].output for task in named(view.seeds, request))
        rows = tuple(
            Candidate(
                instruction=block.fields["instruction"].strip(),
                input=blank_input(block.fields.get("input", "").strip()),
                output=block.fields["output"].strip(),
                span=block.span,
                shown=shown,
            )
            for block in found.blocks
        )
        return Received(candidates=rows, discards=found.discards)

    def _read(self, request: Request, completion: Completion) -> Blocks:
        """As JSON where the request asked for it, else, or where the answer is none, as text."""
        first, last = int(str(request.context["first"])), self.options.list_length
        structured = request.sampling.schema is not None
        if structured:
            found = read_records(
                completion.text,
                "tasks",
                FIELDS,
                FORM.required,
                most=last + 1 - first,
                truncated=completion.truncated,
            )
            if found is not None:
                return found
        return read_blocks(
            completion.text,
            FORM,
            first=first,
            last=last,
            continued=request.is_raw and not structured,
            truncated=completion.truncated,
        )

    def _seeds(self, view: View) -> list[Task]:
        """Seeds that can be shown, those that should be if there are any."""
        most, domains = self.options.demonstration_chars, self.options.domains
        return preferred(
            [seed for seed in view.seeds if seed.instances and seed.instances[0].output],
            lambda seed: not domains or seed.domain in domains,
            lambda seed: not most or longest_field(seed) <= most,
        )


def _block(number: int, task: Task) -> str:
    """One task as the prompt shows it."""
    example = task.instances[0]
    return (
        f"### Task {number}\nInstruction: {collapse(task.instruction)}\n"
        f"Input: {example.input or NO_INPUT}\nOutput: {example.output}"
    )


def _record(task: Task) -> dict[str, str]:
    """One task as a prompt for JSON shows it."""
    example = task.instances[0]
    return {"instruction": task.instruction, "input": example.input, "output": example.output}

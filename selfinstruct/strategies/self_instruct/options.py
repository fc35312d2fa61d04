"""The options of Self-Instruct."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfinstruct.common.config import ADDED
from selfinstruct.strategies.shared.stage import Stage

__all__ = ["SelfInstructOptions"]

# The published sampling: bootstrap_instructions.py, identify_clf_or_not.py and generate_instances.py of self-instruct.
_INSTRUCTIONS = Stage(max_tokens=1024, temperature=0.7, top_p=0.5, presence_penalty=2.0)
_CLASSIFY = Stage(max_tokens=3, temperature=0.0)
_INPUT_FIRST = Stage(max_tokens=350, temperature=0.0, presence_penalty=1.5)
_OUTPUT_FIRST = Stage(max_tokens=300, temperature=0.0, presence_penalty=1.5)


@dataclass(frozen=True)
class SelfInstructOptions:
    """Settings of this strategy. Defaults are the published ones, from the paper and its code.

    Attributes:
        human_demonstrations: Seed instructions in a prompt of ``instructions`` once there are machine ones.
        machine_demonstrations: Maximum number of kept machine instructions shown; seeds fill the remaining places.
        list_length: Number of the last item of the list, the demonstrations included.
        domains: Only seeds of these domains are shown, where suitable ones exist; an empty list shows all.
        classify_yes: Classification tasks shown in ``classify``.
        classify_no: Other tasks shown there.
        input_first_examples: Tasks shown before input-first instances; 0 uses the stage ``answer`` instead.
        output_first_examples: Tasks shown before output-first instances.
        example_instances: Maximum number of instances of each task shown.
        instances: Maximum number of instances of a new task.
        instructions, classify, input_first, output_first, answer: The stages.
        structured: Request instructions and instances as JSON by schema, where the backend supports it
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

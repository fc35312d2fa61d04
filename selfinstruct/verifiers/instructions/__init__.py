"""The instructions of IFEval and IFBench, checked by code: without a network, a model or random numbers.

Each is a function from an answer and its arguments to a finding, in a table by its published id. The verdicts follow
the published checkers unless these contradict the words of their instruction; ``docs/suites.md`` lists the differences.

Sources: IFEval, Zhou et al. 2023, arXiv:2311.07911; IFBench, Pyatkin et al. 2025, arXiv:2507.02833.
"""

from selfinstruct.verifiers.instructions.base import Arguments, Instruction
from selfinstruct.verifiers.instructions.registry import (
    IFBENCH,
    IFEVAL,
    INSTRUCTION,
    INSTRUCTIONS,
    check_arguments,
    instruction_of,
)

__all__ = [
    "IFBENCH", "IFEVAL", "INSTRUCTION", "INSTRUCTIONS", "Arguments", "Instruction", "check_arguments", "instruction_of",
]  # fmt: skip

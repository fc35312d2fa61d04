"""All instructions by their published ids, and the kind of verifier that checks one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfinstruct.verifiers.base import Finding, Kind, Spec, nearest_name, short
from selfinstruct.verifiers.instructions.base import Arguments, Instruction
from selfinstruct.verifiers.instructions.ifbench_counts import IFBENCH_COUNTS
from selfinstruct.verifiers.instructions.ifbench_custom import IFBENCH_CUSTOM
from selfinstruct.verifiers.instructions.ifbench_format import IFBENCH_FORMAT
from selfinstruct.verifiers.instructions.ifbench_words import IFBENCH_WORDS
from selfinstruct.verifiers.instructions.ifeval_layout import IFEVAL_LAYOUT
from selfinstruct.verifiers.instructions.ifeval_words import IFEVAL_WORDS

__all__ = ["IFBENCH", "IFEVAL", "INSTRUCTION", "INSTRUCTIONS", "check_arguments", "instruction_of"]

IFEVAL: Mapping[str, Instruction] = {**IFEVAL_WORDS, **IFEVAL_LAYOUT}
IFBENCH: Mapping[str, Instruction] = {**IFBENCH_COUNTS, **IFBENCH_WORDS, **IFBENCH_FORMAT, **IFBENCH_CUSTOM}
INSTRUCTIONS: Mapping[str, Instruction] = {**IFEVAL, **IFBENCH}


def instruction_of(instruction_id: Any) -> Instruction:
    """Return the instruction with that id.

    Raises:
        ValueError: There is no such instruction.
    """
    if not isinstance(instruction_id, str) or instruction_id not in INSTRUCTIONS:
        names = INSTRUCTIONS if isinstance(instruction_id, str) else ()
        raise ValueError(f"unknown instruction {short(instruction_id)}{nearest_name(str(instruction_id), names)}")
    return INSTRUCTIONS[instruction_id]


def check_arguments(instruction: Instruction, arguments: Arguments) -> None:
    """Raise ValueError unless `arguments` are complete and valid; the message names instruction and argument."""
    for name, value in arguments.items():
        if name not in instruction.arguments:
            hint = nearest_name(name, instruction.arguments) if instruction.arguments else "; it has no arguments"
            raise ValueError(f"{instruction.id} has no argument {short(name)}{hint}")
        try:
            instruction.arguments[name](value)
        except ValueError as error:
            raise ValueError(f"{instruction.id}: {name!r} {error}") from None
    if missing := [name for name in instruction.arguments if name not in arguments]:
        raise ValueError(f"{instruction.id} needs the argument {missing[0]!r}")
    if instruction.check_all is not None:
        try:
            instruction.check_all(arguments)
        except ValueError as error:
            raise ValueError(f"{instruction.id}: {error}") from None


def _check_id(value: Any) -> None:
    instruction_of(value)


def _check_object(value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be an object with the arguments of the instruction, found {short(value)}")


def _check(spec: Spec) -> None:
    check_arguments(instruction_of(spec["id"]), spec.get("arguments", {}))


def _verify(spec: Spec, answer: str) -> Finding:
    instruction = instruction_of(spec["id"])
    if not answer.strip():
        return Finding(False, instruction.summary, "a blank answer")
    return instruction.check(answer, spec.get("arguments", {}))


INSTRUCTION = Kind(_verify, {"id": _check_id, "arguments": _check_object}, required=("id",), check=_check)

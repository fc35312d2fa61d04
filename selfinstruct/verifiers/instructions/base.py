"""The table of instructions that code can check, and helpers that their checkers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfinstruct.verifiers.base import Finding, short

__all__ = [
    "Arguments", "Check", "Instruction", "Table", "check_index", "check_percentage", "check_relation", "check_whole",
    "compared", "counted", "integer",
]  # fmt: skip

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], Finding]

_RELATIONS = ("at least", "less than")


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction about the form of an answer, with the function that checks it.

    Attributes:
        id: The published id, such as ``punctuation:no_comma``.
        check: Decides on an answer that is not blank, with arguments that have passed the checks below. ``expected``
            of its finding is the requirement, ``found`` what was counted.
        arguments: The arguments, all of them required, each with a function that raises ValueError on a bad value; the
            message completes a sentence that begins with the argument's name.
        check_all: Checks the arguments as a whole, after each of them; raises ValueError.
    """

    id: str
    check: Check
    arguments: Mapping[str, Callable[[Any], object]]
    check_all: Callable[[Arguments], object] | None = None

    @property
    def summary(self) -> str:
        """One line that says what the instruction requires."""
        return (self.check.__doc__ or "").strip().partition("\n")[0]

    def follows(self, answer: str, arguments: Arguments) -> bool:
        """Return whether an answer follows the instruction."""
        return self.check(answer, arguments).kept


class Table(dict[str, Instruction]):
    """The instructions of a module by their ids."""

    def add(
        self,
        instruction_id: str,
        check_all: Callable[[Arguments], object] | None = None,
        **arguments: Callable[[Any], object],
    ) -> Callable[[Check], Check]:
        """Return a decorator that adds a checker, with the checks of its arguments."""

        def add(check: Check) -> Check:
            self[instruction_id] = Instruction(instruction_id, check, arguments, check_all)
            return check

        return add


def check_whole(value: Any) -> None:
    """Raise ValueError unless `value` is a whole number of at least 0; 5.0 is one, as in the files of IFBench."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or value < 0 or value != value // 1 or value > 10**9:
        raise ValueError(f"must be a whole number of at least 0, found {short(value)}")


def check_index(value: Any) -> None:
    """Raise ValueError unless `value` is a whole number of at least 1."""
    check_whole(value)
    if value < 1:
        raise ValueError(f"must be a whole number of at least 1, found {short(value)}")


def check_percentage(value: Any) -> None:
    """Raise ValueError unless `value` is a number from 0 to 100."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 100:
        raise ValueError(f"must be a number from 0 to 100, found {short(value)}")


def check_relation(value: Any) -> None:
    """Raise ValueError unless `value` is one of the relations of IFEval."""
    if value not in _RELATIONS:
        raise ValueError(f"must be 'at least' or 'less than', found {short(value)}")


def integer(arguments: Arguments, name: str) -> int:
    """Return an argument that ``check_whole`` accepts, as an integer."""
    return int(arguments[name])


def compared(count: int, relation: str, limit: int, unit: str) -> Finding:
    """Compare a count with a limit by one of the relations of IFEval."""
    kept = count >= limit if relation == "at least" else count < limit
    return Finding(kept, f"{relation} {limit} {unit}", f"{count} counted")


def counted(kept: bool, expected: str, count: int) -> Finding:
    """Return a finding that reports a count."""
    return Finding(kept, expected, f"{count} counted")

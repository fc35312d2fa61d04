"""Suites of prompts whose instructions about form are checked by code, in the format of IFEval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from selfinstruct.common.files import read_jsonl_lines
from selfinstruct.errors import DataError
from selfinstruct.suites.base import Item, Metric, Suite
from selfinstruct.verifiers.base import Finding
from selfinstruct.verifiers.instructions import Arguments, check_arguments, instruction_of

__all__ = ["InstructionSuite", "loose_variants"]

_BLANK = "the answer is empty"


class InstructionSuite(Suite):
    """Prompts with instructions, each answer scored strictly and loosely (Zhou et al. 2023, arXiv:2311.07911, 2.2).

    An instruction is followed strictly if the answer as it is follows it, and loosely if any of eight variants does:
    without its first line, its last line or both, each with and without asterisks. A prompt counts 1 if all its
    instructions are followed. A blank answer follows none.

    The file has JSON lines with ``prompt``, ``instruction_id_list`` and ``kwargs``, one object of arguments for each
    instruction, and optionally ``key``. Arguments that are null count as absent.
    """

    metrics: Sequence[Metric] = (
        Metric("prompt_strict"),
        Metric("instruction_strict"),
        Metric("prompt_loose"),
        Metric("instruction_loose"),
    )
    source: ClassVar[str]

    def __init__(self, items: Iterable[Item]) -> None:
        self.items = tuple(items)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the published file, unchanged.

        Raises:
            DataError: A row is invalid; the message begins with ``file:line:``.
            UsageError: The file can't be read.
        """
        items: list[Item] = []
        lines: dict[str, int] = {}
        for number, row in read_jsonl_lines(path):
            if isinstance(row, DataError):
                raise row
            try:
                item = _read_item(row, number)
                if item.key in lines:
                    raise ValueError(f"the key {item.key!r} occurs in line {lines[item.key]}, too")
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from None
            lines[item.key] = number
            items.append(item)
        if not items:
            raise DataError(f"{path}:1: the file holds no prompt; give the file of {cls.source}")
        return cls(items)

    def score(self, item: Item, answer: str) -> Mapping[str, Sequence[float]]:
        """Return 0 or 1 for the prompt and for each of its instructions, strictly and loosely."""
        strict = [finding.kept for _, finding in _findings(item, answer)]
        variants = [text for text in loose_variants(answer)[1:] if text.strip()]
        loose = [
            kept or any(instruction_of(name).follows(text, arguments) for text in variants)
            for kept, (name, arguments) in zip(strict, _instructions(item), strict=True)
        ]
        return {
            "prompt_strict": [float(all(strict))],
            "instruction_strict": [float(kept) for kept in strict],
            "prompt_loose": [float(all(loose))],
            "instruction_loose": [float(kept) for kept in loose],
        }

    def explain(self, item: Item, answer: str) -> Sequence[str]:
        """Return one line for each instruction that is not followed strictly: what it requires and what was counted."""
        failed = [(name, finding) for name, finding in _findings(item, answer) if not finding.kept]
        return [f"{name}: {finding.expected}, {finding.found}" for name, finding in failed]


def loose_variants(answer: str) -> list[str]:
    """Return the different ones of the eight variants of an answer by which it is scored loosely; first, itself."""
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys([*cut, *(text.replace("*", "") for text in cut)]))


def _findings(item: Item, answer: str) -> list[tuple[str, Finding]]:
    is_blank = not answer.strip()
    return [(name, _finding(name, arguments, answer, is_blank)) for name, arguments in _instructions(item)]


def _finding(name: str, arguments: Arguments, answer: str, is_blank: bool) -> Finding:
    instruction = instruction_of(name)
    return Finding(False, instruction.summary, _BLANK) if is_blank else instruction.check(answer, arguments)


def _instructions(item: Item) -> list[tuple[str, Arguments]]:
    return [(entry["id"], entry["arguments"]) for entry in item.reference["instructions"]]


def _read_item(row: Mapping[str, Any], number: int) -> Item:
    prompt, names, kwargs = row.get("prompt"), row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("'prompt' must be a text that is not blank")
    if not isinstance(names, list) or not names:
        raise ValueError("'instruction_id_list' must be a list of at least one id, such as punctuation:no_comma")
    if not isinstance(kwargs, list) or len(kwargs) != len(names):
        raise ValueError("'kwargs' must be a list of one object for each id of 'instruction_id_list'")
    key = row.get("key", number)
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ValueError("'key' must be a number or a text")
    entries = [_read_entry(name, arguments) for name, arguments in zip(names, kwargs, strict=True)]
    return Item(str(key), prompt, reference={"instructions": entries})


def _read_entry(name: object, arguments: object) -> dict[str, Any]:
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError("'kwargs' must be a list of objects")
    present = {key: value for key, value in (arguments or {}).items() if value is not None}
    instruction = instruction_of(name)
    check_arguments(instruction, present)
    return {"id": instruction.id, "arguments": present}

"""Seed tasks: reading them, and judging whether a file of them is a good start.

As demonstrations two layouts load, and may be mixed: the public one of 175 tasks (``id``, ``name``, ``instruction``,
``instances``, ``is_classification``; Wang et al. 2023, arXiv:2212.10560) and plain ``instruction``, ``input``,
``output``. As tasks to begin with any dataset or finished run does (``load_tasks``). A task may
have a ``verifier`` as well: what code can check answers by (``verifiers/``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.files import read_jsonl_lines
from selfinstruct.common.rows import ANSWERS, LAYOUTS, fields_of, opening
from selfinstruct.common.sources import open_any, open_lines
from selfinstruct.errors import DataError, UsageError
from selfinstruct.filters import tokenize
from selfinstruct.filters.rouge.lcs import f1_array, strings
from selfinstruct.filters.rouge.token_store import Vocabulary
from selfinstruct.records import Instance, Task
from selfinstruct.verifiers import check_verifier, without_nulls

__all__ = ["SeedReport", "check_seeds", "load_seeds", "load_tasks", "read_seeds", "seeds_from_json", "seeds_to_json"]

_SHOWN = 20  # errors in one message: enough to see the pattern

_CANDIDATE = re.compile(r"\d+\.\d+")  # as candidate_id makes them

_Pair: TypeAlias = tuple[float, int, int]  # ROUGE-L F1, line, and the earlier line


def read_seeds(path: Path) -> tuple[list[Task], dict[str, int], list[str]]:
    """All that can be read of a seed file.

    Returns:
        The good tasks, the line of each task's id, and one ``file:line: what`` for each bad line.

    Raises:
        UsageError: The file can't be read.
    """
    tasks: list[Task] = []
    lines: dict[str, int] = {}
    errors: list[str] = []
    for number, value in read_jsonl_lines(path):
        if isinstance(value, DataError):
            errors.append(str(value))
            continue
        try:
            task = _task(value, number)
            if task.id in lines:
                raise ValueError(f"id {task.id[:80]!r} is already that of line {lines[task.id]}")
        except ValueError as error:
            errors.append(f"{path}:{number}: {error}")
            continue
        lines[task.id] = number
        tasks.append(task)
    return tasks, lines, errors


def load_seeds(path: Path) -> list[Task]:
    """The tasks of a seed file.

    Raises:
        UsageError: The file can't be read.
        DataError: Every bad line in one message, or a file without tasks.
    """
    tasks, _, errors = read_seeds(path)
    if errors:
        raise DataError(_listed(errors))
    if not tasks:
        raise DataError(f"{path}: no seed task in it; each line is one JSON object with an instruction")
    return tasks


def _listed(errors: Sequence[str]) -> str:
    more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
    return "\n".join(errors[:_SHOWN]) + more


def load_tasks(path: Path) -> list[Task]:
    """The tasks that a strategy begins with, of whatever asks for something.

    Args:
        path: A run directory (its dataset), JSON lines (gzipped or not), a JSON array, Parquet, a directory saved by
            ``datasets``, or a text file (``.txt``, ``.txt.gz``) of one task a line. Rows are seed tasks or Alpaca rows,
            conversations, prompts or questions, or have a ``text``; with an answer or without.

    Returns:
        A task for each row; of a row with several inputs (``instances``), one for each; of a conversation, its first
        message. An instance's output is "" where there is no answer, and there is none without input and answer. Ids
        are the rows' own where they are good for one, else ``row_12``.

    Raises:
        UsageError: The file can't be read.
        DataError: Every bad row in one message, or a file without rows.
        MissingExtraError: Its kind needs the extra ``data``.
    """
    is_text = path.name.removesuffix(".gz").endswith(".txt")
    source = open_lines(path) if is_text and not path.is_dir() else open_any(path)
    tasks: list[Task] = []
    errors: list[str] = []
    taken: set[str] = set()
    for row in source.rows:
        if isinstance(row, DataError):
            errors.append(str(row))
            continue
        try:
            found = _tasks({key: value for key, value in row.value.items() if value is not None})
        except ValueError as error:
            errors.append(f"{source.where(row.number)}: {error}")
            continue
        for task in found:
            name = _unused(task.id, f"row_{row.number}", taken)
            taken.add(name)
            tasks.append(replace(task, id=name))
    if errors:
        raise DataError(f"{_listed(errors)}\nMend these rows or take them out, then give the same command again.")
    if not tasks:
        raise DataError(f"{path}: no task in it; each row is an object with an instruction, a prompt or messages")
    return tasks


def _unused(own: str, place: str, taken: Collection[str]) -> str:
    """The name of a task: its own, if it has one that no candidate and no task before it has."""
    name = place if not own or _CANDIDATE.fullmatch(own) or own in taken else own
    number = 1
    while name in taken:  # a row's own id may be another one's place, and a row's tasks share theirs
        number += 1
        name = f"{place}_{number}"
    return name


def _tasks(row: Mapping[str, Any]) -> list[Task]:
    """The tasks of a row; ids are its own, or ""."""
    field = next((name for name in LAYOUTS if name in row), None)
    if field is None:
        known = ", ".join(LAYOUTS)
        raise ValueError(f"no task: none of {known}; it has {fields_of(row)}; name the task's field 'instruction'")
    if isinstance(row[field], list):
        asked, answer = opening(field, row[field])
        if not (asked := asked.strip()):
            raise ValueError(f"the first message of {field!r} is empty")
        exchanges = [("", answer.strip())]
    else:
        asked = _text(row, field, required=True)
        exchanges = _exchanges(row, field)
    own = row.get("id")
    task = Task(
        str(own).strip() if isinstance(own, str | int) and not isinstance(own, bool) else "",
        asked,
        is_classification=is_it if isinstance(is_it := row.get("is_classification"), bool) else None,
        name=name if isinstance(name := row.get("name"), str) else "",
        domain=domain if isinstance(domain := row.get("domain"), str) else "",
        verifier=_given_verifier(row),
    )
    return [replace(task, instances=(Instance(*one),) if any(one) else ()) for one in exchanges]


def _exchanges(row: Mapping[str, Any], field: str) -> list[tuple[str, str]]:
    """The inputs of a row, each with the first answer to it."""
    if field == "instruction" and "instances" in row:
        instances = row["instances"]
        if not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
            raise ValueError("'instances' is a list of objects with 'input' and 'output'")
        given = [{key: value for key, value in one.items() if value is not None} for one in instances]
        answers: dict[str, str] = {}
        for one in given:
            answers.setdefault(_text(one, "input"), _text(one, "output"))
        return list(answers.items()) or [("", "")]
    answer = next((name for name in ANSWERS.get(field, ()) if name in row), None)
    return [(_text(row, "input") if field == "instruction" else "", "" if answer is None else _text(row, answer))]


def _given_verifier(row: Mapping[str, Any]) -> Mapping[str, Json] | None:
    verifier = without_nulls(row.get("verifier"))
    try:
        dumps(verifier)
    except (TypeError, ValueError):  # a date, bytes, NaN: columns hold what JSON has no word for
        raise ValueError("'verifier' holds what JSON can't; write numbers and texts") from None
    return None if verifier is None else check_verifier(verifier)


def _task(value: Mapping[str, Any], number: int) -> Task:
    instruction = _text(value, "instruction", required=True)
    if "instances" in value:
        instances = _instances(value["instances"])
    elif "output" in value:
        instances = (Instance(_text(value, "input"), _text(value, "output", required=True)),)
    else:
        raise ValueError("neither 'instances' nor 'output' is given")
    is_classification = value.get("is_classification")
    if not isinstance(is_classification, bool | None):  # 1 equals True, but is a number
        raise ValueError(f"'is_classification' is true or false, found {repr(is_classification)[:80]}")
    name = _text(value, "id") or f"seed_{number}"
    if _CANDIDATE.fullmatch(name):
        raise ValueError(
            f"id {name[:80]!r} is one that a candidate will have; write it otherwise, for example s{name[:80]}"
        )
    verifier = None if value.get("verifier") is None else check_verifier(value["verifier"])
    return Task(name, instruction, instances, is_classification, _text(value, "name"), _text(value, "domain"), verifier)


def _instances(value: Any) -> tuple[Instance, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("'instances' is a list of at least one {input, output}")
    found = []
    for place, item in enumerate(value, start=1):
        if not isinstance(item, dict):
            raise ValueError(f"instance {place} is no object with 'input' and 'output'")
        found.append(Instance(_text(item, "input"), _text(item, "output", required=True)))
    return tuple(found)


def _text(value: Mapping[str, Any], key: str, *, required: bool = False) -> str:
    text = value.get(key, "")
    if not isinstance(text, str):
        raise ValueError(f"{key!r} is a string, found {type(text).__name__}")
    text = text.strip()
    if required and not text:
        raise ValueError(f"{key!r} is missing or empty")
    return text


def seeds_to_json(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Plain JSON of the tasks: what the ledger keeps, and what their digest is taken of."""
    return [
        {
            "id": task.id,
            "name": task.name,
            "domain": task.domain,
            "instruction": task.instruction,
            "instances": [[instance.input, instance.output] for instance in task.instances],
            "is_classification": task.is_classification,
            **({} if task.verifier is None else {"verifier": dict(task.verifier)}),
        }
        for task in tasks
    ]


def seeds_from_json(values: Sequence[Mapping[str, Any]]) -> list[Task]:
    """The inverse of ``seeds_to_json``."""
    return [
        Task(
            value["id"],
            value["instruction"],
            tuple(Instance(*pair) for pair in value["instances"]),
            value["is_classification"],
            value["name"],
            value["domain"],
            value.get("verifier"),
        )
        for value in values
    ]


@dataclass(frozen=True)
class SeedReport:
    """What ``check_seeds`` found.

    Attributes:
        errors: Lines that do not load, as ``file:line: what``.
        warnings: What loads but will harm a run, likewise.
        closest: ROUGE-L F1 of the most similar pair of instructions, and their lines.
    """

    tasks: int
    classification: int
    with_input: int
    instances: int
    domains: Mapping[str, int]
    median_words: int
    closest: tuple[float, int, int]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.errors and not self.warnings and self.tasks > 0


def check_seeds(path: Path, *, threshold: float = 0.7) -> SeedReport:
    """Read a seed file and report on it; pairs of instructions with ROUGE-L F1 of ``threshold`` or more are warned of.

    Raises:
        UsageError: The file can't be read.
    """
    tasks, lines, errors = read_seeds(path)
    if not tasks and not errors:
        raise UsageError(f"{path}: no seed task in it; each line is one JSON object with an instruction")
    warnings = [f"{path}:{lines[task.id]}: {what}" for task in tasks for what in _doubts(task)]
    closest, alike = _compare([task.instruction for task in tasks], [lines[task.id] for task in tasks], threshold)
    for score, line, other in alike:
        warnings.append(f"{path}:{line}: the instruction is like that of line {other} (ROUGE-L {score:.2f})")
    words = sorted(len(task.instruction.split()) for task in tasks)
    return SeedReport(
        tasks=len(tasks),
        classification=sum(task.is_classification is True for task in tasks),
        with_input=sum(any(instance.input for instance in task.instances) for task in tasks),
        instances=sum(len(task.instances) for task in tasks),
        domains=dict(Counter(task.domain for task in tasks if task.domain).most_common()),
        median_words=words[len(words) // 2] if words else 0,
        closest=closest,
        errors=tuple(errors),
        warnings=tuple(warnings),
    )


def _compare(texts: Sequence[str], lines: Sequence[int], threshold: float) -> tuple[_Pair, list[_Pair]]:
    """Every text with all before it; the scores are those of ``rouge_l`` with the tokenizer ``auto``.

    Args:
        lines: Those of the texts, ascending.

    Returns:
        The closest pair, the last one of equals; and, in the order of the texts, all of ``threshold`` or more.
    """
    block = Vocabulary().learn(tokenize(text, "auto") for text in texts)
    rows, sizes = strings(block.tokens, block.offsets), block.sizes
    closest: _Pair = (0.0, 0, 0)
    alike: list[_Pair] = []
    for place in range(1, len(rows)):
        lengths = process.cdist([rows[place]], rows[:place], scorer=LCSseq.similarity, dtype=np.int32)[0]
        scores = f1_array(lengths, np.maximum(sizes[place], 1), np.maximum(sizes[:place], 1))
        best = place - 1 - int(scores[::-1].argmax())
        closest = max(closest, (float(scores[best]), lines[place], lines[best]))
        found = np.flatnonzero(scores >= threshold).tolist()
        alike += [(float(scores[other]), lines[place], lines[other]) for other in found]
    return closest, alike


def _doubts(task: Task) -> list[str]:
    """What loads but makes a poor demonstration."""
    doubts = []
    words = len(task.instruction.split())
    if words > 150:
        doubts.append(f"the instruction has {words} words; candidates of over 150 are rejected")
    if task.instruction.endswith(":"):
        doubts.append("the instruction ends with a colon: the model learns to leave tasks unfinished")
    outputs: dict[str, str] = {}
    for instance in task.instances:
        if instance.input and instance.input == instance.output:
            doubts.append("an instance's output repeats its input")
        if outputs.setdefault(instance.input, instance.output) != instance.output:
            doubts.append("two instances give different outputs for the same input")
    return doubts

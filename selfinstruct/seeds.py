"""Seed tasks: reading seed files, and checking their quality.

``load_seeds`` reads demonstrations in two layouts, which may be mixed: the public one of 175 tasks (``id``, ``name``,
``instruction``, ``instances``, ``is_classification``; Wang et al. 2023, arXiv:2212.10560) and plain ``instruction``,
``input``, ``output``. ``load_tasks`` reads the tasks of any dataset or finished run. A task may have a ``verifier``, by
which code checks its answers (``verifiers/``).
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
from selfinstruct.common.rows import LAYOUTS, answer_field, describe_fields, first_exchange, layout_of
from selfinstruct.common.sources import open_any, open_lines
from selfinstruct.errors import DataError, UsageError
from selfinstruct.filters import tokenize
from selfinstruct.filters.rouge.lcs import f1_array, strings
from selfinstruct.filters.rouge.token_store import Vocabulary
from selfinstruct.filters.text import count_words
from selfinstruct.records import Instance, Task
from selfinstruct.verifiers import check_verifier, without_nulls

__all__ = ["SeedReport", "check_seeds", "load_seeds", "load_tasks", "seeds_from_json", "seeds_to_json"]

_MAX_ERRORS = 20  # errors listed in one message

_CANDIDATE = re.compile(r"\d+\.\d+")  # the form of candidate ids

_Pair: TypeAlias = tuple[float, int, int]  # ROUGE-L F1, line, and the earlier line


def _read_seeds(path: Path) -> tuple[list[Task], dict[str, int], list[str]]:
    """Read all valid tasks of a seed file.

    Returns:
        The valid tasks, the line number by task id, and one ``file:line: error`` for each invalid line.

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
                raise ValueError(f"id {task.id[:80]!r} is already used on line {lines[task.id]}")
        except ValueError as error:
            errors.append(f"{path}:{number}: {error}")
            continue
        lines[task.id] = number
        tasks.append(task)
    return tasks, lines, errors


def load_seeds(path: Path) -> list[Task]:
    """Load the tasks of a seed file.

    Raises:
        UsageError: The file can't be read.
        DataError: The file has invalid lines (one message lists all of them) or no tasks.
    """
    tasks, _, errors = _read_seeds(path)
    if errors:
        raise DataError(_listed(errors))
    if not tasks:
        raise DataError(f"{path}: the file has no seed task; each line must be a JSON object with an instruction")
    return tasks


def _listed(errors: Sequence[str]) -> str:
    more = f"\n... and {len(errors) - _MAX_ERRORS} more" if len(errors) > _MAX_ERRORS else ""
    return "\n".join(errors[:_MAX_ERRORS]) + more


def load_tasks(path: Path) -> list[Task]:
    """Load tasks from any dataset whose rows contain instructions, prompts or questions.

    Args:
        path: A run directory (its dataset is read), JSON lines (optionally gzipped), a JSON array, Parquet, a directory
            saved by ``datasets``, or a text file (``.txt``, ``.txt.gz``) with one task per line. Rows may be seed
            tasks, Alpaca rows, conversations, prompts, questions or have a ``text``, with or without an answer.

    Returns:
        One task per row: for a row with several inputs (``instances``) one per input, for a conversation its first
        message. The output of an instance is "" if the row has no answer; a row without input and answer has no
        instance. A task keeps its row's id if the id is usable and unique; otherwise its id is ``row_12``, say.

    Raises:
        UsageError: The file can't be read.
        DataError: The file has invalid rows (one message lists all of them) or no rows.
        MissingExtraError: The format needs the extra ``data``.
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
            row_tasks = _tasks({key: value for key, value in row.value.items() if value is not None})
        except ValueError as error:
            errors.append(f"{source.where(row.number)}: {error}")
            continue
        for task in row_tasks:
            name = _unused(task.id, f"row_{row.number}", taken)
            taken.add(name)
            tasks.append(replace(task, id=name))
    if errors:
        raise DataError(f"{_listed(errors)}\nFix or remove these rows, then run the same command again.")
    if not tasks:
        raise DataError(
            f"{path}: the file has no task; each row must be an object with an instruction, a prompt or messages"
        )
    return tasks


def _unused(task_id: str, fallback: str, taken: Collection[str]) -> str:
    """Return the task's id, or the fallback if the id is empty, reserved for candidates, or taken."""
    name = fallback if not task_id or _CANDIDATE.fullmatch(task_id) or task_id in taken else task_id
    number = 1
    while name in taken:  # an id may equal another row's fallback, and the tasks of one row share it
        number += 1
        name = f"{fallback}_{number}"
    return name


def _tasks(row: Mapping[str, Any]) -> list[Task]:
    """Return the tasks of a row, with the row's id or "" as their id."""
    field = layout_of(row)
    if field is None:
        layouts = ", ".join(LAYOUTS)
        raise ValueError(
            f"no task: none of {layouts}; it has {describe_fields(row)}; name the task's field 'instruction'"
        )
    if isinstance(row[field], list):
        instruction, answer = first_exchange(field, row[field])
        if not (instruction := instruction.strip()):
            raise ValueError(f"the first message of {field!r} is empty")
        exchanges = [("", answer.strip())]
    else:
        instruction = _text(row, field, required=True)
        exchanges = _exchanges(row, field)
    row_id = row.get("id")
    task = Task(
        str(row_id).strip() if isinstance(row_id, str | int) and not isinstance(row_id, bool) else "",
        instruction,
        is_classification=is_it if isinstance(is_it := row.get("is_classification"), bool) else None,
        name=name if isinstance(name := row.get("name"), str) else "",
        domain=domain if isinstance(domain := row.get("domain"), str) else "",
        verifier=_row_verifier(row),
    )
    return [replace(task, instances=(Instance(*exchange),) if any(exchange) else ()) for exchange in exchanges]


def _exchanges(row: Mapping[str, Any], field: str) -> list[tuple[str, str]]:
    """Return the distinct inputs of a row, each with its first answer."""
    if field == "instruction" and "instances" in row:
        instances = row["instances"]
        if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
            raise ValueError("'instances' must be a list of objects with 'input' and 'output'")
        answers: dict[str, str] = {}
        for instance in instances:
            fields = {key: value for key, value in instance.items() if value is not None}
            answers.setdefault(_text(fields, "input"), _text(fields, "output"))
        return list(answers.items()) or [("", "")]
    answer = answer_field(row, field)
    return [(_text(row, "input") if field == "instruction" else "", "" if answer is None else _text(row, answer))]


def _row_verifier(row: Mapping[str, Any]) -> Mapping[str, Json] | None:
    verifier = without_nulls(row.get("verifier"))
    try:
        dumps(verifier)
    except (TypeError, ValueError):  # a date, bytes or NaN, which columns can hold and JSON can't
        raise ValueError("'verifier' holds a value that JSON can't represent; use numbers and strings") from None
    return None if verifier is None else check_verifier(verifier)


def _task(value: Mapping[str, Any], number: int) -> Task:
    instruction = _text(value, "instruction", required=True)
    if "instances" in value:
        instances = _instances(value["instances"])
    elif "output" in value:
        instances = (Instance(_text(value, "input"), _text(value, "output", required=True)),)
    else:
        raise ValueError("'instances' or 'output' is required")
    is_classification = value.get("is_classification")
    if not isinstance(is_classification, bool | None):  # 1 equals True, but is a number
        raise ValueError(f"'is_classification' must be true or false, found {repr(is_classification)[:80]}")
    name = _text(value, "id") or f"seed_{number}"
    if _CANDIDATE.fullmatch(name):
        raise ValueError(f"id {name[:80]!r} has the form of a candidate id; use another one, for example s{name[:80]}")
    verifier = None if value.get("verifier") is None else check_verifier(value["verifier"])
    return Task(name, instruction, instances, is_classification, _text(value, "name"), _text(value, "domain"), verifier)


def _instances(value: Any) -> tuple[Instance, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("'instances' must be a list of at least one {input, output}")
    instances = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, dict):
            raise ValueError(f"instance {number} is not an object with 'input' and 'output'")
        instances.append(Instance(_text(item, "input"), _text(item, "output", required=True)))
    return tuple(instances)


def _text(value: Mapping[str, Any], key: str, *, required: bool = False) -> str:
    text = value.get(key, "")
    if not isinstance(text, str):
        raise ValueError(f"{key!r} must be a string, found {type(text).__name__}")
    text = text.strip()
    if required and not text:
        raise ValueError(f"{key!r} is missing or empty")
    return text


def seeds_to_json(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Convert tasks to plain JSON, the form that the ledger stores and digests."""
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
    """Rebuild tasks from the JSON that ``seeds_to_json`` returned."""
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
    """The result of ``check_seeds``.

    Attributes:
        errors: Lines that can't be loaded, as ``file:line: error``.
        warnings: Tasks that load but would harm a run, as ``file:line: warning``.
        closest: ROUGE-L F1 of the most similar pair of instructions, and their line numbers.
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
        """Whether the file has tasks, and neither errors nor warnings."""
        return not self.errors and not self.warnings and self.tasks > 0


def check_seeds(path: Path, *, threshold: float = 0.7) -> SeedReport:
    """Check a seed file, warning about pairs of instructions with a ROUGE-L F1 of at least ``threshold``.

    Raises:
        UsageError: The file can't be read, or the threshold is not between 0 and 1.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"threshold {threshold} is not between 0 and 1")
    tasks, lines, errors = _read_seeds(path)
    if not tasks and not errors:
        raise UsageError(f"{path}: the file has no seed task; each line must be a JSON object with an instruction")
    warnings = [f"{path}:{lines[task.id]}: {warning}" for task in tasks for warning in _warnings(task)]
    closest, similar = _compare([task.instruction for task in tasks], [lines[task.id] for task in tasks], threshold)
    for score, line, other in similar:
        warnings.append(f"{path}:{line}: the instruction resembles the one on line {other} (ROUGE-L {score:.2f})")
    words = sorted(count_words(task.instruction) for task in tasks)
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
    """Compare each text with all previous ones by ``rouge_l`` with the tokenizer ``auto``.

    Args:
        lines: Line numbers of the texts, ascending.

    Returns:
        The most similar pair (the last one of several), and all pairs of at least ``threshold`` in the order of the
        texts.
    """
    block = Vocabulary().learn(tokenize(text, "auto") for text in texts)
    rows, sizes = strings(block.tokens, block.offsets), block.sizes
    closest: _Pair = (0.0, 0, 0)
    similar: list[_Pair] = []
    for index in range(1, len(rows)):
        lengths = process.cdist([rows[index]], rows[:index], scorer=LCSseq.similarity, dtype=np.int32)[0]
        scores = f1_array(lengths, np.maximum(sizes[index], 1), np.maximum(sizes[:index], 1))
        best = index - 1 - int(scores[::-1].argmax())
        closest = max(closest, (float(scores[best]), lines[index], lines[best]))
        others = np.flatnonzero(scores >= threshold).tolist()
        similar += [(float(scores[other]), lines[index], lines[other]) for other in others]
    return closest, similar


def _warnings(task: Task) -> list[str]:
    """Return warnings about a task that loads but makes a poor demonstration."""
    warnings = []
    words = count_words(task.instruction)
    if words > 150:
        warnings.append(f"the instruction has {words} words; candidates with more than 150 are rejected")
    if task.instruction.endswith(":"):
        warnings.append("the instruction ends with a colon: the model learns to leave tasks unfinished")
    outputs: dict[str, str] = {}
    for instance in task.instances:
        if instance.input and instance.input == instance.output:
            warnings.append("an instance's output repeats its input")
        if outputs.setdefault(instance.input, instance.output) != instance.output:
            warnings.append("two instances give different outputs for the same input")
    return warnings

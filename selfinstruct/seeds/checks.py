"""Checks of the quality of a seed file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from selfinstruct.errors import UsageError
from selfinstruct.filters import tokenize
from selfinstruct.filters.rouge.lcs import f1_array, strings
from selfinstruct.filters.rouge.token_store import Vocabulary
from selfinstruct.filters.text import count_words
from selfinstruct.records import Task
from selfinstruct.seeds.reading import NO_SEED, read_seed_file

__all__ = ["SeedReport", "check_seeds"]

_Pair: TypeAlias = tuple[float, int, int]  # ROUGE-L F1, line, and the earlier line


@dataclass(frozen=True)
class SeedReport:
    """The result of ``check_seeds``.

    Attributes:
        errors: Lines that can't be loaded, as ``file:line: error``.
        warnings: Tasks that load but would harm a run, as ``file:line: warning``.
        notices: What is left out of the tasks, one sentence for each field.
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
    notices: tuple[str, ...] = ()

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
    seeds = read_seed_file(path)
    tasks, where = seeds.tasks, seeds.where
    if not tasks and not seeds.errors:
        raise UsageError(f"{path}: {NO_SEED}")
    numbers = [seeds.numbers[task.id] for task in tasks]
    warnings = [f"{where(seeds.numbers[task.id])}: {warning}" for task in tasks for warning in _warnings(task)]
    warnings += [
        f"{where(number)}: the input is spelled {text.strip()!r}, which is read as no input; leave it empty"
        for number, text in seeds.empty_inputs
    ]
    closest, similar = _compare([task.instruction for task in tasks], numbers, threshold)
    for score, line, other in similar:
        warnings.append(f"{where(line)}: the instruction resembles the one on line {other} (ROUGE-L {score:.2f})")
    words = sorted(count_words(task.instruction) for task in tasks)
    return SeedReport(
        tasks=len(tasks),
        classification=sum(task.is_classification is True for task in tasks),
        with_input=sum(any(instance.input for instance in task.instances) for task in tasks),
        instances=sum(len(task.instances) for task in tasks),
        domains=dict(Counter(task.domain for task in tasks if task.domain).most_common()),
        median_words=words[len(words) // 2] if words else 0,
        closest=closest,
        errors=tuple(seeds.errors),
        warnings=tuple(warnings),
        notices=seeds.notices,
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

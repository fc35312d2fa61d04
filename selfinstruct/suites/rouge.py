"""The suite ``rouge``: tasks with reference answers, scored by ROUGE-L and by exact match.

The published files of two benchmarks are read as they are: the task files of Super-NaturalInstructions (Wang et al.
2022, arXiv:2204.07705), one JSON object each, and the 252 user-oriented tasks of Self-Instruct (Wang et al. 2023,
arXiv:2212.10560), one JSON object per line.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from selfinstruct.common.codec import loads
from selfinstruct.common.files import read_jsonl_lines, read_text
from selfinstruct.common.formats import user_text
from selfinstruct.errors import DataError
from selfinstruct.suites.base import Item, Metric, Suite

__all__ = ["Rouge"]

_EXAMPLES = 2  # positive examples that a question shows, as in the prompts of Tk-Instruct (arXiv:2204.07705, section 5)
_CLASSIFICATION = frozenset(
    {"textual entailment", "cause effect classification", "coreference resolution", "dialogue act recognition"}
    | {"answerability classification", "word analogy"}
)
"""Categories whose answers are labels, which Super-NaturalInstructions scores by exact match (section 5.1)."""
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Rouge(Suite):
    """Tasks with one or several reference answers.

    ``rouge_l`` is the F-measure of ROUGE-L with stemming, as rouge-score computes it, and ``exact_match`` the equality
    without case, punctuation and repeated spaces; of several references the best one counts. Only tasks with labels
    for answers have an exact match. The instances of a task form a cluster.
    """

    name: ClassVar[str] = "rouge"
    metrics: Sequence[Metric] = (Metric("rouge_l", is_proportion=False), Metric("exact_match"))

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a task file of Super-NaturalInstructions, or JSONL rows with instruction and instances."""
        text = read_text(path)
        task = _object(text)
        if task is not None and "Definition" in task:
            return cls(tuple(_read_task(task, path, text)))
        items: list[Item] = []
        for number, row in read_jsonl_lines(path):
            if isinstance(row, DataError):
                raise row
            try:
                items += _read_row(row, number)
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from None
        return cls(items)

    def score(self, item: Item, answer: str) -> Mapping[str, Sequence[float]]:
        """Return ROUGE-L, and for a task with labels the exact match."""
        references = item.reference["outputs"]
        rouge = max(_rouge_l(reference, answer) for reference in references)
        if not item.reference["is_classification"]:
            return {"rouge_l": (rouge,), "exact_match": ()}
        return {"rouge_l": (rouge,), "exact_match": (float(_matches(references, answer)),)}

    def explain(self, item: Item, answer: str) -> Sequence[str]:
        """Return the ROUGE-L with the nearest reference, unless the answer equals it."""
        references = item.reference["outputs"]
        if _matches(references, answer):
            return ()
        best = max(references, key=lambda reference: _rouge_l(reference, answer))
        return (f"ROUGE-L {_rouge_l(best, answer):.3f} with the nearest reference: {best}",)


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = loads(text)
    except ValueError:  # several lines, or no JSON, which is reported by line
        return None
    return value if isinstance(value, dict) else None


def _read_task(task: Mapping[str, Any], path: Path, text: str) -> Iterator[Item]:
    """Yield the instances of a task file.

    Raises:
        DataError: A field is missing or of the wrong type.
    """
    lines = text.split("\n")

    def error(field: str, problem: str) -> DataError:
        number = next((number for number, line in enumerate(lines, start=1) if f'"{field}"' in line), 1)
        return DataError(f"{path}:{number}: {problem}")

    definition = task["Definition"]
    parts = [definition] if isinstance(definition, str) else definition
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) and part.strip() for part in parts):
        raise error("Definition", "'Definition' must be a text or a list of texts")
    examples, instances = task.get("Positive Examples", []), task.get("Instances")
    if not isinstance(examples, list) or not all(_is_exchange(example, str) for example in examples):
        raise error("Positive Examples", "each of 'Positive Examples' must have the texts 'input' and 'output'")
    if not isinstance(instances, list) or not instances:
        raise error("Instances", "'Instances' is missing or empty")
    shown = [f"Example {number}\nInput: {example['input']}\nOutput: {example['output']}"
             for number, example in enumerate(examples[:_EXAMPLES], start=1)]  # fmt: skip
    categories = task.get("Categories", [])
    is_classification = isinstance(categories, list) and any(
        isinstance(category, str) and category.lower() in _CLASSIFICATION for category in categories
    )
    for index, instance in enumerate(instances):
        if not _is_exchange(instance, list) or not _are_texts(instance["output"]):
            raise error("Instances", f"instance {index + 1} must have the text 'input' and the list of texts 'output'")
        asked = f"Now answer for this input.\nInput: {instance['input']}\nOutput:"
        question = "\n\n".join([*(part.strip() for part in parts), *shown, asked])
        reference = {"outputs": instance["output"], "is_classification": is_classification}
        identifier = instance.get("id")
        key = identifier if isinstance(identifier, str) and identifier else f"{path.stem}-{index}"
        yield Item(key, question, path.stem, reference=reference)


def _read_row(row: Mapping[str, Any], number: int) -> Iterator[Item]:
    """Yield the instances of a row.

    Raises:
        ValueError: A field is missing or of the wrong type.
    """
    instruction, instances = row.get("instruction"), row.get("instances")
    if not isinstance(instruction, str) or not instruction.strip():
        raise ValueError("'instruction' is missing or empty")
    if not isinstance(instances, list) or not instances:
        raise ValueError("'instances' is missing or empty; each has an 'input' and an 'output'")
    identifier = row.get("id")
    name = str(identifier) if isinstance(identifier, str | int) and str(identifier) else f"row_{number}"
    for index, instance in enumerate(instances, start=1):
        outputs = instance.get("output") if isinstance(instance, Mapping) else None
        outputs = [outputs] if isinstance(outputs, str) else outputs
        if not isinstance(instance, Mapping) or not isinstance(instance.get("input", ""), str):
            raise ValueError(f"the input of instance {index} must be a text")
        if not _are_texts(outputs):
            raise ValueError(f"the output of instance {index} must be a text, or a list of texts")
        key = name if len(instances) == 1 else f"{name}.{index}"
        question = user_text(instruction.strip(), instance.get("input", "").strip())
        reference = {"outputs": outputs, "is_classification": row.get("is_classification") is True}
        yield Item(key, question, name, reference=reference)


def _is_exchange(value: object, output: type) -> bool:
    return (
        isinstance(value, Mapping) and isinstance(value.get("input"), str) and isinstance(value.get("output"), output)
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def _rouge_l(reference: str, answer: str) -> float:
    return float(_scorer().score(target=reference, prediction=answer)["rougeL"].fmeasure)


def _matches(references: Sequence[str], answer: str) -> bool:
    return _plain(answer) in map(_plain, references)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.lower().translate(_PUNCTUATION)).strip()

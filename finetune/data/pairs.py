"""Reading of rows as compared answers.

A row holds a prompt in any layout of ``finetune.data.rows``, and its answers in one of these ways:

- ``chosen`` and ``rejected`` (the export of ``selfinstruct``, TRL, UltraFeedback in pairs, HH-RLHF): texts, messages,
  or whole conversations that begin with the prompt. ``rejected`` may be a list of texts;
- a list of answers with scores or ranks (UltraFeedback): objects that hold a text and a number each, or a list of texts
  next to a list of numbers. An answer is compared with every answer of another score.

Only what follows the part that the answers have in common is learnt, never an earlier answer of the conversation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from finetune.data.rows import Example, UnreadRow, dataset_rows, examples_of
from selfinstruct.common.console import plural
from selfinstruct.common.messages import plain_fields, read_messages
from selfinstruct.common.rows import describe_fields
from selfinstruct.errors import DataError, UsageError

__all__ = ["ComparedAnswers", "ComparedExamples", "compared_answers", "read_comparisons", "require_comparisons"]

_MAX_LISTED = 5  # unusable rows that an error message quotes
_PREFERENCE = "preference.jsonl"  # in the dataset folder of a run
_CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
_LISTS = ("completions", "responses", "answers", "candidates", "outputs", "generations")
_ANSWERS = (*_LISTS, "output", "response", "completion", "answer", "solution", "target", "targets", "reply", "chosen",
            "rejected")  # fmt: skip
_TEXTS = ("response", "completion", "answer", "output", "text", "content", "value")
_SCORES = ("overallscore", "score", "rating", "reward", "overallrating", "finegrainedscore")
_RANKS = ("rank", "ranking")
_SCORE_LISTS = ("scores", "ratings", "rewards")
_RANK_LISTS = ("ranks", "rankings")
_OF_ANOTHER_LAYOUT = ("label", "ktotag", "margin")


@dataclass(frozen=True)
class ComparedAnswers:
    """The answers to one prompt.

    Attributes:
        name: Origin of the row: ``file:line``.
        examples: The prompt with each answer. Only turns after their common beginning are trained.
        pairs: Numbers of the preferred and the rejected example of each pair.
    """

    name: str
    examples: tuple[Example, ...]
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ComparedExamples:
    """The comparisons of a dataset.

    Attributes:
        comparisons: In the order of the rows.
        skipped: The rows that can't be used.
        notices: What is left out of the rows that are used, one sentence for each kind.
    """

    comparisons: list[ComparedAnswers] = field(default_factory=list)
    skipped: list[UnreadRow] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def read_comparisons(path_or_name: str) -> ComparedExamples:
    """Read the rows of a dataset.

    Args:
        path_or_name: As for ``finetune.data.rows.read_examples``. Of a run, its preference data is read.

    Raises:
        UsageError: There is no such dataset, it can't be read, or none of its rows compares answers.
        MissingExtraError: The file format needs the extra ``data``.
    """
    result = ComparedExamples()
    unused: Counter[str] = Counter()
    for where, row in dataset_rows(_of_run(path_or_name)):
        if isinstance(row, DataError):
            result.skipped.append(UnreadRow.of_error(row))
            continue
        try:
            result.comparisons.append(compared_answers(row, where))
            unused.update(_unused_parts(plain_fields(row)))
        except ValueError as error:
            result.skipped.append(UnreadRow(where, "unreadable", str(error)))
    if not result.comparisons:
        listed = "".join(f"\n  {message}" for message in result.skipped[:_MAX_LISTED])
        raise UsageError(f"{path_or_name} holds no compared answers{':' if listed else ' (it is empty)'}{listed}")
    result.notices.extend(f"{plural(count, 'row')} {text}" for text, count in unused.items())
    return result


def _of_run(name: str) -> str:
    """Return the preference data of a run of selfinstruct, or of its ``dataset`` folder; any other name unchanged.

    Raises:
        UsageError: The run has no preference data.
    """
    folder = Path(name)
    for path in (folder / "dataset" / _PREFERENCE, folder / _PREFERENCE):
        if path.is_file():
            return str(path)
    if (folder / "run.sqlite").exists():
        raise UsageError(
            f"{name} has no dataset/{_PREFERENCE}; write it by: selfinstruct export {name} --format preference"
        )
    return name


def require_comparisons(path_or_name: str) -> None:
    """Refuse a dataset with rows that can't be used.

    Raises:
        UsageError: There are some; the message lists the first ones. Or as ``read_comparisons``.
    """
    if skipped := read_comparisons(path_or_name).skipped:
        listed = "".join(f"\n  {message}" for message in skipped[:_MAX_LISTED])
        raise UsageError(f"{path_or_name} holds {plural(len(skipped), 'row')} that can't be read:{listed}")


def compared_answers(row: Mapping[str, Any], name: str) -> ComparedAnswers:
    """Return the answers of a row.

    Raises:
        ValueError: The row compares no answers, or a field can't be read; the message does not name the row.
    """
    fields = plain_fields(row)
    if "chosen" in fields and "rejected" in fields:
        rejected = fields["rejected"][1]
        several = isinstance(rejected, list) and rejected and all(isinstance(text, str) for text in rejected)
        answers = [fields["chosen"][1], *(rejected if several else [rejected])]
        pairs = [(0, number) for number in range(1, len(answers))]
    else:
        answers, pairs = _scored(row, fields)
    examples = [_example(row, fields, answer, name) for answer in answers]
    shared = _common_turns(examples)
    pairs = [(one, other) for one, other in pairs if examples[one].turns[shared:] != examples[other].turns[shared:]]
    if not pairs:
        raise ValueError("the chosen answer and the rejected one are the same")
    return ComparedAnswers(name, tuple(_train_after(example, shared) for example in examples), tuple(pairs))


def _example(row: Mapping[str, Any], fields: Mapping[str, tuple[str, Any]], answer: Any, name: str) -> Example:
    """Return the prompt of a row with one answer."""
    copies = [key for key in _CONVERSATIONS if key in fields and _is_answered(*fields[key])]
    removed = {fields[key][0] for key in (*_ANSWERS, *_OF_ANOTHER_LAYOUT, *copies) if key in fields}
    side = {key: value for key, value in row.items() if key not in removed}
    examples = examples_of({**side, "chosen": answer}, name)
    if len(examples) != 1:
        raise ValueError(f"the row holds {len(examples)} tasks; compared answers need exactly one")
    return examples[0]


def _is_answered(name: str, value: Any) -> bool:
    """Return whether messages end with an answer, as a copy of the chosen conversation does and a prompt does not."""
    turns = read_messages(name, value)
    return bool(turns) and turns[-1].role == "assistant"


def _common_turns(examples: Sequence[Example]) -> int:
    """Return the number of turns with which all examples begin.

    Raises:
        ValueError: They differ before an answer.
    """
    shortest = min(len(example.turns) for example in examples)
    turns = zip(*(example.turns[: shortest - 1] for example in examples), strict=True)
    shared = next((index for index, same in enumerate(turns) if any(turn != same[0] for turn in same)), shortest - 1)
    if any(example.turns[shared].role != "assistant" for example in examples):
        raise ValueError("the compared answers are not to the same prompt")
    return shared


def _train_after(example: Example, shared: int) -> Example:
    turns = tuple(replace(turn, trained=turn.trained and index >= shared) for index, turn in enumerate(example.turns))
    return replace(example, turns=turns)


def _scored(
    row: Mapping[str, Any], fields: Mapping[str, tuple[str, Any]]
) -> tuple[list[str], list[tuple[int, int]]]:  # fmt: skip
    """Return the answers that have a score, and the pairs with different scores, the better answer first.

    Raises:
        ValueError: Fewer than two answers have a score, or all scores are equal.
    """
    key = next((key for key in _LISTS if key in fields and isinstance(fields[key][1], list | tuple)), None)
    if key is None:
        raise ValueError(
            f"no answers to compare: neither 'chosen' and 'rejected', nor 'completions' with scores; the row has "
            f"{describe_fields(row)}"
        )
    name, items = fields[key]
    scored = [(text, score) for text, score in _texts_and_scores(items, fields) if text and score is not None]
    if len(scored) < 2:
        raise ValueError(f"{name!r} holds {plural(len(scored), 'answer')} with a score; comparing takes two")
    pairs = []
    for one, other in combinations(range(len(scored)), 2):
        if scored[one][1] != scored[other][1]:
            pairs.append((one, other) if scored[one][1] > scored[other][1] else (other, one))
    if not pairs:
        raise ValueError(f"all answers in {name!r} have the same score")
    return [text for text, _ in scored], pairs


def _texts_and_scores(
    items: Sequence[Any], fields: Mapping[str, tuple[str, Any]]
) -> Iterator[tuple[str, float | None]]:  # fmt: skip
    """Yield each answer of a list with its score; None where it has none. Ranks become negative scores."""
    beside = next((key for key in (*_SCORE_LISTS, *_RANK_LISTS) if key in fields), "")
    numbers = fields[beside][1] if beside else None
    for index, item in enumerate(items):
        if isinstance(item, Mapping):
            inner = plain_fields(item)
            text = next((inner[key][1] for key in _TEXTS if key in inner), "")
            number = next((_number(inner[key][1]) for key in _SCORES if key in inner), None)
            if number is None and (rank := next((_number(inner[key][1]) for key in _RANKS if key in inner), None)):
                number = -rank
        else:
            text, number = item, None
        if number is None and isinstance(numbers, list | tuple) and len(numbers) == len(items):
            number = _number(numbers[index])
            if number is not None and beside in _RANK_LISTS:
                number = -number
        yield (text if isinstance(text, str) else ""), number


def _number(value: Any) -> float | None:
    """Return a value as a finite number; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _unused_parts(fields: Mapping[str, tuple[str, Any]]) -> Iterator[str]:
    """Yield what is left out of a row that is used, or contradicts it."""
    if "margin" in fields:
        yield "with a margin, which is not used"
    scores = [_number(fields[key][1]) for key in ("scorechosen", "scorerejected") if key in fields]
    if len(scores) == 2 and None not in scores and scores[0] < scores[1]:  # type: ignore[operator]  # no None
        yield "whose rejected answer has a higher score than the chosen one; the names decide, not the scores"

"""The split into training and held-out documents: no duplicates, near-duplicates or siblings on both sides."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.data.corpus import Corpus, Document
from finetune.data.rows import Example, examples_of, read_examples
from finetune.data.splitting import Split, split_documents
from selfinstruct.common.resources import builtin_seeds
from selfinstruct.common.rng import Rng
from selfinstruct.filters import group_near_duplicates


def corpus_of(examples: Sequence[Example]) -> Corpus:
    return Corpus.of(Document(np.arange(3, dtype=np.int32), np.array([0, 1, 1], bool), each.name) for each in examples)


def examples_from(*rows: dict[str, Any]) -> list[Example]:
    return [example for number, row in enumerate(rows, start=1) for example in examples_of(row, f"f:{number}")]


def split(examples: Sequence[Example], fraction: float = 0.25, seed: int = 0) -> Split:
    return split_documents(corpus_of(examples), examples, fraction, seed)


WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in ("rn", "st", "lk", "mp")]


def different(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with questions of random words."""
    rng = random.Random(seed)
    return [{"instruction": " ".join(rng.choices(WORDS, k=12)), "output": str(number)} for number in range(count)]


def crossing(examples: Sequence[Example], result: Split) -> int:
    """Number of held-out documents with a near-duplicate or a sibling in training."""
    sides = dict.fromkeys(result.train.names, 0) | dict.fromkeys(result.held_out.names, 1)
    labels = group_near_duplicates([example.turns[-2].content for example in examples])
    tasks = [(label, example.instruction) for label, example in zip(labels, examples, strict=True)]
    trained = {key for each, example in zip(tasks, examples, strict=True) if not sides[example.name] for key in each}
    return sum(
        bool(sides[example.name] and not trained.isdisjoint(each))
        for each, example in zip(tasks, examples, strict=True)
    )


def test_duplicates_and_near_duplicates_stay_together() -> None:
    rows = different(30)
    changed = [{**row, "instruction": row["instruction"].upper() + "!"} for row in rows]
    examples = examples_from(*rows, *rows, *changed)
    for seed in range(5):
        result = split(examples, seed=seed)
        assert (len(result.train), len(result.held_out)) == (69, 21)  # groups of 3, so 7 of them instead of 22.5 rows
        assert crossing(examples, result) == 0
        assert not result.notice


def test_the_instances_of_a_task_stay_together() -> None:
    examples = read_examples(builtin_seeds()).examples
    assert len({example.name.split("#")[0] for example in examples}) < len(examples)
    result = split(examples, 0.1)
    assert crossing(examples, result) == 0
    held_out = {name.split("#")[0] for name in result.held_out.names}
    assert held_out.isdisjoint(name.split("#")[0] for name in result.train.names)
    assert abs(len(result.held_out) - 0.1 * len(examples)) <= 3


def test_rows_with_the_same_instruction_and_conversations_with_the_same_beginning_stay_together() -> None:
    tasks = [
        {"instruction": row["instruction"], "input": text, "output": "x"} for row in different(20) for text in "ab"
    ]
    examples = examples_from(*tasks)
    assert crossing(examples, split(examples)) == 0
    first = [{"role": "user", "content": different(1)[0]["instruction"]}, {"role": "assistant", "content": "Yes."}]
    chats = [{"messages": first * rounds} for rounds in (1, 2, 3)]
    result = split(examples_from(*chats, *different(9, seed=1)))
    assert len({name in result.held_out.names for name in ("f:1", "f:2", "f:3")}) == 1


def test_several_documents_of_a_row_stay_together() -> None:
    examples = examples_from(*different(10))
    corpus = corpus_of([example for example in examples for _ in range(3)])
    result = split_documents(corpus, examples, 0.3, 0)
    assert len(result.held_out) == 9
    assert set(result.held_out.names).isdisjoint(result.train.names)


def test_rows_without_duplicates_are_split_as_at_random() -> None:
    examples = examples_from(*different(40))
    chosen = sorted(Rng("held out", 7).sample(range(40), 10))
    assert list(split(examples, seed=7).held_out.names) == [examples[index].name for index in chosen]
    assert list(split(examples, seed=7).train.names) == [each.name for each in examples if each.name not in
                                                         split(examples, seed=7).held_out.names]  # fmt: skip


def test_one_instruction_with_many_inputs_is_split_by_near_duplicates_and_said() -> None:
    inputs = [row["instruction"] for row in different(20)]
    result = split(examples_from(*({"instruction": "Sort.", "input": text, "output": "x"} for text in inputs)))
    assert len(result.held_out) == 5
    assert result.notice == "most rows have the same instruction, so that held-out rows have it too"


def test_rows_that_are_all_near_duplicates_are_split_by_equal_questions_and_said() -> None:
    prefix = "Translate the following sentence from English into Polish, and keep the tone of the original. Sentence: "
    rows = [{"prompt": f"{prefix}{number}", "completion": "x"} for number in range(20)]
    result = split(examples_from(*rows, *rows))
    assert result.notice == "most rows have a near-duplicate of the same question, so that held-out rows have it too"
    assert {int(name.split(":")[1]) % 20 for name in result.held_out.names}.isdisjoint(
        int(name.split(":")[1]) % 20 for name in result.train.names
    )


@pytest.mark.parametrize("count", [1, 2, 8])
def test_equal_rows_are_never_split(count: int) -> None:
    result = split(examples_from(*different(1) * count))
    assert (len(result.train), len(result.held_out)) == (count, 0)
    assert bool(result.notice) == (count > 1)


def test_nothing_is_held_out_without_a_fraction_and_a_row_is_left_for_training() -> None:
    examples = examples_from(*different(3))
    assert (len(split(examples, 0.0).train), len(split(examples, 0.0).held_out)) == (3, 0)
    assert (len(split(examples, 0.01).train), len(split(examples, 0.01).held_out)) == (2, 1)
    assert (len(split(examples, 0.9).train), len(split(examples, 0.9).held_out)) == (1, 2)


def test_tasks_that_the_rows_contain_are_left_out(tmp_path: Path) -> None:
    tasks = read_examples(builtin_seeds()).examples
    rows = [json.loads(line) for line in builtin_seeds().read_text().splitlines()][:30]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = read_examples(path).examples
    known = {example.instruction for example in examples}
    result = split_documents(corpus_of(examples), examples, 0.0, 0, tasks)
    assert len(result.train) == len(examples)
    assert {task.instruction for task in result.tasks}.isdisjoint(known)
    assert 140 < len(result.tasks) < len(tasks) - len(examples) + 1
    assert split_documents(corpus_of(tasks), tasks, 0.0, 0, tasks).tasks == []

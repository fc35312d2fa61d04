"""The split into training and held-out documents, which separates no row from its duplicates and siblings.

A loss on a held-out row says little if the model was trained on nearly the same row, so rows are split by groups.
A group holds rows whose questions are near-duplicates, rows with the same instruction, and instances of the same task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune.data.corpus import Corpus
from finetune.data.rows import Example
from selfinstruct.common.groups import draw_groups, join_groups, members_of
from selfinstruct.filters import group_near_duplicates

__all__ = ["Split", "split_documents"]

_INSTANCE = re.compile(r"(.*(?::|: row )\d+)#\d+")  # the name of an instance: origin of the row, and its number


@dataclass(frozen=True)
class Split:
    """Documents for training and held-out ones, each in the original order.

    Attributes:
        tasks: The tasks that no example has.
        notice: What the split does not separate, and why; "" for nothing.
    """

    train: Corpus
    held_out: Corpus
    tasks: list[Example]
    notice: str = ""


def split_documents(
    corpus: Corpus, examples: Sequence[Example], fraction: float, seed: int, tasks: Sequence[Example] = ()
) -> Split:
    """Split documents at random by groups of their examples.

    About the fraction is held out: at least one group, and never the last one. Data that is a single group, such as one
    instruction with many inputs, is split by near-duplicates alone, and if need be by equal questions. The notice says
    so.

    Args:
        corpus: Documents with the names of their examples.
        examples: All examples, and perhaps more.
        fraction: Fraction of the documents to hold out.
        seed: Seed of the draw.
        tasks: Examples to measure the model on besides.
    """
    names = set(corpus.names)
    examples = [example for example in examples if example.name in names]
    count = min(max(round(fraction * len(corpus)), 1), len(corpus) - 1) if fraction else 0
    if count < 1 and not tasks:
        return Split(corpus, corpus.subset([]), [])
    others = list(tasks)
    for labels, shared in _levels([*examples, *tasks]):
        label_of = {example.name: label for example, label in zip(examples, labels, strict=False)}
        if not shared:
            known = set(label_of.values())
            others = [task for task, label in zip(tasks, labels[len(examples) :], strict=True) if label not in known]
        groups = members_of([label_of[name] for name in corpus.names])
        held_out = draw_groups(groups, count, seed) if count > 0 else []
        if 2 * len(held_out) >= count:
            train = sorted(set(range(len(corpus))) - set(held_out))
            notice = f"most rows have {shared}, so that held-out rows have it too" if shared else ""
            return Split(corpus.subset(train), corpus.subset(held_out), others, notice)
    return Split(corpus, corpus.subset([]), others, "no rows are held out: nearly all have the same question")


def _levels(examples: Sequence[Example]) -> Iterator[tuple[list[int], str]]:
    """Yield the group of each example, by fewer and fewer criteria, and what groups no longer separate."""
    questions = [_question(example) for example in examples]
    near = group_near_duplicates(questions)
    tasks = [match[1] if (match := _INSTANCE.fullmatch(example.name)) else example.name for example in examples]
    yield join_groups(near, tasks, [_plain(example.instruction or "") or example.name for example in examples]), ""
    yield join_groups(near, tasks), "the same instruction"
    yield join_groups([_plain(question) for question in questions], tasks), "a near-duplicate of the same question"


def _question(example: Example) -> str:
    """Return the first question of a conversation; without one, its first message."""
    return next((turn.content for turn in example.turns if turn.role == "user"), example.turns[0].content)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())

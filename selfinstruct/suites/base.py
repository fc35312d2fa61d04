"""The contract of a suite: questions, and how an answer to each is scored.

A suite is read from its file and is immutable. Scoring is a pure function of item and answer: it uses no network, no
clock and no random numbers, so that the scores of an evaluation can be recomputed from its ledger.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

__all__ = ["Item", "Metric", "Suite"]


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a suite.

    Attributes:
        key: Identifies the item in its suite.
        question: The text that the model is asked, as the only user message.
        cluster: Items of one cluster are related (the family of a task), so that their scores are not independent; by
            default the item alone.
        system: System prompt; "" for none.
        reference: What the suite needs to score an answer.
    """

    key: str
    question: str
    cluster: str = ""
    system: str = ""
    reference: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that a suite computes.

    Attributes:
        name: Short name, such as ``prompt_strict``.
        is_proportion: Whether each value is 0 or 1, so that the mean is a proportion.
    """

    name: str
    is_proportion: bool = True


class Suite(ABC):
    """The items of a file and the metrics of their answers.

    Attributes:
        name: Name of the kind of suite, as in ``--suite ifeval=FILE``.
        version: Version of its reader and its scoring, increased whenever the same file and answers would give other
            items or scores. It is part of the identity of a run.
        metrics: The first is the headline.
        items: In the order of the file.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    metrics: Sequence[Metric]
    items: Sequence[Item]

    @classmethod
    @abstractmethod
    def read(cls, path: Path) -> Self:
        """Read the file of a suite, unchanged as it was published.

        Raises:
            DataError: A row is invalid; the message begins with ``file:line:``.
        """

    @abstractmethod
    def score(self, item: Item, answer: str) -> Mapping[str, Sequence[float]]:
        """Return the values of each metric for an answer, which may be empty.

        A metric may have several values for an item, such as one for each instruction of a prompt. They count one by
        one, and belong to the item's cluster.
        """

    @abstractmethod
    def explain(self, item: Item, answer: str) -> Sequence[str]:
        """Return one line for each requirement that an answer fails, for ``explain``."""

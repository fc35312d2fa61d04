"""The steps of a row's chain of quality requests, as the context of each request records them.

A fork finds the answer to a request with the same step among the requests of its source.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CandidatesStep", "JudgeStep", "RewardStep", "TagsStep"]


@dataclass(frozen=True, slots=True)
class CandidatesStep:
    """Part of the context of the stage ``candidates``: the number of requested answers."""

    count: int


@dataclass(frozen=True, slots=True)
class JudgeStep:
    """Part of the context of the stage ``judge``.

    Attributes:
        answer: Index of the judged answer.
        scale: The lowest and the highest score.
    """

    answer: int
    rubric: str
    scale: tuple[int, int]


@dataclass(frozen=True, slots=True)
class RewardStep:
    """Part of the context of the stage ``reward``.

    Attributes:
        answer: Index of the scored answer.
        model: Identity of the reward model, so that a fork with another one requests its own scores.
    """

    answer: int
    model: str


@dataclass(frozen=True, slots=True)
class TagsStep:
    """Part of the context of the stage ``tags``, which needs no data."""

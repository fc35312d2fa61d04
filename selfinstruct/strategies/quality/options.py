"""The section ``quality`` of a configuration: requests about each row, for any strategy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from selfinstruct.common.config import ADDED, NAMES_FILE
from selfinstruct.strategies.shared.stage import Stage

__all__ = ["REWARD", "RUBRICS", "Criteria", "JudgeOptions", "QualityOptions", "RewardJudgeOptions"]

RUBRICS = "quality/rubrics"
"""The folder of templates with one file for each rubric."""

REWARD = "reward"
"""The name under which a reward model's score of an answer is kept."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_MAX_SCORE = 100  # a schema lists every score


@dataclass(frozen=True)
class JudgeOptions:
    """A judge that scores each answer by each rubric; the mean decides (AlpaGasus, arXiv:2307.08701).

    Attributes:
        rubrics: Names of the rubrics, one request for each: templates ``quality/rubrics/NAME.txt``.
        scale: The lowest and the highest score, integers from 1.
        threshold: Minimum mean of a kept answer. AlpaGasus keeps answers with 4.5 of 5 or more, by a single rubric.
    """

    rubrics: tuple[str, ...] = ("helpfulness", "correctness", "clarity")
    scale: tuple[int, int] = (1, 5)
    threshold: float = 4.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not self.rubrics:
            raise ValueError("rubrics must name at least one rubric, such as helpfulness")
        if len(set(self.rubrics)) < len(self.rubrics):
            raise ValueError("rubrics must differ")
        if wrong := [name for name in self.rubrics if not _NAME.fullmatch(name)]:
            raise ValueError(f"{wrong[0]!r} is not the name of a rubric: use letters, digits, - and _")
        if not 1 <= low < high <= _MAX_SCORE:
            raise ValueError(f"scale must be two numbers from 1 to {_MAX_SCORE}, the lower one first")
        if not low <= self.threshold <= high:
            raise ValueError(f"threshold {self.threshold:g} is outside the scale, which is {low} to {high}")


@dataclass(frozen=True)
class RewardJudgeOptions:
    """A reward model that scores each answer, in place of a judge with rubrics.

    Attributes:
        model: Its directory, or its name in the hub.
        threshold: Minimum reward of a kept answer; null for none. Only rewards of the same model can be compared.
        identity: Filled in when the run is made: the SHA-256 of the model's files, or its name in the hub.
    """

    model: str = field(metadata=NAMES_FILE)
    threshold: float | None = None
    identity: str = ""

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model must name a reward model: a directory, or a model of the hub")


@dataclass(frozen=True, slots=True)
class Criteria:
    """The scores by which answers are compared.

    Attributes:
        names: The scores of an answer, whose mean decides; none if answers are only verified.
        threshold: Lowest mean of a kept answer; None for no limit.
        of_wrong: Score of an answer that fails its verifier and is not judged, below any other; None if scores have no
            lower end.
        digits: Decimals of a displayed mean.
    """

    names: tuple[str, ...] = ()
    threshold: float | None = None
    of_wrong: float | None = 0.0
    digits: int = 3


@dataclass(frozen=True)
class QualityOptions:
    """The requests about each row before it enters the dataset; see docs/quality.md.

    Attributes:
        best_of: Number of answers to each row's question, its own included, of which the best is kept (rejection
            sampling; Llama 3, arXiv:2407.21783, section 4.2.2). 1 switches it off.
        judge: The judge that scores the answers: null for none, {} for a judge with the defaults below.
        reward: A reward model that scores the answers instead of a judge: null for none.
        pairs: Keep the worst answer together with the best, for preference data (export --format preference).
        tags: Request category, difficulty and language of each row's question.
        structured: Request scores and tags as JSON by schema, where the backend supports it (docs/structured.md).
        candidates: The stage of further answers.
        judging: The stage of scores. It leaves room for the thoughts of a model that reasons; a raw prompt is limited
            to 256 tokens.
        tagging: The stage of tags; a raw prompt is limited to 60 tokens.
    """

    best_of: int = 1
    judge: JudgeOptions | None = None
    pairs: bool = False
    tags: bool = False
    structured: bool = False
    candidates: Stage = field(default_factory=lambda: Stage(max_tokens=1024, temperature=0.8, top_p=0.95))
    judging: Stage = field(default_factory=lambda: Stage(max_tokens=1024, temperature=0.0))
    tagging: Stage = field(default_factory=lambda: Stage(max_tokens=1024, temperature=0.0))
    reward: RewardJudgeOptions | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        if self.best_of < 1:
            raise ValueError("best_of must be 1 or more")
        if self.pairs and self.best_of == 1:
            raise ValueError("pairs need several answers: set best_of to 2 or more")
        if self.judge is not None and self.reward is not None:
            raise ValueError("judge and reward both score the answers: set one of them to null")
        if self.best_of == 1 and not self.scores and not self.tags:
            raise ValueError("quality requests nothing: set best_of, judge, reward or tags, or set quality to null")

    @property
    def scores(self) -> bool:
        """Whether answers get scores, by a judge or a reward model."""
        return self.judge is not None or self.reward is not None

    @property
    def rubrics(self) -> tuple[str, ...]:
        """The rubrics of the judge; none without a judge."""
        return () if self.judge is None else self.judge.rubrics

    @property
    def criteria(self) -> Criteria:
        """The scores by which answers are compared."""
        if self.reward is not None:
            return Criteria((REWARD,), self.reward.threshold, of_wrong=None, digits=4)
        return Criteria() if self.judge is None else Criteria(self.judge.rubrics, self.judge.threshold)

"""What a run may set for the quality of its rows, whatever its strategy: the section ``quality``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from selfinstruct.strategies.shared.stage import Stage

__all__ = ["RUBRICS", "JudgeOptions", "QualityOptions"]

RUBRICS = "quality/rubrics"
"""The folder of templates that holds one for each rubric."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_WIDEST = 100  # the highest score: a schema names each


@dataclass(frozen=True)
class JudgeOptions:
    """Scores by a model, one for each answer and rubric; their mean decides (AlpaGasus, arXiv:2307.08701).

    Attributes:
        rubrics: What is judged, one request each: templates ``quality/rubrics/NAME.txt``.
        scale: The lowest and the highest score, whole numbers from 1 on.
        threshold: Least mean of an answer that is kept. AlpaGasus keeps from 4.5 of 5 on, by a single rubric.
    """

    rubrics: tuple[str, ...] = ("helpfulness", "correctness", "clarity")
    scale: tuple[int, int] = (1, 5)
    threshold: float = 4.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not self.rubrics:
            raise ValueError("rubrics must name one or more, such as helpfulness")
        if len(set(self.rubrics)) < len(self.rubrics):
            raise ValueError("rubrics must differ")
        if wrong := [name for name in self.rubrics if not _NAME.fullmatch(name)]:
            raise ValueError(f"a rubric's name is of letters, digits, - and _, which {wrong[0]!r} is not")
        if not 1 <= low < high <= _WIDEST:
            raise ValueError(f"scale must be two numbers from 1 to {_WIDEST}, the lower one first")
        if not low <= self.threshold <= high:
            raise ValueError(f"threshold {self.threshold:g} is outside the scale, which is {low} to {high}")


@dataclass(frozen=True)
class QualityOptions:
    """What is asked about each row before it is one; see docs/quality.md.

    Attributes:
        best_of: K: so many answers to each row's question, its own included, of which the best is kept (rejection
            sampling; Llama 3, arXiv:2407.21783, section 4.2.2). 1 is off.
        judge: Who scores the answers: null for nobody, {} for a judge with the defaults below.
        pairs: Keep the worst answer beside the best, for preference data (export --format preference).
        tags: Ask for category, difficulty and language of each row's question.
        structured: Ask the judge and for tags as JSON by schema, where the backend can be asked for it
            (docs/structured.md).
        candidates: How further answers are drawn.
        judging: How the judge is asked. There is room for the thoughts of a model that reasons; a raw prompt is given
            256 tokens of it at most.
        tagging: How tags are asked for; a raw prompt is given 60 tokens at most.
    """

    best_of: int = 1
    judge: JudgeOptions | None = None
    pairs: bool = False
    tags: bool = False
    structured: bool = False
    candidates: Stage = field(default_factory=lambda: Stage(max_tokens=1024, temperature=0.8, top_p=0.95))
    judging: Stage = field(default_factory=lambda: Stage(max_tokens=1024, temperature=0.0))
    tagging: Stage = field(default_factory=lambda: Stage(max_tokens=1024, temperature=0.0))

    def __post_init__(self) -> None:
        if self.best_of < 1:
            raise ValueError("best_of must be 1 or more")
        if self.pairs and self.best_of == 1:
            raise ValueError("pairs are made of the best and the worst of several answers: set best_of to 2 or more")
        if self.best_of == 1 and self.judge is None and not self.tags:
            raise ValueError("nothing is asked for: set best_of, judge or tags, or quality to null")

    @property
    def rubrics(self) -> tuple[str, ...]:
        """Those of the judge; none without one."""
        return () if self.judge is None else self.judge.rubrics

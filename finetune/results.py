"""What a training run, or its preview, returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.data.plan import EpochPlan
from finetune.data.render import Renderer, RenderResult
from finetune.record import Measurements
from finetune.training.estimate import CostEstimate

__all__ = ["Preview", "TrainingResult"]


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training run.

    Attributes:
        folder: Folder of the run, which holds the model.
        steps: Completed optimizer steps.
        before, after: Held-out losses and sample answers before and after training; None if the run is not complete.
        prompts: Prompts of the sample answers.
        seconds: Time spent on training steps.
        complete: False after an interruption; repeat the call to resume.
        was_complete: Whether the run was complete before this call.
        kept_step: With early stopping, the step whose weights the model has; None if it has the last ones.
    """

    folder: Path
    steps: int
    before: Measurements | None = None
    after: Measurements | None = None
    prompts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = True
    was_complete: bool = False
    kept_step: int | None = None

    @classmethod
    def of_complete(
        cls, out: Path, record: dict[str, Any], prompts: list[str], *, was_complete: bool = False
    ) -> TrainingResult:
        """Build the result of a complete run from its record."""
        before, after = Measurements.from_json(record["before"]), Measurements.from_json(record["after"])
        return cls(
            out, record["steps"], before, after, prompts, record["seconds"], was_complete=was_complete,
            kept_step=record.get("kept_step"),
        )  # fmt: skip


@dataclass(frozen=True)
class Preview:
    """The preview of a training run.

    Attributes:
        rendered: The documents, and the rows that were dropped.
        renderer: The renderer, which can show a document in pieces.
        plan: The steps.
        skipped: A message for each row that could not be read.
        estimate: The predicted cost.
        notices: What is left out of the rows that are used.
    """

    rendered: RenderResult
    renderer: Renderer
    plan: EpochPlan
    skipped: list[str]
    estimate: CostEstimate
    notices: Sequence[str] = ()

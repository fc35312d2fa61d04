"""Progress of a training run: written by the run, read by its display."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["TrainingProgress"]

Phase = Literal["loading", "reading", "reference", "evaluating", "answering", "training", "saving", "done"]


@dataclass
class TrainingProgress:
    """The current state of a run.

    Attributes:
        phase: What the run is doing.
        step, steps: Completed optimizer steps, and their total.
        epoch: Completed epochs, as a fraction.
        loss: Mean loss per supervised token over the steps since the previous log line.
        tokens_per_second: Document tokens per second since the previous log line, without padding.
        mfu: Model FLOPs utilisation; None if the GPU's peak is not known.
        seconds_left: Estimated remaining training time; None before the first log line.
        notice: A short note on something unusual.
    """

    phase: Literal["loading", "reading", "reference", "evaluating", "answering", "training", "saving", "done"] = (
        "loading"
    )
    step: int = 0
    steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds_left: float | None = None
    notice: str = ""

"""Where a training run is: written by the run, read by whatever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["TrainingProgress"]


@dataclass
class TrainingProgress:
    """A run at a glance.

    Attributes:
        phase: What it is at.
        step, steps: Optimizer steps made, and all of them.
        epoch: Epochs seen, with a fraction.
        loss: Mean loss of the supervised tokens of the last logged steps.
        tokens_per_second: Documents' tokens trained on, per second, since the last line; filler is not counted.
        mfu: Share of the GPU's peak arithmetic that this makes use of; None where the peak is not known.
        seconds_left: Of training, at the present speed; None before there is one.
        notice: A word on something unusual.
    """

    phase: Literal["loading", "reading", "evaluating", "answering", "training", "saving", "done"] = "loading"
    step: int = 0
    steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds_left: float | None = None
    notice: str = ""

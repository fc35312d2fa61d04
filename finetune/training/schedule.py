"""The learning rate at each step."""

from __future__ import annotations

import math

from finetune.options import Options

__all__ = ["learning_rate"]


def learning_rate(step: int, steps: int, options: Options) -> float:
    """The rate of step ``step`` (from 0) of ``steps``.

    It rises in a line from 0 over the first ``ceil(warmup * steps)`` steps, then falls along half a cosine or a line
    to ``min_rate`` times the peak, which it would reach at step ``steps``. These are the rates of the schedules of
    transformers, so that a recipe written for them means the same here.
    """
    warmup = math.ceil(options.warmup * steps)
    if step < warmup:
        return options.learning_rate * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    fall = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return options.learning_rate * (options.min_rate + (1 - options.min_rate) * fall[options.schedule])

"""Learning rate schedule."""

from __future__ import annotations

import math

from finetune.options import TrainingOptions

__all__ = ["learning_rate"]


def learning_rate(step: int, steps: int, options: TrainingOptions) -> float:
    """Return the learning rate of step ``step`` (from 0) of ``steps``.

    The rate rises linearly from 0 over the first ``ceil(warmup * steps)`` steps, but at most over all except the last,
    so that a run of one step has the peak rate. It then falls along half a cosine or a line to ``min_rate`` times the
    peak, which it would reach at step ``steps``. Apart from the exception, these are the schedules of transformers, so
    that recipes written for them carry over.
    """
    warmup = min(math.ceil(options.warmup * steps), steps - 1)
    if step < warmup:
        return options.learning_rate * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    decay = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return options.learning_rate * (options.min_rate + (1 - options.min_rate) * decay[options.schedule])

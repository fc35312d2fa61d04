"""What a user should know before a run trains for hours: too few steps, too little memory or disk, idle GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from finetune.data.plan import FEW_STEPS, EpochPlan
from finetune.data.training_data import TrainingData
from finetune.training.checkpoint import describe_shortage
from finetune.training.distributed import World
from finetune.training.estimate import CostEstimate
from selfinstruct.common.console import plural

__all__ = ["warnings"]


def warnings(
    out: Path, data: TrainingData, plan: EpochPlan, estimate: CostEstimate, world: World, *, command: str = "train"
) -> Iterator[str]:
    """Yield a line for each problem of a run in the folder ``out``, which ``finetune`` ``command`` started."""
    options = plan.options
    yield from data.warnings()
    if plan.steps < FEW_STEPS:
        few = f"only {plural(plan.steps, 'step')}: too few to learn much"
        yield f"{few}; more rows, more epochs or a smaller batch give more"
    if not estimate.fits or (estimate.recompute and options.recompute is None):
        yield estimate.describe()
    if options.checkpoint_every and (shortage := describe_shortage(out, estimate.checkpoint, options.keep)):
        yield shortage
    count = torch.cuda.device_count()
    if world.world_size == 1 and count > 1:
        on_all = f"torchrun --nproc-per-node {count} -m finetune {command} ..."
        yield f"one of {count} GPUs is used; to use all: {on_all}"

"""Predicted cost of a run on this machine: memory, and arithmetic per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from finetune.data.plan import EpochPlan
from finetune.model.footprint import (
    ModelFootprint,
    describe_memory,
    fits_in_memory,
    measure_footprint,
    mfu,
    total_memory,
)
from finetune.training.setup import RuntimeSetup

__all__ = ["CostEstimate"]


@dataclass(frozen=True)
class CostEstimate:
    """The predicted cost of a run.

    Attributes:
        memory: Bytes by part on one device; empty if the model can't be measured.
        available: Bytes of memory of a device; None if that is unknown.
        recompute: Whether activations are recomputed in the backward pass: as set, or if they would not fit otherwise.
        flops: Floating-point operations of a training step per token; None if the model can't be measured.
        device: Name of the device.
        world_size: Number of devices.
    """

    memory: dict[str, int]
    available: int | None
    recompute: bool
    flops: float | None
    device: str
    world_size: int

    @classmethod
    def of(cls, config: Any, plan: EpochPlan, setup: RuntimeSetup) -> CostEstimate:
        """Predict the cost from a model's configuration and the steps of a run."""
        options, corpus, device = plan.options, plan.corpus.documents, setup.device
        world_size = plan.packing.world_size
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        available = total_memory(device)
        if available is not None and device.type != "cuda":
            available //= world_size  # processes share the memory of the machine
        footprint = measure_footprint(config, dtype=setup.dtype, lora=options.lora)
        if footprint is None:
            return cls({}, available, bool(options.recompute), None, name, world_size)
        memory = _memory(footprint, plan, recompute=False)
        recompute = not fits_in_memory(memory, available) if options.recompute is None else options.recompute
        if recompute:
            memory = _memory(footprint, plan, recompute=True)
        # A token attends within its own document, so that documents count in proportion to their length.
        length = float((corpus.lengths**2).sum() / corpus.lengths.sum())
        flops = footprint.flops_per_token(length, supervised=float(corpus.supervised.mean()))
        return cls(memory, available, recompute, flops, name, world_size)

    def describe(self) -> str:
        """Describe the predicted memory, with remedies if it does not fit."""
        note = ", activations recomputed in the backward pass" if self.recompute else ""
        return f"predicted memory{note}: {describe_memory(self.memory, self.available, recompute=self.recompute)}"

    @property
    def fits(self) -> bool:
        """Whether the predicted memory fits, as far as that is known."""
        return fits_in_memory(self.memory, self.available)

    def mfu(self, tokens_per_second: float) -> float | None:
        """Return the model FLOPs utilisation of all devices together; None if their peak is not known."""
        return mfu(tokens_per_second / self.world_size, self.flops, self.device)


def _memory(footprint: ModelFootprint, plan: EpochPlan, *, recompute: bool) -> dict[str, int]:
    supervised = float(plan.corpus.documents.supervised.mean())
    parts = footprint.memory(tokens=plan.packing.budget, supervised=supervised, recompute=recompute)
    sharded = ("weights", "gradients", "optimizer")
    return {name: size // (plan.packing.world_size if name in sharded else 1) for name, size in parts.items()}

"""Predicted cost of a run on this machine: memory, and arithmetic per token; the sizes that fit into the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune.data.plan import Items, require_supervised
from finetune.model.footprint import (
    ModelFootprint,
    describe_memory,
    fits_in_memory,
    measure_footprint,
    mfu,
    total_memory,
)
from finetune.model.loss import chunk_bytes
from finetune.options import TrainingOptions
from finetune.training.setup import RuntimeSetup

__all__ = ["CostEstimate"]

# Largest and smallest micro-batch that is chosen, in tokens. With smaller ones a device is not busy, and recomputation
# of the activations costs less.
_BUDGETS = {"cuda": (65_536, 2_048), "cpu": (2_048, 512)}
_UNMEASURED_BUDGET = {"cuda": 32_768, "cpu": 2_048}
# What compiled layers save, as a fraction of what eager ones do: Inductor recomputes elementwise operations anyway.
_COMPILED_SHARE = 0.75
_ACTIVATION_BUDGET = 0.8  # Inductor reaches this share of that by recomputing without a matrix product


@dataclass(frozen=True)
class _Choice:
    """Settings that trade memory for time."""

    budget: int
    recompute: bool = False
    activation_budget: float = 1.0


@dataclass(frozen=True)
class CostEstimate:
    """The predicted cost of a run, and the settings that were chosen for it.

    Attributes:
        memory: Bytes by part on one device; empty if the model can't be measured.
        available: Bytes of memory of a device; None if that is unknown.
        recompute: Whether activations are recomputed in the backward pass: as set, or if they would not fit otherwise,
            not even with the smallest micro-batch.
        flops: Floating-point operations of a training step per token; None if the model can't be measured.
        device: Name of the device.
        world_size: Number of devices.
        budget: Tokens of a micro-batch: as set, or as many as fit.
        activation_budget: Share of the activations that compiled layers keep.
    """

    memory: dict[str, int]
    available: int | None
    recompute: bool
    flops: float | None
    device: str
    world_size: int
    budget: int = 0
    activation_budget: float = 1.0

    @classmethod
    def of(
        cls, config: Any, corpus: Items, options: TrainingOptions, setup: RuntimeSetup, *, world_size: int = 1
    ) -> CostEstimate:
        """Predict the cost from a model's configuration and the items, and choose the settings left open.

        A smaller micro-batch is preferred to recomputation, which repeats a third of the arithmetic.

        Raises:
            UsageError: No token of the corpus is supervised.
        """
        documents = corpus.documents
        require_supervised(documents)
        device = setup.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        available = total_memory(device)
        if available is not None and device.type != "cuda":
            available //= world_size  # processes share the memory of the machine
        footprint = measure_footprint(
            config, dtype=setup.dtype, lora=options.lora, repeated=setup.attention != "varlen"
        )
        if footprint is None:
            budget = options.micro_batch_tokens or _UNMEASURED_BUDGET[device.type]
            return cls({}, available, bool(options.recompute), None, name, world_size, budget)
        chunk = chunk_bytes(available if device.type == "cuda" else None)
        for choice in _choices(corpus, options, setup):
            memory = _memory(footprint, corpus, options, choice, setup, chunk, world_size)
            if fits_in_memory(memory, available):
                break
        # A token attends within its own document, so that documents count in proportion to their length.
        length = float((documents.lengths**2).sum() / documents.lengths.sum())
        flops = footprint.flops_per_token(length, supervised=float(documents.supervised.mean()))
        return cls(
            memory, available, choice.recompute, flops, name, world_size, choice.budget, choice.activation_budget
        )

    def describe(self) -> str:
        """Describe the predicted memory, with remedies if it does not fit."""
        note = ", activations recomputed in the backward pass" if self.recompute else ""
        return f"predicted memory{note}: {describe_memory(self.memory, self.available, recompute=self.recompute)}"

    @property
    def fits(self) -> bool:
        """Whether the predicted memory fits, as far as that is known."""
        return fits_in_memory(self.memory, self.available)

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint: AdamW's state, and the trained weights, which are as large as their gradients."""
        return sum(self.memory.get(name, 0) for name in ("gradients", "optimizer")) * self.world_size

    def mfu(self, tokens_per_second: float) -> float | None:
        """Return the model FLOPs utilisation of all devices together; None if their peak is not known."""
        return mfu(tokens_per_second / self.world_size, self.flops, self.device)


def _choices(corpus: Items, options: TrainingOptions, setup: RuntimeSetup) -> Iterator[_Choice]:
    """Yield the settings that the options leave open, the fastest first."""
    budgets = [options.micro_batch_tokens] if options.micro_batch_tokens else _budgets(corpus, options, setup)
    shares = (1.0, _ACTIVATION_BUDGET) if setup.compile else (1.0,)
    if not options.recompute:
        yield from (_Choice(budget, activation_budget=share) for budget in budgets for share in shares)
    if options.recompute is not False:
        yield from (_Choice(budget, recompute=True) for budget in budgets)


def _budgets(corpus: Items, options: TrainingOptions, setup: RuntimeSetup) -> list[int]:
    """Return the micro-batches to choose from, in tokens: the largest, and its halves down to the smallest."""
    largest, smallest = _BUDGETS[setup.device.type]
    # Rows of packing by tokens are not divided, so that steps have the same documents with any micro-batch.
    longest = max(options.max_length if options.batch_tokens else 0, int(corpus.lengths.max(initial=0)))
    budgets = [largest]
    while budgets[-1] // 2 >= max(smallest, longest):
        budgets.append(budgets[-1] // 2)
    return budgets


def _memory(
    footprint: ModelFootprint, corpus: Items, options: TrainingOptions, choice: _Choice, setup: RuntimeSetup,
    chunk: int, world_size: int,
) -> dict[str, int]:  # fmt: skip
    parts = footprint.memory(
        tokens=_largest_micro_batch(corpus, options, choice.budget),
        supervised=float(corpus.documents.supervised.mean()),
        recompute=choice.recompute,
        share=_COMPILED_SHARE * choice.activation_budget if setup.compile else 1.0,
        chunk=chunk,
    )
    sharded = ("weights", "gradients", "optimizer")
    return {name: size // (world_size if name in sharded else 1) for name, size in parts.items()}


def _largest_micro_batch(corpus: Items, options: TrainingOptions, budget: int) -> int:
    """Return an upper bound of the tokens of a micro-batch."""
    longest = int(corpus.lengths.max(initial=0))
    budget = max(budget, longest)
    if options.batch_tokens is not None or not options.packing:
        return budget if options.packing else longest
    return min(budget, int(np.sort(corpus.lengths)[-options.batch_size :].sum()))

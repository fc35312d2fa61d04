"""Loss, accuracy and margin on held-out pairs: how often, and by how much, the chosen answer has the higher reward."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetune.data.comparisons import Comparisons
from finetune.evaluation.held_out import Losses, measure_documents
from finetune.model.reward import PackedRewardModel
from finetune.training.distributed import SINGLE_PROCESS, World
from finetune.training.preference import pair_losses

__all__ = ["PairMeasurements", "compute_rewards", "measure_pairs", "wilson_interval"]


def compute_rewards(
    packed_lm: PackedRewardModel, comparisons: Comparisons, *, budget: int, world: World = SINGLE_PROCESS
) -> Tensor:
    """Return (N,) float64: the reward of each document; arguments as ``measure_documents``."""
    max_seqlen = int(comparisons.documents.lengths.max(initial=0))

    @torch.no_grad()
    def rewards(indices: list[int]) -> tuple[list[int], list[float]]:
        batch = comparisons.collate(indices, max_seqlen=max_seqlen)
        values: list[float] = packed_lm.rewards(batch.to(world.device)).double().tolist()
        numbers: list[int] = batch.documents.tolist()
        return numbers, values

    return torch.from_numpy(measure_documents(packed_lm, comparisons, rewards, budget=budget, world=world))


class PairMeasurements(NamedTuple):
    """What the rewards of held-out answers say about their pairs, each as sums by prompt.

    Attributes:
        losses: The loss of the pairs.
        accuracy: The pairs in which the chosen answer has the higher reward; equal rewards count as half a pair.
        margin: The reward of the chosen answer minus that of the rejected one.
    """

    losses: Losses
    accuracy: Losses
    margin: Losses


def measure_pairs(comparisons: Comparisons, rewards: Tensor) -> PairMeasurements:
    """Return loss, accuracy and margin of the pairs.

    Args:
        rewards: (N,) reward of each document.
    """
    chosen, rejected = torch.from_numpy(comparisons.pairs).T
    margins = rewards[chosen] - rewards[rejected]
    right = (margins > 0).double() + 0.5 * (margins == 0).double()
    prompts = np.repeat(np.arange(len(comparisons)), comparisons.targets)

    def by_prompt(values: Tensor) -> Losses:
        sums = np.bincount(prompts, weights=values.numpy(), minlength=len(comparisons)).astype(np.float64)
        return Losses(sums, comparisons.targets)

    return PairMeasurements(by_prompt(pair_losses(rewards, chosen, rejected)), by_prompt(right), by_prompt(margins))


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a proportion observed in ``count`` independent trials (Wilson 1927)."""
    square = 1.959964**2 / count
    centre, half = share + square / 2, math.sqrt(square * (share * (1 - share) + square / 4))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))

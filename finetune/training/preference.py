"""Losses that learn from preferences: direct preference optimisation, and the reward model of Bradley and Terry.

Both are means over the pairs of a step. A pair's loss is -log sigmoid(m) of a margin m by which the chosen answer beats
the rejected one. With r the score of an answer, m is r(chosen) - r(rejected):

- a reward model computes r itself, at the last token of the answer (Bradley & Terry 1952; Ouyang et al. 2022,
  arXiv:2203.02155, equation 1);
- DPO takes r = beta * log(policy / reference), the ratio of the answer's probabilities under the trained model and
  under the model before training (Rafailov et al. 2023, arXiv:2305.18290, equation 7). At the first step both are the
  same, every margin is 0, and the loss is ln 2.

Shapes: D documents, M supervised tokens, P pairs of a micro-batch; N documents of the dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from finetune.data.comparisons import ComparisonBatch, Comparisons
from finetune.model.balance import ExpertLoad
from finetune.options import DpoOptions

__all__ = ["BradleyTerry", "DirectPreference", "answer_log_probs", "dpo_rewards", "pair_losses"]


def answer_log_probs(token_log_probs: Tensor, counts: Tensor) -> Tensor:
    """Return (D,) float64: the log-probability of each answer, the sum over its supervised tokens.

    A sum of thousands of float32 values would lose the digits in which policy and reference differ.

    Args:
        token_log_probs: (M,) log-probability of each supervised token, document after document.
        counts: (D,) supervised tokens of each document.
    """
    # Each sum is made by one thread in order of the tokens, so that it has the same bits whenever it is repeated.
    # ``unsafe`` leaves out checks that fail without documents and wait for a GPU.
    return torch.segment_reduce(token_log_probs.double(), "sum", lengths=counts, unsafe=True)


def dpo_rewards(log_probs: Tensor, reference: Tensor, counts: Tensor, options: DpoOptions) -> Tensor:
    """Return (D,) the implicit reward of each answer: beta * log(policy / reference), per token if normalised.

    Args:
        log_probs: (D,) log-probability of each answer under the policy.
        reference: (D,) the same under the reference.
        counts: (D,) supervised tokens of each answer.
    """
    ratios = log_probs - reference
    return options.beta * (ratios / counts if options.length_normalised else ratios)


def pair_losses(rewards: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return (P,) the loss of each pair: -log sigmoid(reward of the chosen - reward of the rejected answer).

    Args:
        rewards: (D,) reward of each answer.
        chosen, rejected: (P,) indices of answers.
    """
    return -logsigmoid(rewards[chosen] - rewards[rejected])


@dataclass(frozen=True)
class _OfComparisons:
    """What the objectives have in common: micro-batches of compared answers."""

    comparisons: Comparisons

    def collate(
        self, indices: Sequence[int], *, max_seqlen: int, pad_to: int | None = None, boundaries: int = 0
    ) -> ComparisonBatch:
        """Concatenate the answers of comparisons."""
        return self.comparisons.collate(indices, max_seqlen=max_seqlen, pad_to=pad_to, boundaries=boundaries)


@dataclass(frozen=True)
class DirectPreference(_OfComparisons):
    """DPO; the loss of a pair may include the cross entropy per token of its chosen answer.

    Attributes:
        comparisons: The compared answers.
        reference: (N,) float64 log-probability of each answer under the reference, on the model's device.
        options: ``beta``, ``length_normalised`` (Lambert et al. 2024, arXiv:2411.15124, section 5.1) and ``sft``, the
            weight of the cross entropy (Pang et al. 2024, arXiv:2404.19733, equation 1).
    """

    reference: Tensor
    options: DpoOptions

    def loss(self, packed_lm: Any, batch: ComparisonBatch, scale: float, *loads: ExpertLoad) -> Tensor:
        """Return ``scale`` times the summed losses of the pairs."""
        assert not loads, "runs on comparisons have no load-balancing loss"
        log_probs = answer_log_probs(packed_lm.log_probs(batch), batch.counts)
        rewards = dpo_rewards(log_probs, self.reference[batch.documents], batch.counts, self.options)
        losses = pair_losses(rewards, batch.chosen, batch.rejected)
        if self.options.sft:
            losses = losses - self.options.sft * (log_probs / batch.counts)[batch.chosen]
        return (losses.sum() * scale).float()


@dataclass(frozen=True)
class BradleyTerry(_OfComparisons):
    """The loss of a reward model: answers that were preferred get the higher reward.

    Attributes:
        comparisons: The compared answers.
    """

    def loss(self, packed_lm: Any, batch: ComparisonBatch, scale: float, *loads: ExpertLoad) -> Tensor:
        """Return ``scale`` times the summed losses of the pairs."""
        assert not loads, "runs on comparisons have no load-balancing loss"
        return pair_losses(packed_lm.rewards(batch), batch.chosen, batch.rejected).sum() * scale

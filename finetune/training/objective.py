"""What a run minimises: the loss of a micro-batch, and how a micro-batch is made of items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from finetune.data.batch import Batch, collate
from finetune.data.corpus import Corpus
from finetune.model.balance import ExpertLoad

__all__ = ["CrossEntropy", "Objective"]


class Objective(Protocol):
    """A loss that is a mean of terms: of a step's supervised tokens, or of its pairs.

    The loop divides by the number of terms in the whole step (``EpochPlan.loss_terms``), so that the result depends
    neither on micro-batches nor on the number of processes.
    """

    def collate(
        self, indices: Sequence[int], *, max_seqlen: int, pad_to: int | None = None, boundaries: int = 0
    ) -> Batch:
        """Return the micro-batch of the items at ``indices``; arguments as ``finetune.data.batch.collate``."""

    def loss(self, packed_lm: Any, batch: Any, scale: float, *loads: ExpertLoad) -> Tensor:
        """Return ``scale`` times the sum of a micro-batch's terms: a scalar, with gradients.

        Args:
            loads: The load of the experts in the step if the model has a load-balancing loss.
        """


@dataclass(frozen=True)
class CrossEntropy:
    """Supervised fine-tuning: a term is the cross entropy of a supervised token.

    Attributes:
        corpus: The documents.
    """

    corpus: Corpus

    def collate(
        self, indices: Sequence[int], *, max_seqlen: int, pad_to: int | None = None, boundaries: int = 0
    ) -> Batch:
        """Concatenate documents."""
        return collate(self.corpus, indices, max_seqlen=max_seqlen, pad_to=pad_to, boundaries=boundaries)

    def loss(self, packed_lm: Any, batch: Batch, scale: float, *loads: ExpertLoad) -> Tensor:
        """Return ``scale`` times the summed cross entropy, with the share of the load-balancing loss."""
        loss: Tensor = packed_lm(batch, scale, *loads)
        return loss

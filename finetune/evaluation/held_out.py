"""Loss on held-out documents, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.data.batch import collate
from finetune.data.corpus import Corpus
from finetune.data.plan import Items
from finetune.model.packed_lm import PackedCausalLM
from finetune.training.distributed import SINGLE_PROCESS, World

__all__ = ["Losses", "difference", "evaluate", "measure_documents", "pooled_mean"]


@dataclass(frozen=True)
class Losses:
    """Losses of D held-out documents.

    Attributes:
        sums: (D,) float64 summed loss of each document, in nats.
        counts: (D,) int64 supervised tokens of each document; their total is positive.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, sums: Sequence[float], counts: Sequence[int]) -> Losses:
        """Build the arrays from sequences of numbers."""
        return cls(np.array(sums, dtype=np.float64), np.array(counts, dtype=np.int64))

    @property
    def mean(self) -> float:
        """Mean loss per supervised token, in nats."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def perplexity(self) -> float:
        """``exp(mean)``; infinite if that overflows."""
        return math.exp(self.mean) if self.mean < 700 else math.inf

    @property
    def standard_error(self) -> float | None:
        """Standard error of ``mean``, with documents (not tokens) as the random sample; None for a single document.

        The mean is a ratio R = sum(s) / sum(n) over D documents. Its error, by linearisation (Cochran 1977, chapter
        6): sqrt(D / (D - 1) * sum((s - R n)^2)) / sum(n).
        """
        return _ratio_error(self.sums - self.mean * self.counts, self.counts)


def pooled_mean(sets: Collection[Losses]) -> float:
    """Return the mean loss per supervised token over several held-out sets, in nats."""
    return float(sum(losses.sums.sum() for losses in sets) / sum(losses.counts.sum() for losses in sets))


def difference(before: Losses, after: Losses) -> tuple[float, float | None]:
    """Return ``after.mean - before.mean`` over the same documents, and its standard error.

    Each document is compared with itself: the difference is again a ratio, of s_after - s_before to n, and its error is
    usually far smaller than the error of either mean.
    """
    assert (before.counts == after.counts).all(), "the losses are of different documents"
    change = after.mean - before.mean
    return change, _ratio_error(after.sums - before.sums - change * after.counts, after.counts)


def _ratio_error(residuals: NDArray[np.float64], counts: NDArray[np.int64]) -> float | None:
    documents = len(counts)
    if documents < 2:
        return None
    return math.sqrt(documents / (documents - 1) * float((residuals**2).sum())) / float(counts.sum())


def evaluate(packed_lm: PackedCausalLM, corpus: Corpus, *, budget: int, world: World = SINGLE_PROCESS) -> Losses:
    """Compute the loss of each document; arguments as ``measure_documents``."""
    targets = corpus.targets
    max_seqlen = int(corpus.lengths.max(initial=0))

    def summed_losses(indices: list[int]) -> tuple[list[int], Sequence[float]]:
        batch = collate(corpus, indices, max_seqlen=max_seqlen).to(world.device)
        losses = packed_lm.token_losses(batch).double().cpu().numpy()  # (M,)
        return indices, [document.sum() for document in np.split(losses, np.cumsum(targets[indices])[:-1])]

    return Losses(measure_documents(packed_lm, corpus, summed_losses, budget=budget, world=world), targets)


def measure_documents(
    packed_lm: PackedCausalLM,
    items: Items,
    measure: Callable[[list[int]], tuple[Sequence[int], Sequence[float]]],
    *,
    budget: int,
    world: World = SINGLE_PROCESS,
) -> NDArray[np.float64]:
    """Measure a number for each document in evaluation mode (no dropout); the former mode is restored.

    Compiled layers run eagerly: every batch has another shape and would trigger a compilation.

    Args:
        measure: Returns the numbers of the documents in the items at some indices, and their values.
        budget: Maximum tokens that go through the model at once; a longer item goes alone.
        world: The processes that share the work; each returns the same values.

    Returns:
        (documents,) float64.
    """
    budget = packed_lm.token_budget(budget)
    values = np.zeros(len(items.documents))
    training = packed_lm.training
    packed_lm.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            for indices in _share_of_rank(list(_split(items, budget)), world):
                numbers, measured = measure(indices)
                values[numbers] = measured
    finally:
        packed_lm.train(training)
    # Each document is measured by one process, and is 0 for the others.
    return world.all_reduce(torch.from_numpy(values)).numpy()


def _share_of_rank(batches: list[list[int]], world: World) -> list[list[int]]:
    """Return this process's batches, padded with empty ones so that all processes make the same collective calls."""
    padded = [*batches, *([] for _ in range(-len(batches) % world.world_size))]
    return padded[world.rank :: world.world_size]


def _split(items: Items, budget: int) -> Iterator[list[int]]:
    """Yield indices of consecutive items of at most ``budget`` tokens together, but at least one item."""
    batch: list[int] = []
    tokens = 0
    for index, length in enumerate(items.lengths.tolist()):
        if batch and tokens + length > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += length
    if batch:
        yield batch

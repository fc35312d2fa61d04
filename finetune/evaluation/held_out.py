"""Held-out loss, with how sure one can be of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.data.batch import collate
from finetune.data.corpus import Corpus
from finetune.model.packed_lm import PackedCausalLM
from finetune.training.distributed import ALONE, World

__all__ = ["Losses", "difference", "evaluate"]


@dataclass(frozen=True)
class Losses:
    """The summed loss of each held-out document.

    Attributes:
        sums: (D,) float64, nats.
        counts: (D,) int64, supervised tokens; some in all.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, sums: Sequence[float], counts: Sequence[int]) -> Losses:
        """From plain numbers."""
        return cls(np.array(sums, dtype=np.float64), np.array(counts, dtype=np.int64))

    @property
    def mean(self) -> float:
        """Mean loss of a supervised token, in nats."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def perplexity(self) -> float:
        """``exp(mean)``; infinite where that is beyond a float."""
        return math.exp(self.mean) if self.mean < 700 else math.inf

    @property
    def standard_error(self) -> float | None:
        """Of ``mean``, taking documents as drawn at random, not tokens; None for a single document.

        The mean is a ratio R = sum(s) / sum(n) over D documents. Its error, by linearisation (Cochran 1977, chapter
        6): sqrt(D / (D - 1) * sum((s - R n)^2)) / sum(n).
        """
        return _error(self.sums - self.mean * self.counts, self.counts)


def difference(before: Losses, after: Losses) -> tuple[float, float | None]:
    """``after.mean - before.mean`` over the same documents, and its standard error.

    Documents are compared with themselves: the error is that of a ratio again, of s_after - s_before to n, and mostly
    far below that of either mean.
    """
    assert (before.counts == after.counts).all(), "the losses are of different documents"
    change = after.mean - before.mean
    return change, _error(after.sums - before.sums - change * after.counts, after.counts)


def _error(residuals: NDArray[np.float64], counts: NDArray[np.int64]) -> float | None:
    documents = len(counts)
    if documents < 2:
        return None
    return math.sqrt(documents / (documents - 1) * float((residuals**2).sum())) / float(counts.sum())


def evaluate(trainee: PackedCausalLM, corpus: Corpus, *, budget: int, world: World = ALONE) -> Losses:
    """The loss of each document, in evaluation mode (no dropout); the mode is put back.

    Compiled layers are run as they were written: every batch has a shape of its own, and each would be compiled anew.

    Args:
        budget: Most tokens that go through the model at once; a longer document goes alone.
        world: The processes that share the work; each returns the same.
    """
    together = getattr(trainee.causal.config, "_attn_implementation", "").startswith("finetune_")
    sums = np.zeros(len(corpus))
    targets = corpus.targets
    longest = int(corpus.lengths.max(initial=0))
    training = trainee.training
    trainee.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            for indices in _share(list(_parts(corpus, budget if together else 0)), world):
                batch = collate(corpus, indices, longest=longest).to(world.device)
                losses = trainee.token_losses(batch).double().cpu().numpy()
                borders = np.cumsum(targets[indices])[:-1]
                sums[indices] = [part.sum() for part in np.split(losses, borders)]
    finally:
        trainee.train(training)
    # A document is measured by one process: for the others it is 0.
    return Losses(world.total(torch.from_numpy(sums)).numpy(), targets)


def _share(parts: list[list[int]], world: World) -> list[list[int]]:
    """This process's, and empty ones, so that all have as many: none waits for weights that nobody gathers."""
    whole = [*parts, *([] for _ in range(-len(parts) % world.ranks))]
    return whole[world.rank :: world.ranks]


def _parts(corpus: Corpus, budget: int) -> Iterator[list[int]]:
    """Documents in their order, at most ``budget`` tokens of them at a time, but at least one."""
    part: list[int] = []
    tokens = 0
    for index, length in enumerate(corpus.lengths.tolist()):
        if part and tokens + length > budget:
            yield part
            part, tokens = [], 0
        part.append(index)
        tokens += length
    if part:
        yield part

"""Fixed shapes of micro-batches: compiled layers are compiled once for each shape, so that micro-batches get few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.data.batch import BOUNDARY_MULTIPLE
from finetune.data.plan import EpochPlan

__all__ = ["FixedShapes", "choose_sizes"]

_MULTIPLE = 256  # tokens
_EPOCHS = 3  # as many plans are kept in memory
_MOST = 8  # a compilation takes seconds
_FILLER = 0.02  # share of padding that is not worth another compilation


@dataclass(frozen=True)
class FixedShapes:
    """The shapes that the micro-batches of a run are padded to.

    Attributes:
        sizes: Numbers of tokens, ascending.
        boundaries: Length of ``cu_seqlens``.
    """

    sizes: tuple[int, ...]
    boundaries: int

    @classmethod
    def of(cls, plan: EpochPlan) -> FixedShapes:
        """Choose shapes for the micro-batches of the first epochs; later ones have about the same sizes."""
        lengths, counts = plan.corpus.lengths, plan.corpus.document_counts
        epochs = range(min(-(-plan.steps // plan.steps_per_epoch), _EPOCHS))
        micro_batches = [micro_batch for epoch in epochs for step in plan.epoch(epoch) for micro_batch in step]
        tokens = [max(1, int(lengths[list(micro_batch)].sum())) for micro_batch in micro_batches]
        shapes = cls(choose_sizes(tokens), 0)
        # Padding consists of documents, too: as many as the longest document divides it into.
        documents = (
            int(counts[list(micro_batch)].sum()) - (size - shapes.pad_to(size)) // plan.max_seqlen
            for micro_batch, size in zip(micro_batches, tokens, strict=True)
        )
        return cls(shapes.sizes, _round_up(max(documents) + 1, BOUNDARY_MULTIPLE))

    def pad_to(self, tokens: int) -> int:
        """Return the size for a micro-batch of ``tokens`` tokens."""
        # A later epoch may have a larger micro-batch than the first ones; multiples of an eighth of the largest size
        # bound the number of further compilations.
        further = max(_MULTIPLE, _round_up(self.sizes[-1] // _MOST, _MULTIPLE))
        return next((size for size in self.sizes if size >= tokens), _round_up(tokens, further))


def choose_sizes(tokens: Sequence[int]) -> tuple[int, ...]:
    """Return the fewest sizes, at most 8, that leave less than 2% of padding, or else the 8 that leave the least.

    Args:
        tokens: Tokens of each micro-batch, at least one.
    """
    counts = Counter(_round_up(number, _MULTIPLE) for number in tokens)
    sizes = np.array(sorted(counts), dtype=np.int64)  # (n,) candidates
    cumulative = np.cumsum([counts[int(size)] for size in sizes], dtype=np.int64)  # micro-batches up to each candidate
    total = cumulative * sizes  # padded tokens up to each candidate, with it as the only size
    previous: list[np.ndarray] = []  # for each further size, the candidate before the last one
    while total[-1] > (1 + _FILLER) * sum(tokens) and len(previous) + 1 < min(_MOST, len(sizes)):
        # [i, j]: the sizes so far end at candidate i, and all micro-batches between i and j are padded to j.
        split = total[:, None] + (cumulative[None, :] - cumulative[:, None]) * sizes[None, :]
        split[np.tril_indices(len(sizes))] = np.iinfo(np.int64).max
        split[0, 0] = total[0]
        previous.append(split.argmin(0))
        total = split.min(0)
    chosen = [len(sizes) - 1]
    for before in reversed(previous):
        chosen.append(int(before[chosen[-1]]))
    return tuple(sorted({int(sizes[index]) for index in chosen}))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

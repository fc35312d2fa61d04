"""Packing of documents into micro-batches, planned once per epoch from document lengths and a seed.

A step is one optimizer update. Its micro-batches go through the model one after another (or on several ranks at once)
and hold at most ``budget`` tokens each. There are two ways to form steps:

- by documents: the shuffled epoch is cut into batches of ``batch_size`` documents, each packed into few micro-batches.
  The steps contain the same documents as in unpacked training;
- by tokens: the whole epoch is packed into rows of ``row`` tokens, the rows are shuffled, and each step takes rows of
  about ``batch_tokens`` tokens in total. The steps contain the same rows with any budget and number of processes.

Packing is best-fit decreasing (Johnson 1974; for language models: Ding et al. 2024, arXiv:2404.10830): documents in
order of decreasing length, each into the fullest bin that still has room. No document is cut or left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from selfinstruct.common.rng import Rng

__all__ = ["Packing", "Step", "best_fit_decreasing", "plan_epoch"]

MicroBatch = tuple[int, ...]  # document indices
Step = tuple[MicroBatch, ...]


@dataclass(frozen=True)
class Packing:
    """Settings that divide an epoch into steps.

    Attributes:
        budget: Maximum tokens of a micro-batch; no document may be longer.
        row: Maximum tokens of a row when packing by tokens; a micro-batch holds ``budget // row`` rows.
        batch_size: Documents per step when packing by documents.
        batch_tokens: Tokens per step when packing by tokens; None packs by documents.
        world_size: Number of processes; every step has a multiple of it in micro-batches (some may be empty).
        together: Whether documents share a micro-batch; False gives each document its own.
    """

    budget: int
    row: int
    batch_size: int
    batch_tokens: int | None = None
    world_size: int = 1
    together: bool = True


def plan_epoch(lengths: NDArray[np.int64], packing: Packing, *, seed: int, epoch: int) -> list[Step]:
    """Return the steps of an epoch.

    Every document is in exactly one micro-batch. All epochs have the same number of steps.

    Args:
        lengths: (documents,) tokens of each document.
    """
    order = Rng("epoch", seed, epoch).shuffled(range(len(lengths)))
    if packing.batch_tokens is None:
        size = packing.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        return [
            _balance(_pack(batch, lengths, packing.budget, packing.together), lengths, packing) for batch in batches
        ]
    rows = _pack(order, lengths, packing.row, packing.together)
    rows = Rng("rows", seed, epoch).shuffled(rows)
    mean_tokens = max(1, round(int(lengths.sum()) / max(1, len(rows))))
    per_step = max(1, round(packing.batch_tokens / mean_tokens))
    return [_join_rows(rows[start : start + per_step], packing) for start in range(0, len(rows), per_step)]


def _join_rows(rows: Sequence[MicroBatch], packing: Packing) -> Step:
    """Join the rows of a step to as few micro-batches as the budget allows, of about as many rows each."""
    most = max(1, packing.budget // packing.row) if packing.together else 1
    count = -(-len(rows) // most)
    count += -count % packing.world_size  # a rank without rows would wait for the others
    bounds = [len(rows) * number // count for number in range(count + 1)]
    return tuple(sum(rows[start:end], ()) for start, end in pairwise(bounds))


def _pack(order: Sequence[int], lengths: NDArray[np.int64], capacity: int, together: bool) -> list[MicroBatch]:
    if not together:
        return [(document,) for document in order]
    return best_fit_decreasing(order, lengths, capacity)


def best_fit_decreasing(order: Sequence[int], lengths: NDArray[np.int64], capacity: int) -> list[MicroBatch]:
    """Pack documents into bins of at most ``capacity`` tokens; documents of equal length keep their ``order``.

    A bit set records which amounts of free space occur, so that finding the fullest bin with enough room is one shift,
    and a million documents take seconds.
    """
    bins: list[list[int]] = []
    bins_by_space: dict[int, list[int]] = defaultdict(list)  # bins with exactly that many free tokens
    spaces = 0  # bit s is set when some bin has s free tokens
    for document in sorted(order, key=lambda index: -int(lengths[index])):
        length = int(lengths[document])
        assert length <= capacity, f"document {document} has {length} tokens, more than the {capacity} of a bin"
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            chosen = bins_by_space[space].pop()
            if not bins_by_space[space]:
                spaces &= ~(1 << space)
        else:
            space, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(document)
        bins_by_space[space - length].append(chosen)
        spaces |= 1 << (space - length)
    return [tuple(documents) for documents in bins]


def _balance(micro_batches: Sequence[MicroBatch], lengths: NDArray[np.int64], packing: Packing) -> Step:
    """Even out the load of the ranks: longest document first, each into the micro-batch with the fewest tokens."""
    step = _pad_step(micro_batches, packing.world_size)
    if packing.world_size == 1 or not packing.together:
        return step
    balanced: list[list[int]] = [[] for _ in step]
    heap = [(0, index) for index in range(len(step))]
    documents = (document for micro_batch in step for document in micro_batch)
    for document in sorted(documents, key=lambda index: -int(lengths[index])):
        tokens, index = heappop(heap)
        balanced[index].append(document)
        heappush(heap, (tokens + int(lengths[document]), index))
    within_budget = all(tokens <= packing.budget for tokens, _ in heap)
    return tuple(map(tuple, balanced)) if within_budget else step


def _pad_step(micro_batches: Sequence[MicroBatch], world_size: int) -> Step:
    """Append empty micro-batches, so that every rank runs the same number."""
    return (*micro_batches, *(() for _ in range(-len(micro_batches) % world_size)))

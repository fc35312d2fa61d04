"""Which documents go through the model together: planned once an epoch, from their lengths and a seed.

A step is one change of the weights; its micro-batches go through the model one after the other (or on several ranks at
once), and hold at most ``budget`` tokens each. Two ways to make steps:

- by documents: the shuffled epoch is cut into batches of ``batch_size``, and each is packed into few micro-batches.
  The steps are those of unpacked training, exactly;
- by tokens: the whole epoch is packed into rows of ``row`` tokens, the rows are shuffled, and a step takes as many as
  make about ``batch_tokens``.

Packing is best-fit decreasing (Johnson 1974; for language models: Ding et al. 2024, arXiv:2404.10830): the longest
document first, each into the fullest bin that still holds it. No document is cut or left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from selfinstruct.common.rng import Rng

__all__ = ["Packing", "Step", "best_fit_decreasing", "plan_epoch"]

Bin = tuple[int, ...]
Step = tuple[Bin, ...]


@dataclass(frozen=True)
class Packing:
    """How an epoch is cut into steps.

    Attributes:
        budget: Most tokens in a micro-batch; no document may be longer.
        row: Most tokens of a row, packing by tokens; a micro-batch holds ``budget // row`` rows.
        batch_size: Documents in a step, packing by documents.
        batch_tokens: Tokens in a step, packing by tokens; None packs by documents.
        ranks: Processes; the micro-batches of a step are a multiple of it (some of them may then be empty).
        together: False puts each document into a micro-batch of its own.
    """

    budget: int
    row: int
    batch_size: int
    batch_tokens: int | None = None
    ranks: int = 1
    together: bool = True


def plan_epoch(lengths: NDArray[np.int64], packing: Packing, *, seed: int, epoch: int) -> list[Step]:
    """The steps of an epoch, each a tuple of micro-batches, each a tuple of document numbers.

    Every document is in exactly one micro-batch. The number of steps is the same in every epoch.

    Args:
        lengths: (documents,) tokens of each.
    """
    order = Rng("epoch", seed, epoch).shuffled(range(len(lengths)))
    if packing.batch_tokens is None:
        size = packing.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        return [_evenly(_bins(batch, lengths, packing.budget, packing.together), lengths, packing) for batch in batches]
    rows = _bins(order, lengths, packing.row, packing.together)
    rows = Rng("rows", seed, epoch).shuffled(rows)
    beside = max(1, packing.budget // packing.row) if packing.together else 1
    micro = [sum(rows[start : start + beside], ()) for start in range(0, len(rows), beside)]
    average = max(1, round(int(lengths.sum()) / max(1, len(micro))))
    many = max(1, round(packing.batch_tokens / (average * packing.ranks))) * packing.ranks
    return [_whole(micro[start : start + many], packing.ranks) for start in range(0, len(micro), many)]


def _bins(order: Sequence[int], lengths: NDArray[np.int64], capacity: int, together: bool) -> list[Bin]:
    if not together:
        return [(document,) for document in order]
    return best_fit_decreasing(order, lengths, capacity)


def best_fit_decreasing(order: Sequence[int], lengths: NDArray[np.int64], capacity: int) -> list[Bin]:
    """Documents in bins of at most ``capacity`` tokens; among those of one length, the first in ``order`` goes first.

    The free space of the bins is kept as a set of bits, so that finding the fullest bin that fits is one shift, and a
    million documents take seconds.
    """
    bins: list[list[int]] = []
    of_space: dict[int, list[int]] = defaultdict(list)  # the bins with exactly that much space left
    spaces = 0  # bit s is set when some bin has s tokens left
    for document in sorted(order, key=lambda one: -int(lengths[one])):
        length = int(lengths[document])
        assert length <= capacity, f"document {document} has {length} tokens, more than the {capacity} of a bin"
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            chosen = of_space[space].pop()
            if not of_space[space]:
                spaces &= ~(1 << space)
        else:
            space, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(document)
        of_space[space - length].append(chosen)
        spaces |= 1 << (space - length)
    return [tuple(one) for one in bins]


def _evenly(bins: Sequence[Bin], lengths: NDArray[np.int64], packing: Packing) -> Step:
    """A step whose ranks have about as much to do: the longest document first, each into the emptiest micro-batch."""
    whole = _whole(bins, packing.ranks)
    if packing.ranks == 1 or not packing.together:
        return whole
    spread: list[list[int]] = [[] for _ in whole]
    heap = [(0, place) for place in range(len(whole))]
    for document in sorted((one for micro in whole for one in micro), key=lambda one: -int(lengths[one])):
        tokens, place = heappop(heap)
        spread[place].append(document)
        heappush(heap, (tokens + int(lengths[document]), place))
    fits = all(tokens <= packing.budget for tokens, _ in heap)
    return tuple(map(tuple, spread)) if fits else whole


def _whole(bins: Sequence[Bin], ranks: int) -> Step:
    """Filled up with empty micro-batches, so that every rank runs the same number."""
    return (*bins, *(() for _ in range(-len(bins) % ranks)))

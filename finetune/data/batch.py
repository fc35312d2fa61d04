"""Micro-batches: documents concatenated into tensors, with their boundaries and the tokens to predict.

Shapes in this package: T tokens in a micro-batch, D documents, M supervised tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from finetune.data.corpus import Corpus

__all__ = ["BOUNDARY_MULTIPLE", "Batch", "PackedSequences", "collate"]

BOUNDARY_MULTIPLE = 64
"""With ``pad_to``, ``cu_seqlens`` is padded to a multiple of this length: few shapes, hence few compilations."""


@dataclass(frozen=True)
class PackedSequences:
    """Boundaries of the documents in a micro-batch of T tokens, as variable-length attention takes them.

    Attributes:
        cu_seqlens: (D + 1,) int32, on the device: cumulative lengths; document i is
            ``cu_seqlens[i]:cu_seqlens[i + 1]``. Empty documents may follow at the end.
        lengths: Tokens of each non-empty document; they add up to T.
        max_seqlen: Upper bound of the lengths. It is the same throughout a run, so that compiled code can hold it as a
            constant.
    """

    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    max_seqlen: int


@dataclass(frozen=True)
class Batch:
    """A micro-batch of T tokens, M of which precede a supervised token.

    Attributes:
        input_ids: (T,) int64 token ids.
        position_ids: (T,) int64 positions, counted from 0 in each document.
        packed: Document boundaries.
        logit_indices: (M,) int64 indices of the tokens whose successor is supervised, ascending.
        labels: (M,) int64 ids of those successors.
        num_tokens: T without the padding of ``pad_to``.
    """

    input_ids: Tensor
    position_ids: Tensor
    packed: PackedSequences
    logit_indices: Tensor
    labels: Tensor
    num_tokens: int

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``, without waiting for the transfers to finish."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return a copy in pinned memory, whose transfers to a GPU overlap with computation."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return a copy with every tensor changed, in subclasses too."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, packed=replace(self.packed, cu_seqlens=change(self.packed.cu_seqlens)), **changed)


def collate(
    corpus: Corpus, indices: Sequence[int], *, max_seqlen: int, pad_to: int | None = None, boundaries: int = 0
) -> Batch:
    """Concatenate documents in the order of ``indices``.

    Args:
        max_seqlen: Tokens of the longest document of the run.
        pad_to: Pad to this number of tokens with unsupervised documents, to give compiled code a fixed shape. None pads
            nothing, except that a batch without documents gets one token.
        boundaries: With ``pad_to``, the length that ``cu_seqlens`` is padded to, if it is not longer already.
    """
    documents = [corpus[index] for index in indices]
    lengths = [len(document) for document in documents]
    num_tokens = sum(lengths)
    padding = max(0, max(pad_to or 1, 1) - num_tokens)
    ids = np.concatenate([*(document.ids for document in documents), np.zeros(padding, np.int32)])
    supervised = np.concatenate([*(document.supervised for document in documents), np.zeros(padding + 1, np.bool_)])
    # The first token of a document is never supervised, so no prediction crosses a document boundary.
    logit_indices = np.flatnonzero(supervised[1:])
    full, remainder = divmod(padding, max_seqlen)
    lengths += [max_seqlen] * full + ([remainder] if remainder else [])
    cu_seqlens = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    position_ids = np.arange(len(ids)) - np.repeat(cu_seqlens[:-1], lengths)
    if pad_to:
        missing = max(boundaries - len(cu_seqlens), -len(cu_seqlens) % BOUNDARY_MULTIPLE)
        cu_seqlens = np.pad(cu_seqlens, (0, missing), mode="edge")
    labels = ids[logit_indices + 1] if len(logit_indices) else np.zeros(0)
    return Batch(
        input_ids=torch.from_numpy(ids.astype(np.int64)),
        position_ids=torch.from_numpy(position_ids),
        packed=PackedSequences(torch.from_numpy(cu_seqlens.astype(np.int32)), tuple(lengths), max_seqlen),
        logit_indices=torch.from_numpy(logit_indices),
        labels=torch.from_numpy(labels.astype(np.int64)),
        num_tokens=num_tokens,
    )

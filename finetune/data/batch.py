"""Documents side by side as tensors, with their borders and what is to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.data.corpus import Corpus

__all__ = ["Batch", "Packed", "collate"]

_BORDERS = 64  # with ``pad_to``, the borders are filled up to a multiple of this: few shapes, few compilations


@dataclass(frozen=True)
class Packed:
    """Where the documents of a micro-batch of T tokens begin and end.

    Attributes:
        cu_seqlens: (D + 1,) int32, on the device; document i is at ``cu_seqlens[i]:cu_seqlens[i + 1]``. There may be
            empty documents at the end.
        lengths: Tokens of each document that is not empty; their sum is T.
        longest: No document is longer. The same number throughout a run, so that nothing compiled depends on it.
        block_mask: What flex attention wants instead; None otherwise.
    """

    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    longest: int
    block_mask: Any = None


@dataclass(frozen=True)
class Batch:
    """A micro-batch of T tokens, M of which are followed by a supervised one.

    Attributes:
        ids: (T,) int64 token ids.
        positions: (T,) int64; each document counts from 0.
        packed: The borders.
        predict: (M,) int64, the places whose next token is supervised, ascending.
        labels: (M,) int64, that next token.
        tokens: T without the filler of ``pad_to``.
    """

    ids: Tensor
    positions: Tensor
    packed: Packed
    predict: Tensor
    labels: Tensor
    tokens: int

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device, without waiting for the copies."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            ids=move(self.ids),
            positions=move(self.positions),
            packed=replace(self.packed, cu_seqlens=move(self.packed.cu_seqlens)),
            predict=move(self.predict),
            labels=move(self.labels),
        )

    def pin_memory(self) -> Batch:
        """The same in pinned memory, from which copies to a GPU run beside the computation."""
        return replace(
            self,
            ids=self.ids.pin_memory(),
            positions=self.positions.pin_memory(),
            packed=replace(self.packed, cu_seqlens=self.packed.cu_seqlens.pin_memory()),
            predict=self.predict.pin_memory(),
            labels=self.labels.pin_memory(),
        )


def collate(corpus: Corpus, indices: Sequence[int], *, longest: int, pad_to: int | None = None) -> Batch:
    """Put documents side by side, in the order of ``indices``.

    Args:
        longest: The run's longest document, in tokens.
        pad_to: Fill up to so many tokens, by documents of which nothing is predicted: a fixed shape for compiled code.
            None fills nothing, but for a single token where there is no document at all.
    """
    documents = [corpus[index] for index in indices]
    lengths = [len(document) for document in documents]
    tokens = sum(lengths)
    filler = (max(pad_to or 1, 1) - tokens) if tokens < (pad_to or 1) else 0
    fillers = [longest] * (filler // longest) + ([filler % longest] if filler % longest else [])
    ids = np.concatenate([*(document.ids for document in documents), np.zeros(filler, np.int32)])
    supervised = np.concatenate([*(document.supervised for document in documents), np.zeros(filler + 1, np.bool_)])
    # The first token of a document is never supervised, so nothing is predicted across a border.
    predict = np.flatnonzero(supervised[1:])
    lengths += fillers
    borders = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    positions = np.arange(len(ids)) - np.repeat(borders[:-1], lengths)
    if pad_to:
        borders = np.pad(borders, (0, -len(borders) % _BORDERS), mode="edge")
    packed = Packed(torch.from_numpy(borders.astype(np.int32)), tuple(lengths), longest)
    return Batch(
        ids=torch.from_numpy(ids.astype(np.int64)),
        positions=torch.from_numpy(positions),
        packed=packed,
        predict=torch.from_numpy(predict),
        labels=torch.from_numpy(ids[predict + 1].astype(np.int64))
        if len(predict)
        else torch.zeros(0, dtype=torch.int64),
        tokens=tokens,
    )

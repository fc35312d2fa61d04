"""Comparisons: several answers to one prompt, and the pairs of them in which one is preferred.

A comparison is packed as a whole: its answers are documents of one micro-batch, isolated from each other like any other
documents, so that the loss of a pair needs nothing from outside the micro-batch. An answer that is in several pairs
goes through the model once.

Shapes: C comparisons, N documents, P pairs; in a micro-batch T tokens, D documents, M supervised tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.data.batch import Batch, collate
from finetune.data.corpus import Corpus, Document
from selfinstruct.common.rng import Rng

__all__ = ["ComparedDocuments", "ComparisonBatch", "Comparisons"]


@dataclass(frozen=True)
class ComparedDocuments:
    """The documents of one comparison.

    Attributes:
        name: Origin of the row, for messages: ``file:line``.
        documents: The prompt with each answer.
        pairs: Numbers of the preferred and the rejected document of each pair.
    """

    name: str
    documents: tuple[Document, ...]
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ComparisonBatch(Batch):
    """A micro-batch of comparisons.

    Attributes:
        documents: (D,) int64 numbers of the documents in ``Comparisons.documents``.
        counts: (D,) int64 supervised tokens of each document; they add up to M.
        ends: (D,) int64 index of the last token of each document.
        chosen, rejected: (pairs,) int64 indices (below D) of the two documents of each pair.
    """

    documents: Tensor
    counts: Tensor
    ends: Tensor
    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True)
class Comparisons:
    """An ordered collection of comparisons (``finetune.data.plan.Items``).

    Attributes:
        documents: The documents of all comparisons, grouped by comparison.
        offsets: (C + 1,) int64; comparison i has the documents ``offsets[i]`` to ``offsets[i + 1] - 1``.
        pairs: (P, 2) int64 numbers of the preferred and the rejected document of each pair.
        pair_offsets: (C + 1,) int64; comparison i has the pairs ``pair_offsets[i]`` to ``pair_offsets[i + 1] - 1``.
        names: Origin of each comparison.
    """

    documents: Corpus
    offsets: NDArray[np.int64]
    pairs: NDArray[np.int64]
    pair_offsets: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, comparisons: Iterable[ComparedDocuments]) -> Comparisons:
        """Concatenate comparisons."""
        parts = list(comparisons)
        offsets = _offsets(len(part.documents) for part in parts)
        pairs = [np.array(part.pairs, np.int64).reshape(-1, 2) + offset
                 for part, offset in zip(parts, offsets, strict=False)]  # fmt: skip
        return cls(
            documents=Corpus.of(document for part in parts for document in part.documents),
            offsets=offsets,
            pairs=np.concatenate([np.zeros((0, 2), np.int64), *pairs]),
            pair_offsets=_offsets(len(part.pairs) for part in parts),
            names=tuple(part.name for part in parts),
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> ComparedDocuments:
        first, last = int(self.offsets[index]), int(self.offsets[index + 1])
        return ComparedDocuments(
            self.names[index],
            tuple(self.documents[number] for number in range(first, last)),
            tuple((int(chosen), int(rejected)) for chosen, rejected in self._pairs(index) - first),
        )

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(C,) tokens of each comparison."""
        return np.diff(self.documents.offsets[self.offsets])

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """(C,) pairs of each comparison."""
        return np.diff(self.pair_offsets)

    @property
    def document_counts(self) -> NDArray[np.int64]:
        """(C,) documents of each comparison."""
        return np.diff(self.offsets)

    @property
    def digest(self) -> str:
        """SHA-256 of documents and pairs, by which a resumed run recognises its data."""
        sha = hashlib.sha256(self.documents.digest.encode())
        for array in (self.offsets, self.pairs, self.pair_offsets):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    def subset(self, indices: Sequence[int]) -> Comparisons:
        """Return the comparisons at ``indices``, in that order."""
        return Comparisons.of(self[index] for index in indices)

    def split(self, fraction: float, seed: int) -> tuple[Comparisons, Comparisons]:
        """Split at random into training and held-out comparisons, both in the original order.

        Comparisons of the same prompt are on the same side. A fraction above 0 holds out at least one prompt and leaves
        at least one for training, if there are two.
        """
        prompts = [self._prompt(index) for index in range(len(self))]
        distinct = list(dict.fromkeys(prompts))
        count = round(fraction * len(distinct))
        if fraction > 0 and len(distinct) > 1:
            count = min(max(count, 1), len(distinct) - 1)
        held_out = set(Rng("held out", seed).sample(distinct, count))
        return (
            self.subset([index for index, prompt in enumerate(prompts) if prompt not in held_out]),
            self.subset([index for index, prompt in enumerate(prompts) if prompt in held_out]),
        )

    def collate(
        self, indices: Sequence[int], *, max_seqlen: int, pad_to: int | None = None, boundaries: int = 0
    ) -> ComparisonBatch:
        """Concatenate the documents of comparisons in the order of ``indices``; arguments as ``batch.collate``."""
        numbers = [number for index in indices for number in range(*self.offsets[index : index + 2].tolist())]
        batch = collate(self.documents, numbers, max_seqlen=max_seqlen, pad_to=pad_to, boundaries=boundaries)
        documents = [self.documents[number] for number in numbers]
        places = {number: place for place, number in enumerate(numbers)}
        pairs = [(places[chosen], places[rejected])
                 for index in indices for chosen, rejected in self._pairs(index).tolist()]  # fmt: skip
        chosen, rejected = np.array(pairs, np.int64).reshape(-1, 2).T
        return ComparisonBatch(
            **vars(batch),
            documents=_tensor(numbers),
            counts=_tensor([int(document.supervised.sum()) for document in documents]),
            ends=torch.from_numpy(np.cumsum([len(document) for document in documents], dtype=np.int64) - 1),
            chosen=_tensor(chosen),
            rejected=_tensor(rejected),
        )

    def _pairs(self, index: int) -> NDArray[np.int64]:
        return self.pairs[self.pair_offsets[index] : self.pair_offsets[index + 1]]

    def _prompt(self, index: int) -> bytes:
        """Return the tokens before the first supervised one, by which comparisons of one prompt are recognised."""
        document = self.documents[int(self.offsets[index])]
        return bytes(document.ids[: int(document.supervised.argmax())].tobytes())


def _offsets(counts: Iterable[int]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(list(counts), np.int64))])


def _tensor(values: Sequence[int] | NDArray[np.int64]) -> Tensor:
    return torch.tensor(np.array(values, np.int64))

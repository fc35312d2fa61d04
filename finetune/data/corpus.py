"""Tokenized documents in flat arrays: millions fit in memory, and reading one copies nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Corpus", "Document"]


@dataclass(frozen=True)
class Document:
    """A tokenized row, or a part of one up to an answer.

    Attributes:
        ids: (n,) int32 token ids.
        supervised: (n,) bool loss mask: True where the token contributes to the loss. The first is always False.
        name: Origin of the row, for messages: ``file:line``.
    """

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    name: str

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Corpus:
    """An ordered collection of documents.

    Attributes:
        ids: (tokens,) int32, all documents concatenated.
        supervised: (tokens,) bool, likewise.
        offsets: (documents + 1,) int64; document i is ``ids[offsets[i]:offsets[i + 1]]``.
        names: Origin of each document.
    """

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Corpus:
        """Concatenate documents."""
        parts = list(documents)
        lengths = np.array([len(document) for document in parts], dtype=np.int64)
        return cls(
            ids=np.concatenate([np.zeros(0, np.int32), *(document.ids for document in parts)]),
            supervised=np.concatenate([np.zeros(0, np.bool_), *(document.supervised for document in parts)]),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            names=tuple(document.name for document in parts),
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Document:
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Document(self.ids[span], self.supervised[span], self.names[index])

    @property
    def documents(self) -> Corpus:
        """The collection itself: a document is an item that is packed whole (``finetune.data.plan.Items``)."""
        return self

    @property
    def document_counts(self) -> NDArray[np.int64]:
        """(documents,) ones: each item is a single document."""
        return np.ones(len(self), np.int64)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(documents,) tokens of each document."""
        return np.diff(self.offsets)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """(documents,) supervised tokens of each document."""
        cumulative = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.supervised, dtype=np.int64)])
        return np.diff(cumulative[self.offsets])

    def subset(self, indices: Sequence[int]) -> Corpus:
        """Return the documents at ``indices``, in that order."""
        return Corpus.of(self[index] for index in indices)

    @property
    def digest(self) -> str:
        """SHA-256 of token ids, loss mask and offsets, by which a resumed run recognises its data."""
        sha = hashlib.sha256()
        for array in (self.ids, self.supervised, self.offsets):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

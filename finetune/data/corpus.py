"""Tokenized documents, end to end in flat arrays: millions of them fit, and nothing is copied to read one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfinstruct.common.rng import Rng

__all__ = ["Corpus", "Document"]


@dataclass(frozen=True)
class Document:
    """One row as tokens.

    Attributes:
        ids: (n,) int32 token ids.
        supervised: (n,) bool; True where the token is one that the model learns to write. Never the first.
        name: Where the row came from, for messages: ``file:line``.
    """

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    name: str

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Corpus:
    """Documents in their order.

    Attributes:
        ids: (tokens,) int32, all documents after each other.
        supervised: (tokens,) bool, likewise.
        offsets: (documents + 1,) int64; document i is ``ids[offsets[i]:offsets[i + 1]]``.
        names: Where each came from.
    """

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Corpus:
        """Gather documents."""
        found = list(documents)
        lengths = np.array([len(document) for document in found], dtype=np.int64)
        return cls(
            ids=np.concatenate([np.zeros(0, np.int32), *(document.ids for document in found)]),
            supervised=np.concatenate([np.zeros(0, np.bool_), *(document.supervised for document in found)]),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            names=tuple(document.name for document in found),
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Document:
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Document(self.ids[part], self.supervised[part], self.names[index])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(documents,) tokens of each."""
        return np.diff(self.offsets)

    @property
    def targets(self) -> NDArray[np.int64]:
        """(documents,) supervised tokens of each."""
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.supervised, dtype=np.int64)])
        return np.diff(total[self.offsets])

    def subset(self, indices: Sequence[int]) -> Corpus:
        """The documents at ``indices``, in that order."""
        return Corpus.of(self[index] for index in indices)

    def split(self, fraction: float, seed: int) -> tuple[Corpus, Corpus]:
        """Documents for training, and a share held out, drawn at random by ``seed``; both keep the file's order.

        A fraction above 0 holds out at least one document and leaves at least one, where there are two.
        """
        count = round(fraction * len(self))
        if fraction > 0 and len(self) > 1:
            count = min(max(count, 1), len(self) - 1)
        held = set(Rng("held out", seed).sample(range(len(self)), count))
        return (
            self.subset([index for index in range(len(self)) if index not in held]),
            self.subset(sorted(held)),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of tokens, masks and borders: what a resumed run compares."""
        sha = hashlib.sha256()
        for array in (self.ids, self.supervised, self.offsets):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

"""Semantic duplicates: texts whose embeddings are close.

Vectors come from model2vec (the extra ``semantic``), from sentence-transformers, or from a function of the caller.

The similarity is the cosine. Vectors are compared in bulk in single precision; every comparison that could decide is
repeated in double precision, pair by pair, so that a verdict does not depend on how texts were batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from selfinstruct.common.files import first_line
from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.filters.index_file import Array
from selfinstruct.filters.text_index import Rows, TextIndex
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Embed", "SemanticIndex"]

Vectors = npt.NDArray[np.float32]
Embed: TypeAlias = Callable[[list[str]], npt.ArrayLike]  # texts to vectors, shape (texts, dimensions)

BATCH = 512  # texts embedded and compared at once
ROWS = 65_536  # vectors of the pool compared at once: 128 MB of similarities with a full batch
# Only sentence-transformers writes this file; modules.json and the others are written by model2vec as well.
SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
MARGIN = 1e-4  # larger than the error of single precision in a cosine of up to 4,096 dimensions


class SemanticIndex(TextIndex):
    """A pool of texts, which rejects a text that means the same as one of them.

    A text is rejected, for the reason ``same_meaning``, if its cosine to a text of the pool is above the threshold;
    score and nearest refer to the closest text, the earliest of several. Ids work as in every ``TextIndex``. A text
    whose vector is zero resembles no other.

    Args:
        threshold: Highest cosine that is kept, -1 to 1. It depends on the model: inspect some pairs first.
        model: A function from a list of texts to their vectors, or the name or directory of a model: of
            sentence-transformers if the directory has a ``config_sentence_transformers.json``, otherwise of model2vec.

    Raises:
        MissingExtraError: model2vec is needed and not installed.
        UsageError: The threshold is out of range, or the model cannot be loaded.
    """

    name = "semantic"
    reason = RejectReason.SAME_MEANING

    def __init__(self, threshold: float, model: str | Path | Embed) -> None:
        if not -1 <= threshold <= 1:
            raise UsageError(f"threshold {threshold} is not between -1 and 1")
        super().__init__(threshold)
        self._embed: Embed = model if callable(model) else _load_model(model)
        self._rows: Vectors = np.zeros((0, 0), dtype=np.float32)  # of length 1 or 0; with room for further rows

    def empty(self, threshold: float) -> SemanticIndex:
        """Return an empty index with another threshold and the same model."""
        return SemanticIndex(threshold, self._embed)

    def query(self, text: str) -> Verdict:
        """Decide on a text and leave the pool unchanged."""
        vectors = self._vectors([text])
        return self._verdict(vectors[0], self._candidates(vectors)[0])

    def offer_many(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> list[Verdict]:
        """Offer texts one after the other; equal to repeated ``offer``, but much faster.

        Raises:
            UsageError: An id occurs twice, or is in the pool already. Earlier batches have been decided by then.
        """
        verdicts: list[Verdict] = []
        for batch, names in self._batches(texts, ids, lambda: BATCH):
            vectors = self._vectors(batch)
            candidates = self._candidates(vectors)
            within = vectors @ vectors.T
            row_of: dict[int, int] = {}  # the row of each text of this batch that is kept
            for number, name in enumerate(names):
                near = np.flatnonzero(within[number, :number] > self.threshold - MARGIN).tolist()
                rows = candidates[number] + [row_of[other] for other in near if other in row_of]
                verdict = self._verdict(vectors[number], rows)
                verdicts.append(verdict)
                if verdict.kept:
                    row_of[number] = len(self)
                    self._append(vectors[number : number + 1])
                    self._ids.add([name])
        return verdicts

    def fit(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> Self:
        """Add texts to the pool without decisions. Return the index itself.

        Raises:
            UsageError: An id occurs twice, or is in the pool already.
        """
        for batch, names in self._batches(texts, ids, lambda: BATCH):
            self._append(self._vectors(batch))
            self._ids.add(names)
        return self

    @classmethod
    def load(cls, path: str | Path, model: str | Path | Embed) -> Self:
        """Return the index that ``save`` wrote, with the model that its vectors came from.

        Raises:
            UsageError: The file cannot be read, is damaged, or holds another kind or version of index.
        """
        return cls._load(path, lambda parameters: cls(parameters["threshold"], model))

    def _parameters(self) -> dict[str, float | int | str]:
        return {"threshold": self.threshold}

    def _arrays(self) -> dict[str, Array]:
        return {"vectors": self._rows[: len(self)]}

    def _restore(self, arrays: Mapping[str, Array]) -> None:
        vectors = arrays["vectors"]
        if vectors.ndim != 2 or len(vectors) != len(self):
            raise ValueError(f"{len(vectors)} vectors, {len(self)} ids")
        self._rows = vectors.astype(np.float32)

    def _select(self, rows: Rows) -> None:
        self._rows = self._rows[rows]

    def _vectors(self, texts: list[str]) -> Vectors:
        """Return vectors of length 1, shape (texts, dimensions); a zero vector remains zero."""
        vectors = np.asarray(self._embed(texts), dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise UsageError(f"the model returned {vectors.shape} for {len(texts)} texts; expected one vector per text")
        if not np.isfinite(vectors).all():
            raise UsageError("the model returned a vector with a value that is not a finite number")
        if len(self) and vectors.shape[1] != self._rows.shape[1]:
            raise UsageError(f"the model has {vectors.shape[1]} dimensions, but the pool has {self._rows.shape[1]}")
        norms = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        unit: Vectors = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
        return unit

    def _append(self, vectors: Vectors) -> None:
        used, more = len(self), len(vectors)
        if used + more > len(self._rows):
            grown = np.zeros((max(2 * used, used + more, 64), vectors.shape[1]), dtype=np.float32)
            if used:
                grown[:used] = self._rows[:used]
            self._rows = grown
        self._rows[used : used + more] = vectors

    def _candidates(self, vectors: Vectors) -> list[list[int]]:
        """Return for each vector the rows of the pool that may be too close to it."""
        candidates: list[list[int]] = [[] for _ in vectors]
        for start in range(0, len(self), ROWS):
            close = vectors @ self._rows[start : min(start + ROWS, len(self))].T > self.threshold - MARGIN
            for text, row in zip(*np.nonzero(close), strict=True):
                candidates[text].append(start + int(row))
        return candidates

    def _verdict(self, vector: Vectors, rows: Sequence[int]) -> Verdict:
        """Decide on one vector by its cosines to the candidate rows, in double precision."""
        if not rows:
            return self._kept
        cosines = (self._rows[list(rows)].astype(np.float64) * vector.astype(np.float64)).sum(axis=1)
        cosines = np.minimum(cosines, 1.0)  # rounding may lift a cosine slightly above 1
        best = int(cosines.argmax())
        if cosines[best] <= self.threshold:
            return self._kept
        return self._rejection(float(cosines[best]), self._ids.names[rows[best]])


def _load_model(model: str | Path) -> Embed:
    """Return the embedding function of a model.

    Raises:
        MissingExtraError: model2vec is needed and not installed.
        UsageError: sentence-transformers is needed and not installed, or the model cannot be loaded.
    """
    encode: Any
    try:
        if (Path(model) / SENTENCE_TRANSFORMERS).exists():
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError:
                raise UsageError(
                    "sentence-transformers is not installed; run: pip install sentence-transformers"
                ) from None
            encode = SentenceTransformer(str(model)).encode
        else:
            try:
                from model2vec import StaticModel
            except ImportError:
                raise MissingExtraError("model2vec", "semantic") from None
            encode = StaticModel.from_pretrained(str(model)).encode
    except (OSError, ValueError) as error:
        raise UsageError(f"can't load the embedding model {model}: {first_line(error)}") from None
    return lambda texts: np.asarray(encode(texts))

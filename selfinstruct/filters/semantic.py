"""Semantic duplicates: texts whose embeddings are close.

Vectors come from model2vec (the extra ``semantic``), from sentence-transformers, or from a function of your own.

The similarity is the cosine. Vectors are compared in bulk in single precision; whatever could decide is computed again
in double precision, pair by pair, so that a verdict doesn't depend on how texts were batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.filters import snapshot
from selfinstruct.filters.ids import NO_PICKLE, Ids, paired
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Embed", "SemanticIndex"]

Vectors = npt.NDArray[np.float32]
Embed: TypeAlias = Callable[[list[str]], npt.ArrayLike]  # texts to vectors, shape (texts, dimensions)

BATCH = 512  # texts embedded and compared at once
ROWS = 65_536  # vectors of the pool compared at once: 128 MB of similarities with a full batch
# Written by sentence-transformers only; modules.json and the rest are written by model2vec as well.
SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"
MARGIN = 1e-4  # single precision is off by less in a cosine of up to 4,096 dimensions


class SemanticIndex:
    """A pool of texts, and the judgement whether another one means the same as one of them.

    A text is dropped, for the reason ``same_meaning``, when its cosine to a text of the pool is above the threshold;
    score and nearest are those of the closest, the earliest of several. Ids are as in ``NoveltyIndex``. A text whose
    vector is zero is like no other.

    Args:
        threshold: Highest cosine that is still kept, -1 to 1. It belongs to the model: look at some pairs first.
        model: A function from a list of texts to their vectors, or the name or directory of a model: for
            sentence-transformers where its directory has a ``config_sentence_transformers.json``, otherwise for
            model2vec.
    """

    filter = "semantic"
    reason = RejectReason.SAME_MEANING

    def __init__(self, threshold: float, model: str | Path | Embed) -> None:
        if not -1 <= threshold <= 1:
            raise UsageError(f"threshold {threshold} is not between -1 and 1")
        self.threshold = threshold
        self._embed: Embed = model if callable(model) else _load(model)
        self._ids = Ids()
        self._rows: Vectors = np.zeros((0, 0), dtype=np.float32)  # of length 1, or 0; more rows than are in use

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:  # noqa: A002  (ids are called id everywhere)
        return id in self._ids

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the pool's texts, oldest first."""
        return tuple(self._ids.names)

    def query(self, text: str) -> Verdict:
        """Judge a text against the pool and leave the pool as it is."""
        vectors = self._vectors([text])
        return self._nearest(vectors, self._candidates(vectors))[0]

    def offer(self, text: str, id: str | None = None) -> Verdict:  # noqa: A002
        """Judge a text and add it if it is kept.

        Raises:
            UsageError: The id is in the pool already.
        """
        return self.offer_many([text], None if id is None else [id])[0]

    def offer_many(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> list[Verdict]:
        """Offer texts one after the other.

        Raises:
            UsageError: An id is given twice or is in the pool already. The batches before it have been judged.
        """
        verdicts: list[Verdict] = []
        pairs = iter(paired(texts, ids))
        while batch := list(islice(pairs, BATCH)):
            names = self._ids.take(given for _, given in batch)
            vectors = self._vectors([text for text, _ in batch])
            candidates = self._candidates(vectors)
            within = vectors @ vectors.T
            rows: dict[int, int] = {}  # text of this batch that is kept, to its row
            for at, name in enumerate(names):
                near = np.flatnonzero(within[at, :at] > self.threshold - MARGIN).tolist()
                mine = [rows[other] for other in near if other in rows]
                verdict = self._nearest(vectors[at : at + 1], [candidates[at] + mine])[0]
                verdicts.append(verdict)
                if verdict.kept:
                    rows[at] = len(self._ids)
                    self._append(vectors[at : at + 1])
                    self._ids.add([name])
        return verdicts

    def fit(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> SemanticIndex:
        """Add texts unjudged. Returns the index itself.

        Raises:
            UsageError: An id is given twice or is in the pool already.
        """
        pairs = iter(paired(texts, ids))
        while batch := list(islice(pairs, BATCH)):
            names = self._ids.take(given for _, given in batch)
            self._append(self._vectors([text for text, _ in batch]))
            self._ids.add(names)
        return self

    def save(self, path: str | Path) -> None:
        """Write ids and vectors to a file (npz), in one step. The model is not part of it."""
        parameters = {"threshold": self.threshold, "taken": self._ids.taken}
        arrays = {"vectors": self._rows[: len(self)], **snapshot.pack("ids", self._ids.names)}
        snapshot.write(Path(path), type(self).__name__, parameters, arrays)

    @classmethod
    def load(cls, path: str | Path, model: str | Path | Embed) -> SemanticIndex:
        """An index that ``save`` wrote, with the model that its vectors came from.

        Raises:
            UsageError: The file can't be read, is damaged, or holds another kind or version of index.
        """
        parameters, arrays = snapshot.read(Path(path), cls.__name__)
        try:
            index = cls(parameters["threshold"], model)
            names, vectors, taken = snapshot.unpack("ids", arrays), arrays["vectors"], parameters["taken"]
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged ({error}); build the index again from its texts") from None
        if vectors.ndim != 2 or len(vectors) != len(names):
            raise UsageError(f"{path} is damaged ({len(vectors)} vectors, {len(names)} ids); build the index again")
        index._rows = vectors.astype(np.float32)
        index._ids.add(index._ids.take(names))
        index._ids.taken = taken
        return index

    def __reduce__(self) -> NoReturn:
        raise TypeError(NO_PICKLE.format(name=type(self).__name__))

    # --- inside ---

    def _vectors(self, texts: list[str]) -> Vectors:
        """Vectors of length 1, shape (texts, dimensions); a zero vector stays one."""
        vectors = np.asarray(self._embed(texts), dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise UsageError(f"the model gave {vectors.shape} for {len(texts)} texts; one vector a text is expected")
        if not np.isfinite(vectors).all():
            raise UsageError("the model gave a vector with a value that is no number")
        if len(self) and vectors.shape[1] != self._rows.shape[1]:
            raise UsageError(f"the model gives {vectors.shape[1]} dimensions, the pool has {self._rows.shape[1]}")
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
        """For each vector the rows of the pool that may be too close to it."""
        found: list[list[int]] = [[] for _ in vectors]
        for start in range(0, len(self), ROWS):
            close = vectors @ self._rows[start : min(start + ROWS, len(self))].T > self.threshold - MARGIN
            for text, row in zip(*np.nonzero(close), strict=True):
                found[text].append(start + int(row))
        return found

    def _nearest(self, vectors: Vectors, candidates: Sequence[Sequence[int]]) -> list[Verdict]:
        verdicts = []
        for vector, rows in zip(vectors.astype(np.float64), candidates, strict=True):
            cosines = (self._rows[list(rows)].astype(np.float64) * vector).sum(axis=1) if rows else np.zeros(0)
            cosines = np.minimum(cosines, 1.0)  # rounding may lift it a little above
            best = int(cosines.argmax()) if rows else 0
            if rows and cosines[best] > self.threshold:
                nearest = self._ids.names[rows[best]]
                verdicts.append(Verdict(self.filter, False, self.reason, float(cosines[best]), nearest))
            else:
                verdicts.append(KEPT)
        return verdicts


def _load(model: str | Path) -> Embed:
    """The embedding function of a model.

    Raises:
        UsageError: The package that reads it is not installed.
    """
    encode: Any
    if (Path(model) / SENTENCE_TRANSFORMERS).exists():
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise UsageError("sentence-transformers is not installed; run: pip install sentence-transformers") from None
        encode = SentenceTransformer(str(model)).encode
    else:
        try:
            from model2vec import StaticModel
        except ImportError:
            raise MissingExtraError("model2vec", "semantic") from None
        encode = StaticModel.from_pretrained(str(model)).encode
    return lambda texts: np.asarray(encode(texts))


KEPT = Verdict(SemanticIndex.filter, True)

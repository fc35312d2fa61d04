"""ROUGE-L novelty: keep a text only if it resembles nothing kept before (Self-Instruct, arXiv:2212.10560, 2.2).

A text is kept iff its highest ROUGE-L F1 against the pool is at most the threshold. The decision, and every score
reported, is the one that ``rouge_score`` makes, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from selfinstruct.errors import UsageError
from selfinstruct.filters.lcs import f1, f1_array, lcs_length, rouge_l
from selfinstruct.filters.text import Tokenizer, tokenize, tokenizer_function
from selfinstruct.records import Verdict

__all__ = ["Explain", "NoveltyIndex", "Tokenizer", "f1", "lcs_length", "rouge_l", "tokenize"]

Explain = Literal["match", "dense"]

NEAREST = 10  # the original logs keep the ten most similar instructions of each candidate


class NoveltyIndex:
    """A pool of texts, and the judgement whether another one is new to it.

    Every text has an id, a string: the one given, or else the running number of the texts offered and added so far,
    rejected ones included. Verdicts name the earliest of the most similar texts.

    A text without any token has nothing to compare: its score is 0.0 and it is kept, as ``rouge_score`` would have it.
    Only with ``auto``, where that means no letter and no digit at all, an identical one is dropped with the score 1.0.

    Args:
        threshold: Highest F1 that is still kept, 0 to 1.
        tokenizer: See ``tokenize``; ``rouge`` for parity with the original filter.
    """

    filter = "rouge"
    reason = "similar"

    def __init__(self, threshold: float = 0.7, tokenizer: Tokenizer = "auto") -> None:
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold {threshold} is not between 0 and 1")
        self.threshold = threshold
        self.tokenizer = tokenizer
        self._tokens: Callable[[str], list[str]] = tokenizer_function(tokenizer)
        self._vocabulary: dict[str, int] = {}
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._texts: list[str] = []  # each pool text, its tokens as code points
        self._sizes = np.zeros(64, dtype=np.int32)  # tokens of each; grows by doubling
        self._blank: dict[str, int] = {}  # texts without a token, to the row of the first
        self._count = 0

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:  # noqa: A002  (ids are called id everywhere)
        return id in self._rows

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the pool's texts, oldest first."""
        return tuple(self._ids)

    def query(self, text: str, *, explain: Explain = "match") -> Verdict:
        """Judge a text against the pool and leave the pool as it is.

        Args:
            explain: ``match`` finds what decides: score and nearest of a text that is not kept, neither for one that
                is. ``dense`` compares with the whole pool: score and nearest always, and in ``detail`` the ten most
                similar texts (``nearest``: pairs of id and F1) and the ``mean`` F1, as the original filter logs them.
        """
        return self._judge(text, self._tokens(text), explain)

    def offer(self, text: str, id: str | None = None, *, explain: Explain = "match") -> Verdict:  # noqa: A002
        """Judge a text and add it if it is kept.

        Raises:
            UsageError: The id is in the pool already.
        """
        id = self._take_id(id)  # noqa: A001
        tokens = self._tokens(text)
        verdict = self._judge(text, tokens, explain)
        if verdict.kept:
            self._add(text, tokens, id)
        return verdict

    def offer_many(
        self, texts: Iterable[str], ids: Iterable[str] | None = None, *, explain: Explain = "match"
    ) -> list[Verdict]:
        """Offer texts one after the other; the same verdicts as ``offer`` gives."""
        return [self.offer(text, id, explain=explain) for text, id in paired(texts, ids)]  # noqa: A001

    def add(self, text: str, id: str | None = None) -> None:  # noqa: A002
        """Add a text whatever it resembles.

        Raises:
            UsageError: The id is in the pool already.
        """
        self._add(text, self._tokens(text), self._take_id(id))

    def fit(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> NoveltyIndex:
        """Add texts unjudged (seed tasks, say). Returns the index itself."""
        for text, id in paired(texts, ids):  # noqa: A001
            self.add(text, id)
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(NO_PICKLE.format(name=type(self).__name__))

    # --- inside ---

    def _take_id(self, given: str | None) -> str:
        name = str(self._count) if given is None else given
        if name in self._rows:
            raise UsageError(f"id {name!r} is in the index already; give each text an id of its own")
        self._count += 1
        return name

    def _encode(self, tokens: Sequence[str], *, learn: bool) -> str:
        words = self._vocabulary
        if learn:
            codes = [words.setdefault(token, len(words)) for token in tokens]
        else:
            codes = [words.get(token, len(words)) for token in tokens]  # strangers match nothing in the pool
        return "".join(map(chr, codes))

    def _add(self, text: str, tokens: Sequence[str], id: str) -> None:  # noqa: A002
        row = len(self._ids)
        if row == len(self._sizes):
            self._sizes = np.concatenate([self._sizes, np.zeros_like(self._sizes)])
        self._sizes[row] = len(tokens)
        self._texts.append(self._encode(tokens, learn=True))
        self._ids.append(id)
        self._rows[id] = row
        if not tokens:
            self._blank.setdefault(text.strip(), row)

    def _judge(self, text: str, tokens: Sequence[str], explain: Explain) -> Verdict:
        scores = self._scores(tokens)
        if not tokens and self.tokenizer == "auto" and (row := self._blank.get(text.strip())) is not None:
            scores[row] = 1.0
        best = int(scores.argmax()) if len(scores) else -1
        top = float(scores[best]) if len(scores) else 0.0
        kept = top <= self.threshold
        if kept and explain == "match":
            return Verdict(self.filter, True)
        nearest = self._ids[best] if top > 0 else None
        detail: dict[str, Any] = {}
        if explain == "dense":
            order = np.argsort(-scores, kind="stable")[:NEAREST]
            detail["nearest"] = [[self._ids[row], float(scores[row])] for row in order]
            detail["mean"] = float(scores.mean()) if len(scores) else 0.0
        return Verdict(self.filter, kept, "" if kept else self.reason, top, nearest, detail)

    def _scores(self, tokens: Sequence[str]) -> npt.NDArray[np.float64]:
        """F1 against every text of the pool, shape (len(self),)."""
        sizes = self._sizes[: len(self._ids)]
        if not len(sizes) or not tokens:
            return np.zeros(len(sizes))
        query = self._encode(tokens, learn=False)
        lengths = process.cdist([query], self._texts, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return f1_array(lengths, len(tokens), np.maximum(sizes, 1))


NO_PICKLE = (
    "a {name} holds state and is not pickled: copies of it in worker processes would each judge without seeing what "
    "the others kept. Use dedup(dataset, index, column), offer_many() in this process, or save() and load()"
)


def paired(texts: Iterable[str], ids: Iterable[str] | None) -> Iterable[tuple[str, str | None]]:
    """Texts with their ids, or with None for each.

    Raises:
        UsageError: There are not as many ids as texts.
    """
    if ids is None:
        return ((text, None) for text in texts)
    texts, ids = list(texts), list(ids)
    if len(texts) != len(ids):
        raise UsageError(f"{len(texts)} texts but {len(ids)} ids")
    return zip(texts, ids, strict=True)

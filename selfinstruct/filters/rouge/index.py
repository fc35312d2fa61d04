"""ROUGE-L novelty: keep a text only if it resembles nothing kept before (Self-Instruct, arXiv:2212.10560, section 2.2).

A text is kept if and only if its highest ROUGE-L F1 against the pool is at most the threshold. Each decision and each
reported score equals the result of ``rouge_score``, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from selfinstruct.errors import UsageError
from selfinstruct.filters import index_file
from selfinstruct.filters.engines import Engine
from selfinstruct.filters.rouge.lcs import LONG, common, f1, f1_array, lcs_length, rouge_l, strings
from selfinstruct.filters.rouge.numpy_join import Join, make_join
from selfinstruct.filters.rouge.token_store import Block, Store, Vocabulary
from selfinstruct.filters.text import Tokenizer, stored_tokenizer, tokenize, tokenizer_function
from selfinstruct.filters.text_index import Rows, TextIndex
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Engine", "Explain", "NoveltyIndex", "Tokenizer", "f1", "lcs_length", "rouge_l", "tokenize"]

Explain = Literal["match", "full"]

NEAREST = 10  # the logs of Self-Instruct keep the ten most similar instructions of each candidate
BATCH = 8192  # texts encoded at once: enough for numpy, little memory
NOTHING = Vocabulary().learn([])
NONE = np.zeros(0, dtype=np.int64)
LONGEST = 1 << 16
FEW = 256  # texts; above this, the join is rebuilt whenever the pool has doubled


class NoveltyIndex(TextIndex):
    """A pool of texts, which rejects a text whose ROUGE-L F1 with one of them is above the threshold.

    Ids work as in every ``TextIndex``.

    A text without tokens cannot be compared: its score is 0.0 and it is kept, as with ``rouge_score``. Only with the
    tokenizers ``auto`` and ``words``, where such a text has neither letters nor digits, an identical one is rejected
    with score 1.0.

    Args:
        threshold: Highest F1 that is kept, 0 to 1.
        tokenizer: See ``tokenize``; use ``rouge`` for the decisions of the original filter.
        longest: Number of tokens of a text that are compared; the rest of a longer text is ignored. Comparing two texts
            of m and n tokens with a common beginning or end of c takes at most c + (m - c)(n - c)/64 steps: 67
            million with the default, about a tenth of a second.
        engine: ``numpy`` or ``numba`` (the extra ``fast``); their results are equal. ``auto`` selects numba, if it is
            installed, once there are enough texts to repay its start.

    Raises:
        UsageError: The threshold, the tokenizer or ``longest`` is invalid.
    """

    name = "rouge"
    reason = RejectReason.SIMILAR

    def __init__(
        self,
        threshold: float = 0.7,
        tokenizer: Tokenizer = "auto",
        *,
        longest: int = LONGEST,
        engine: Engine = "auto",
    ) -> None:
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold {threshold} is not between 0 and 1")
        if longest < 1:
            raise UsageError(f"longest is {longest}, but at least one token of each text must be compared")
        super().__init__(threshold)
        self.tokenizer: Tokenizer = "symbols" if tokenizer == "auto" else tokenizer
        self.engine = engine
        self.longest = longest
        self._all_tokens: Callable[[str], list[str]] = tokenizer_function(tokenizer)
        self._vocabulary = Vocabulary()
        self._store = Store()
        self._blank: dict[str, str] = {}  # each text without tokens, with the id of its first occurrence
        self._join: Join | None = None
        self._ranked = 0  # number of texts whose token frequencies determined the join's order
        self._strings: list[Sequence[int] | str] = []  # of the first rows, as far as full comparisons needed them

    def empty(self, threshold: float) -> NoveltyIndex:
        """Return an empty index with another threshold and otherwise the same settings."""
        return NoveltyIndex(threshold, self.tokenizer, longest=self.longest, engine=self.engine)

    def query(self, text: str, *, explain: Explain = "match") -> Verdict:
        """Decide on a text and leave the pool unchanged.

        Args:
            text: The text.
            explain: ``match`` finds only what decides: a rejected text has a score and the nearest text, a kept one has
                neither. ``full`` compares with the whole pool: score and nearest are always present, and ``detail`` has
                the ten most similar texts (``nearest``: pairs of id and F1) and the ``mean`` F1, as in the logs of
                Self-Instruct. The decision is the same.
        """
        block = self._vocabulary.read(self._tokens(text))
        if explain == "full":
            return self._full_verdict(text, block)
        twin = self._twin(text, block)
        if twin is not None:
            return self._rejection(1.0, twin)
        rows, scores = self._current_join().match(block, insert=False)
        return self._rejection(float(scores[0]), self._ids.names[rows[0]]) if rows[0] >= 0 else self._kept

    def offer(self, text: str, id: str | None = None, *, explain: Explain = "match") -> Verdict:  # noqa: A002
        """Decide on a text, and add it to the pool if it is kept.

        Raises:
            UsageError: The id is in the pool already.
        """
        return self.offer_many([text], None if id is None else [id], explain=explain)[0]

    def offer_many(
        self, texts: Iterable[str], ids: Iterable[str] | None = None, *, explain: Explain = "match"
    ) -> list[Verdict]:
        """Offer texts one after the other; equal to repeated ``offer``, but much faster.

        Raises:
            UsageError: An id occurs twice, or is in the pool already. Earlier batches have been decided by then.
        """
        verdicts: list[Verdict] = []
        for batch, names in self._batches(texts, ids, lambda: BATCH):
            verdicts += self._offer(batch, names, explain)
        return verdicts

    def fit(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> Self:
        """Add texts to the pool without decisions, seed tasks for instance. Return the index itself.

        Raises:
            UsageError: An id occurs twice, or is in the pool already.
        """
        for batch, names in self._batches(texts, ids, lambda: BATCH):
            block = self._vocabulary.learn(map(self._tokens, batch))
            for text, name, size in zip(batch, names, block.sizes.tolist(), strict=True):
                if not size:
                    self._blank.setdefault(text.strip(), name)
            self._current_join(block).append(block)
            self._ids.add(names)
        return self

    def merge(self, other: NoveltyIndex) -> list[Verdict]:
        """Offer the texts of another index, with their ids and in their order; the other index is unchanged.

        Raises:
            UsageError: The settings of the indexes differ, or an id is in both.
        """
        mine, theirs = self._parameters(), other._parameters()
        if mine != theirs:
            raise UsageError(f"the settings of the indexes differ, {mine} and {theirs}: build one of them again")
        words, numbers = other._vocabulary.words()
        word_of = dict(zip(numbers.tolist(), words, strict=True))
        block = other._store.block
        text_of = {name: text for text, name in other._blank.items()}
        names = self._ids.take(other.ids)
        texts = [text_of.get(name, "") for name in names]
        return self._decide_block(texts, names, self._vocabulary.learn(_decoded(block.tokens, block.offsets, word_of)))

    @classmethod
    def load(cls, path: str | Path, *, engine: Engine = "auto") -> Self:
        """Return the index that ``save`` wrote.

        Raises:
            UsageError: The file cannot be read, is damaged, or holds another kind or version of index.
        """
        return cls._load(
            path,
            lambda parameters: cls(
                parameters["threshold"],
                stored_tokenizer(parameters["tokenizer"]),
                longest=parameters["longest"],
                engine=engine,
            ),
        )

    def _parameters(self) -> dict[str, float | int | str]:
        return {"threshold": self.threshold, "tokenizer": self.tokenizer, "longest": self.longest}

    def _arrays(self) -> dict[str, index_file.Array]:
        words, numbers = self._vocabulary.words()
        block = self._store.block
        return {
            "numbers": numbers,
            "tokens": block.tokens,
            "offsets": block.offsets,
            **index_file.pack("words", words),
            **index_file.pack("blank", list(self._blank)),
            **index_file.pack("blank_ids", list(self._blank.values())),
        }

    def _restore(self, arrays: Mapping[str, index_file.Array]) -> None:
        word_of = dict(zip(arrays["numbers"].tolist(), index_file.unpack("words", arrays), strict=True))
        rows = _decoded(arrays["tokens"], arrays["offsets"], word_of)
        if len(rows) != len(self):
            raise ValueError(f"{len(rows)} texts, {len(self)} ids")
        blank, blank_ids = index_file.unpack("blank", arrays), index_file.unpack("blank_ids", arrays)
        self._blank = dict(zip(blank, blank_ids, strict=True))
        self._store.extend(self._vocabulary.learn(rows))

    def _select(self, rows: Rows) -> None:
        store = Store()
        store.extend(self._store.block.select(rows))
        self._blank = {text: name for text, name in self._blank.items() if name in self._ids}
        self._store = store
        self._join = None
        self._strings = []

    def _tokens(self, text: str) -> list[str]:
        tokens = self._all_tokens(text)
        return tokens if len(tokens) <= self.longest else tokens[: self.longest]

    def _current_join(self, coming: Block = NOTHING) -> Join:
        """Return the join, rebuilt if the pool has doubled since its tags were ranked."""
        texts = len(self._store) + len(coming)
        if self._join is None or texts > 2 * max(self._ranked, FEW):
            self._ranked = texts
            self._join = make_join(self.engine, self.threshold, self._store, len(self._vocabulary), coming)
        return self._join

    def _offer(self, texts: Sequence[str], names: Sequence[str], explain: Explain) -> list[Verdict]:
        block = self._vocabulary.learn(map(self._tokens, texts))
        if explain == "match":
            return self._decide_block(texts, names, block)
        verdicts = []
        for number, (text, name) in enumerate(zip(texts, names, strict=True)):
            single = block.part(number, number + 1)
            verdict = self._full_verdict(text, single)
            verdicts.append(verdict)
            if verdict.kept:
                self._current_join(single).append(single)
                self._ids.add([name])
                if not single.sizes[0]:
                    self._blank.setdefault(text.strip(), name)
        return verdicts

    def _decide_block(self, texts: Sequence[str], names: Sequence[str], block: Block) -> list[Verdict]:
        """Decide on the texts of a block, and add the kept ones."""
        verdicts = [self._kept] * len(block)
        for number in np.flatnonzero(block.sizes == 0).tolist():
            twin = self._twin(texts[number], None)
            if twin is None:
                self._blank.setdefault(texts[number].strip(), names[number])
            else:
                verdicts[number] = self._rejection(1.0, twin)
        has_twins = any(not verdict.kept for verdict in verdicts)
        numbers = np.flatnonzero([verdict.kept for verdict in verdicts]) if has_twins else np.arange(len(block))
        compared = block.select(numbers) if has_twins else block
        rows, scores = self._current_join(compared).match(compared, insert=True)
        self._ids.add([names[number] for number in numbers[rows < 0].tolist()])
        for position in np.flatnonzero(rows >= 0).tolist():
            verdicts[numbers[position]] = self._rejection(float(scores[position]), self._ids.names[rows[position]])
        return verdicts

    def _twin(self, text: str, block: Block | None) -> str | None:
        """Return the id of an identical text without tokens, where identity counts; None otherwise."""
        if self.tokenizer not in ("symbols", "words") or (block is not None and len(block.tokens)):
            return None
        return self._blank.get(text.strip())

    def _full_verdict(self, text: str, block: Block) -> Verdict:
        """Decide on one text by comparing it with the whole pool."""
        scores = self._scores(block)
        twin = self._twin(text, block)
        if twin is not None:
            scores[self._ids.names.index(twin)] = 1.0
        best = int(scores.argmax()) if len(scores) else 0
        top = float(scores[best]) if len(scores) else 0.0
        kept = top <= self.threshold and twin is None
        order = np.argsort(-scores, kind="stable")[:NEAREST]
        detail: dict[str, Any] = {
            "nearest": [[self._ids.names[row], float(scores[row])] for row in order],
            "mean": float(scores.mean()) if len(scores) else 0.0,
        }
        nearest = self._ids.names[best] if top > 0 else None
        return Verdict(self.name, kept, "" if kept else self.reason, top, nearest, detail)

    def _scores(self, block: Block) -> npt.NDArray[np.float64]:
        """Return the F1 of the only text of a block against every text of the pool, shape (len(self),)."""
        rows = len(self._store)
        if not rows or not len(block.tokens):
            return np.zeros(rows)
        pool = self._store.block
        if len(self._strings) < rows:
            new = pool.part(len(self._strings), rows)
            self._strings += strings(new.tokens, new.offsets)
        query = strings(block.tokens, block.offsets)
        lengths = np.zeros(rows, dtype=np.int32)
        long = np.flatnonzero(self._store.sizes[:rows] > LONG) if len(block.tokens) > LONG else NONE
        if len(long):
            lengths[long] = [common(query[0], self._strings[row]) for row in long.tolist()]
            short = np.flatnonzero(self._store.sizes[:rows] <= LONG)
            others = [self._strings[row] for row in short.tolist()]
            lengths[short] = process.cdist(query, others, scorer=LCSseq.similarity, dtype=np.int32)[0]
        else:
            lengths[:] = process.cdist(query, self._strings, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return f1_array(lengths, len(block.tokens), np.maximum(self._store.sizes[:rows], 1))


def _decoded(tokens: index_file.Array, offsets: index_file.Array, word_of: Mapping[int, str]) -> list[list[str]]:
    """Return the tokens of each text of a block as strings."""
    numbers = tokens.tolist()
    return [[word_of[number] for number in numbers[start:end]] for start, end in pairwise(offsets.tolist())]

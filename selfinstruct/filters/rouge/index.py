"""ROUGE-L novelty: keep a text only if it resembles nothing kept before (Self-Instruct, arXiv:2212.10560, 2.2).

A text is kept iff its highest ROUGE-L F1 against the pool is at most the threshold. The decision, and every score
reported, is the one that ``rouge_score`` makes, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from selfinstruct.errors import UsageError
from selfinstruct.filters import snapshot
from selfinstruct.filters.engines import Engine
from selfinstruct.filters.ids import NO_PICKLE, Ids, paired
from selfinstruct.filters.rouge.join import Join, make_join
from selfinstruct.filters.rouge.lcs import LONG, common, f1, f1_array, lcs_length, rouge_l, strings
from selfinstruct.filters.rouge.store import Block, Store, Vocabulary
from selfinstruct.filters.text import Tokenizer, tokenize, tokenizer_function
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Engine", "Explain", "NoveltyIndex", "Tokenizer", "f1", "lcs_length", "rouge_l", "tokenize"]

Explain = Literal["match", "dense"]

NEAREST = 10  # the original logs keep the ten most similar instructions of each candidate
BATCH = 8192  # texts encoded at once: enough for numpy, little memory
NOTHING = Vocabulary().learn([])
NONE = np.zeros(0, dtype=np.int64)
LONGEST = 1 << 16
FEW = 256  # the pool is ranked anew whenever it has doubled, but not below this


class NoveltyIndex:
    """A pool of texts, and the judgement whether another one is new to it.

    Every text has an id, a string: the one given, or else the running number of the texts offered and added so far,
    rejected ones included. Verdicts name the earliest of the most similar texts.

    A text without any token has nothing to compare: its score is 0.0 and it is kept, as ``rouge_score`` would have it.
    Only with ``auto``, where that means no letter and no digit at all, an identical one is dropped with the score 1.0.

    Args:
        threshold: Highest F1 that is still kept, 0 to 1.
        tokenizer: See ``tokenize``; ``rouge`` for parity with the original filter.
        longest: Tokens of a text that are compared; of a longer one the first so many. To compare two texts of m and n
            tokens, of which c are a common beginning or end, takes c + (m - c)(n - c)/64 steps at most: 67 million
            with the default, about a tenth of a second.
        engine: ``numpy``, or ``numba`` (the extra ``fast``), which are equal in every result. ``auto`` takes numba,
            where it is installed, once there are enough texts to repay its start.
    """

    filter = "rouge"
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
            raise UsageError(f"longest is {longest}: of each text at least one token is compared")
        self.threshold = threshold
        self.tokenizer = tokenizer
        self.engine = engine
        self.longest = longest
        self._all_tokens: Callable[[str], list[str]] = tokenizer_function(tokenizer)
        self._vocabulary = Vocabulary()
        self._store = Store()
        self._ids = Ids()
        self._blank: dict[str, str] = {}  # texts without a token, to the id of the first
        self._join: Join | None = None
        self._ranked = 0  # texts whose token frequencies the join's order was made from
        self._strings: list[Sequence[int] | str] = []  # of the first so many rows; for dense answers

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:  # noqa: A002  (ids are called id everywhere)
        return id in self._ids

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the pool's texts, oldest first."""
        return tuple(self._ids.names)

    @property
    def taken(self) -> int:
        """Texts offered and added so far: the running number of the next."""
        return self._ids.taken

    def empty(self, threshold: float) -> NoveltyIndex:
        """An empty index with another threshold, and all else as here."""
        return NoveltyIndex(threshold, self.tokenizer, longest=self.longest, engine=self.engine)

    def query(self, text: str, *, explain: Explain = "match") -> Verdict:
        """Judge a text against the pool and leave the pool as it is.

        Args:
            explain: ``match`` finds what decides: score and nearest of a text that is not kept, neither for one that
                is. ``dense`` compares with the whole pool: score and nearest always, and in ``detail`` the ten most
                similar texts (``nearest``: pairs of id and F1) and the ``mean`` F1, as the original filter logs them.
        """
        block = self._vocabulary.read(self._tokens(text))
        if explain == "dense":
            return self._dense(text, block)
        twin = self._twin(text, block)
        if twin is not None:
            return self._verdict(1.0, twin)
        rows, scores = self._engine().judge(block, insert=False)
        return self._verdict(float(scores[0]), self._ids.names[rows[0]]) if rows[0] >= 0 else KEPT

    def offer(self, text: str, id: str | None = None, *, explain: Explain = "match") -> Verdict:  # noqa: A002
        """Judge a text and add it if it is kept.

        Raises:
            UsageError: The id is in the pool already.
        """
        return self.offer_many([text], None if id is None else [id], explain=explain)[0]

    def offer_many(
        self, texts: Iterable[str], ids: Iterable[str] | None = None, *, explain: Explain = "match"
    ) -> list[Verdict]:
        """Offer texts one after the other; the same verdicts as ``offer`` gives, much faster.

        Raises:
            UsageError: An id is given twice or is in the pool already. The batches before it have been judged.
        """
        verdicts: list[Verdict] = []
        pairs = iter(paired(texts, ids))
        while batch := list(islice(pairs, BATCH)):
            names = self._ids.take(given for _, given in batch)
            verdicts += self._offer([text for text, _ in batch], names, explain)
        return verdicts

    def add(self, text: str, id: str | None = None) -> None:  # noqa: A002
        """Add a text whatever it resembles.

        Raises:
            UsageError: The id is in the pool already.
        """
        self.fit([text], None if id is None else [id])

    def fit(self, texts: Iterable[str], ids: Iterable[str] | None = None) -> NoveltyIndex:
        """Add texts unjudged (seed tasks, say). Returns the index itself.

        Raises:
            UsageError: An id is given twice or is in the pool already.
        """
        pairs = iter(paired(texts, ids))
        while batch := list(islice(pairs, BATCH)):
            names = self._ids.take(given for _, given in batch)
            block = self._vocabulary.learn(self._tokens(text) for text, _ in batch)
            for (text, _), name, size in zip(batch, names, block.sizes.tolist(), strict=True):
                if not size:
                    self._blank.setdefault(text.strip(), name)
            self._engine(block).append(block)
            self._ids.add(names)
        return self

    def remove(self, ids: Iterable[str]) -> None:
        """Forget texts. Takes time in proportion to the pool: give all ids at once.

        Raises:
            UsageError: An id is not in the pool; nothing is removed.
        """
        rows = np.array(self._ids.remove(ids), dtype=np.int64)
        store = Store()
        store.extend(self._store.block.select(rows))
        self._blank = {text: name for text, name in self._blank.items() if name in self._ids}
        self._replace(store)

    def merge(self, other: NoveltyIndex) -> list[Verdict]:
        """Offer the texts of another index, under their ids and in their order; the other is left as it is.

        Raises:
            UsageError: The other has a different threshold or tokenizer, or an id is in both.
        """
        mine, theirs = ((index.threshold, index.tokenizer, index.longest) for index in (self, other))
        if mine != theirs:
            raise UsageError(
                f"indexes differ in threshold, tokenizer and longest, {mine} and {theirs}: rebuild one of them"
            )
        words, numbers = other._vocabulary.words()
        of = dict(zip(numbers.tolist(), words, strict=True))
        tokens, offsets = other._store.block.tokens.tolist(), other._store.block.offsets.tolist()
        rows = [[of[number] for number in tokens[start:end]] for start, end in pairwise(offsets)]
        blank = {name: text for text, name in other._blank.items()}
        names = self._ids.take(other.ids)
        return self._judged([blank.get(name, "") for name in names], names, self._vocabulary.learn(rows))

    def save(self, path: str | Path) -> None:
        """Write the index to a file (npz), in one step; see ``load``."""
        words, numbers = self._vocabulary.words()
        block = self._store.block
        snapshot.write(
            Path(path),
            type(self).__name__,
            {
                "threshold": self.threshold,
                "tokenizer": self.tokenizer,
                "longest": self.longest,
                "taken": self._ids.taken,
            },
            {
                "numbers": numbers,
                "tokens": block.tokens,
                "offsets": block.offsets,
                **snapshot.pack("words", words),
                **snapshot.pack("ids", self._ids.names),
                **snapshot.pack("blank", list(self._blank)),
                **snapshot.pack("blank_ids", list(self._blank.values())),
            },
        )

    @classmethod
    def load(cls, path: str | Path, *, engine: Engine = "auto") -> NoveltyIndex:
        """An index that ``save`` wrote.

        Raises:
            UsageError: The file can't be read, is damaged, or holds another kind or version of index.
        """
        parameters, arrays = snapshot.read(Path(path), cls.__name__)
        try:
            longest = parameters["longest"]
            index = cls(parameters["threshold"], parameters["tokenizer"], longest=longest, engine=engine)
            words = dict(zip(arrays["numbers"].tolist(), snapshot.unpack("words", arrays), strict=True))
            blank = dict(zip(snapshot.unpack("blank", arrays), snapshot.unpack("blank_ids", arrays), strict=True))
            names = snapshot.unpack("ids", arrays)
            tokens, offsets = arrays["tokens"].tolist(), arrays["offsets"].tolist()
            rows = [[words[number] for number in tokens[start:end]] for start, end in pairwise(offsets)]
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged ({error}); build the index again from its texts") from None
        if len(rows) != len(names):
            raise UsageError(f"{path} is damaged ({len(rows)} texts, {len(names)} ids); build the index again")
        index._store.extend(index._vocabulary.learn(rows))
        index._ids.add(index._ids.take(names))
        index._ids.taken = parameters["taken"]
        index._blank = blank
        return index

    def __reduce__(self) -> NoReturn:
        raise TypeError(NO_PICKLE.format(name=type(self).__name__))

    # --- inside ---

    def _tokens(self, text: str) -> list[str]:
        tokens = self._all_tokens(text)
        return tokens if len(tokens) <= self.longest else tokens[: self.longest]

    def _engine(self, coming: Block = NOTHING) -> Join:
        """The join, made anew when the pool has doubled since its tags were ranked."""
        texts = len(self._store) + len(coming)
        if self._join is None or texts > 2 * max(self._ranked, FEW):
            self._ranked = texts
            self._join = make_join(self.engine, self.threshold, self._store, len(self._vocabulary), coming)
        return self._join

    def _replace(self, store: Store) -> None:
        self._store = store
        self._join = None
        self._strings = []

    def _offer(self, texts: Sequence[str], names: Sequence[str], explain: Explain) -> list[Verdict]:
        block = self._vocabulary.learn(map(self._tokens, texts))
        if explain == "match":
            return self._judged(texts, names, block)
        verdicts = []
        for place, (text, name) in enumerate(zip(texts, names, strict=True)):
            one = block.part(place, place + 1)
            verdict = self._dense(text, one)
            verdicts.append(verdict)
            if verdict.kept:
                self._engine(one).append(one)
                self._ids.add([name])
                if not one.sizes[0]:
                    self._blank.setdefault(text.strip(), name)
        return verdicts

    def _judged(self, texts: Sequence[str], names: Sequence[str], block: Block) -> list[Verdict]:
        """Judge a block and add what is kept."""
        verdicts = [KEPT] * len(block)
        for place in np.flatnonzero(block.sizes == 0).tolist():
            twin = self._twin(texts[place], None)
            if twin is None:
                self._blank.setdefault(texts[place].strip(), names[place])
            else:
                verdicts[place] = self._verdict(1.0, twin)
        twins = any(not verdict.kept for verdict in verdicts)
        places = np.flatnonzero([verdict.kept for verdict in verdicts]) if twins else np.arange(len(block))
        judged = block.select(places) if twins else block
        rows, scores = self._engine(judged).judge(judged, insert=True)
        self._ids.add([names[place] for place in places[rows < 0].tolist()])
        for at in np.flatnonzero(rows >= 0).tolist():
            verdicts[places[at]] = self._verdict(float(scores[at]), self._ids.names[rows[at]])
        return verdicts

    def _twin(self, text: str, block: Block | None) -> str | None:
        """Id of an identical text without tokens, where that counts."""
        if self.tokenizer != "auto" or (block is not None and len(block.tokens)):
            return None
        return self._blank.get(text.strip())

    def _verdict(self, score: float, nearest: str) -> Verdict:
        return Verdict(self.filter, False, self.reason, score, nearest)

    def _dense(self, text: str, block: Block) -> Verdict:
        """Judge one text with all that can be told about it."""
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
        return Verdict(self.filter, kept, "" if kept else self.reason, top, nearest, detail)

    def _scores(self, block: Block) -> npt.NDArray[np.float64]:
        """F1 of the only text of a block against every text of the pool, shape (len(self),)."""
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
            rest = np.flatnonzero(self._store.sizes[:rows] <= LONG)
            others = [self._strings[row] for row in rest.tolist()]
            lengths[rest] = process.cdist(query, others, scorer=LCSseq.similarity, dtype=np.int32)[0]
        else:
            lengths[:] = process.cdist(query, self._strings, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return f1_array(lengths, len(block.tokens), np.maximum(self._store.sizes[:rows], 1))


KEPT = Verdict(NoveltyIndex.filter, True)

"""Texts that reveal items of a benchmark: a whole item, long runs of it, or a short item hardly changed.

Five rules, tried in this order. They compare the tokens of ``find_words``: case, punctuation and spacing do not matter.

| reason      | rule                                                                   | source                        |
| ----------- | ---------------------------------------------------------------------- | ----------------------------- |
| `exact`     | has the same tokens as an item                                         |                               |
| `ngram`     | shares a run of 13 tokens with an item                                 | Brown et al. 2020, appendix C |
| `coverage`  | has runs of 8 that cover more than half of an item's tokens            | Lambert et al. 2024 (Tülu 3)  |
| `contained` | contains all of an item of 5 to 12 tokens                              | this project                  |
| `rouge`     | ROUGE-L F1 above 0.8 with an item of 5 to 12 tokens                    | this project                  |

The last two exist because no n-gram rule applies to an item shorter than n, and half of all instructions are shorter
than 13 tokens. An item with fewer than 5 tokens ("Tell me a joke") is a common phrase, and only an exact copy counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter
from selfinstruct.filters.ngrams import Longs, NgramIndex, NgramQuery
from selfinstruct.filters.rouge.index import NoveltyIndex
from selfinstruct.filters.text import find_words
from selfinstruct.filters.token_spans import token_spans
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Decontaminator"]

# Brown et al. 2020 (arXiv:2005.14165), appendix C: texts collide if they share 13 lower-case words without punctuation.
NGRAM = 13
# Lambert et al. 2024 (arXiv:2411.15124): a token of a test item counts as matched if it is part of a run of 8 tokens of
# the item that the training text contains; the text matches the item if more than half of the tokens are matched.
WINDOW = 8
COVERAGE = 0.5
# Short items, see above: an F1 above 0.8 allows one of 6 tokens to differ, or two of 11.
SHORT = 5
ROUGE = 0.8

BATCH = 256  # texts looked up at once


@dataclass(frozen=True)
class Decontaminator(Filter):
    """Rejects texts that reveal one of a benchmark's items.

    ``nearest`` is the item's id. ``detail["spans"]`` lists the matching parts of the text as [start, end] in
    characters, ``detail["item"]`` is the item's id again. The score is the F1 for ``rouge``, otherwise the share of the
    item's tokens that the matching runs cover. If several items match, the one with the highest score is reported, then
    the first.

    The index of the items is built on first use, in each worker process, and is never pickled.

    Attributes:
        items: The benchmark's texts.
        ids: Their ids; by default their running numbers.
        ngram: Length in tokens of a run that suffices to reject; None switches the rule off.
        window, coverage: Length in tokens of the runs, and the share of an item that they may cover; ``coverage`` None
            switches the rule off.
        short: Items with at least this many tokens, and fewer than ``ngram`` (or 13), are compared as a whole and by
            ROUGE-L; None switches both rules off.
        rouge: Highest F1 that is kept; None switches the rule off.
    """

    name: ClassVar[str] = "contamination"
    items: Sequence[str] = field(repr=False)
    ids: Sequence[str] | None = field(default=None, repr=False)
    ngram: int | None = NGRAM
    window: int = WINDOW
    coverage: float | None = COVERAGE
    short: int | None = SHORT
    rouge: float | None = ROUGE

    def __post_init__(self) -> None:
        if self.ids is not None and len(self.ids) != len(self.items):
            raise UsageError(f"{len(self.items)} items but {len(self.ids)} ids")
        if any(tokens is not None and tokens < 1 for tokens in (self.ngram, self.window, self.short)):
            raise UsageError("ngram, window and short are numbers of tokens, at least 1")
        if not all(0 <= share <= 1 for share in (self.coverage, self.rouge) if share is not None):
            raise UsageError("coverage and rouge are shares, between 0 and 1")

    @cached_property
    def _index(self) -> _ItemIndex:
        return _ItemIndex(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_index"}

    def decide(self, texts: Sequence[str]) -> list[Verdict]:
        """Decide on each text."""
        return [self._verdict(text, match) for text, match in zip(texts, self._index.find(texts), strict=True)]

    def _verdict(self, text: str, match: _Match | None) -> Verdict:
        if match is None:
            return self.keep()
        item = str(match.item) if self.ids is None else self.ids[match.item]
        tokens = token_spans(text)
        spans = [[tokens[start][0], tokens[end - 1][1]] for start, end in match.runs] or [[0, len(text)]]
        return Verdict(self.name, False, match.reason, match.score, item, {"item": item, "spans": spans})


@dataclass(frozen=True, slots=True)
class _Match:
    """The first rule that a text breaks.

    Attributes:
        reason: Reason code.
        item: Number of the item.
        score: See ``Decontaminator``.
        runs: Ranges of the text's tokens that match.
    """

    reason: RejectReason
    item: int
    score: float
    runs: list[tuple[int, int]]


class _ItemIndex:
    """The benchmark's items, prepared for each of the rules."""

    def __init__(self, config: Decontaminator) -> None:
        self._config = config
        rows = [find_words(item) for item in config.items]
        self._exact: dict[str, int] = {}
        for item, (row, text) in enumerate(zip(rows, config.items, strict=True)):
            self._exact.setdefault(_key(row, text), item)
        self._grams = NgramIndex(rows)
        if config.ngram is not None:
            self._grams.index(config.ngram)
        if config.coverage is not None and config.window != config.ngram:
            self._grams.index(config.window)
        self._whole = NgramIndex([])
        self._short: Longs = np.zeros(0, dtype=np.int64)
        self._rouge: NoveltyIndex | None = None
        self._longest = 0  # tokens of the longest text that can resemble a short item above the ROUGE-L threshold
        if config.short is not None:
            self._index_short(rows, config.short)

    def _index_short(self, rows: list[list[str]], least: int) -> None:
        most = (self._config.ngram or NGRAM) - 1
        self._short = np.array([item for item, row in enumerate(rows) if least <= len(row) <= most], dtype=np.int64)
        short = [rows[item] for item in self._short.tolist()]
        self._whole = NgramIndex(short)
        for size in sorted(set(map(len, short))):
            self._whole.index(size, self._whole.offsets[:-1][self._whole.sizes == size])
        rouge = self._config.rouge
        if rouge and short:
            self._rouge = NoveltyIndex(rouge, "words").fit(self._config.items[item] for item in self._short.tolist())
            self._longest = int(max(map(len, short)) * (2 - rouge) / rouge) + 1

    def find(self, texts: Sequence[str]) -> list[_Match | None]:
        """Return for each text the first rule that it breaks, or None."""
        matches: list[_Match | None] = []
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            rows = list(map(find_words, part))
            runs, wholes = self._grams.suspects(rows).tolist(), self._whole.suspects(rows).tolist()
            matches += map(self._find, part, rows, runs, wholes)
        return matches

    def _find(self, text: str, tokens: list[str], has_run: bool, has_whole: bool) -> _Match | None:
        item = self._exact.get(_key(tokens, text))
        if item is not None:
            return _Match(RejectReason.EXACT, item, 1.0, [(0, len(tokens))] if tokens else [])
        match = self._shared(tokens) if has_run else None
        if match is None and has_whole:
            match = self._contained(tokens)
        return match or self._similar(text, tokens)

    def _shared(self, tokens: list[str]) -> _Match | None:
        config, query = self._config, self._grams.read(tokens)
        match = None
        if config.ngram is not None:
            match = self._covered(RejectReason.NGRAM, query, config.ngram, 0.0)
        if match is None and config.coverage is not None:
            match = self._covered(RejectReason.COVERAGE, query, config.window, config.coverage)
        return match

    def _covered(self, reason: RejectReason, query: NgramQuery, n: int, limit: float) -> _Match | None:
        """Return the item with the largest share of its tokens in shared runs of n, if that share exceeds the limit."""
        starts, _ = query.find(n)
        if not len(starts):
            return None
        covered = np.unique(starts[:, None] + np.arange(n))
        items, counts = np.unique(self._grams.row(covered), return_counts=True)
        shares = counts / self._grams.sizes[items]
        best = int(shares.argmax())
        if shares[best] <= limit:
            return None
        item = int(items[best])
        runs = query.runs(n, starts[self._grams.row(starts) == item])
        return _Match(reason, item, float(shares[best]), runs)

    def _contained(self, tokens: list[str]) -> _Match | None:
        """Return the longest short item that the text contains as a whole."""
        query = self._whole.read(tokens)
        for size in reversed(self._whole.lengths):
            starts, first = query.find(size)
            if len(starts):
                item = int(self._short[self._whole.row(starts[:1])[0]])
                return _Match(RejectReason.CONTAINED, item, 1.0, [(int(first[0]), int(first[0]) + size)])
        return None

    def _similar(self, text: str, tokens: list[str]) -> _Match | None:
        if self._rouge is None or not 0 < len(tokens) <= self._longest:
            return None
        # If k of the tokens occur in any short item, F1 is at most 2k / (n + k), which settles most texts.
        shared = sum(token in self._whole for token in tokens)
        if 2 * shared <= self._rouge.threshold * (len(tokens) + shared):
            return None
        verdict = self._rouge.query(text)
        if verdict.kept or verdict.nearest is None or verdict.score is None:
            return None
        item = int(self._short[int(verdict.nearest)])
        return _Match(RejectReason.ROUGE, item, verdict.score, [(0, len(tokens))])


def _key(tokens: list[str], text: str) -> str:
    """Return a key that equal items share; a text without tokens is compared literally."""
    return " ".join(tokens) or f"\n{text.strip()}"

"""Texts that give away items of a benchmark: the whole item, long runs of it, or a short one hardly changed.

Five rules, tried in this order. Tokens are those of ``tokenize``: case, punctuation and spacing make no difference.

| reason      | rule                                                                   | source                        |
| ----------- | ---------------------------------------------------------------------- | ----------------------------- |
| `exact`     | the same tokens as an item                                             |                               |
| `ngram`     | a run of 13 tokens in common with an item                              | Brown et al. 2020, appendix C |
| `coverage`  | more than half of an item's tokens lie in runs of 8 that the text has  | Lambert et al. 2024 (Tülu 3)  |
| `contained` | the whole of an item of 5 to 12 tokens                                 | this project                  |
| `rouge`     | ROUGE-L F1 above 0.8 with an item of 5 to 12 tokens                    | this project                  |

The last two exist because no rule of n-grams sees an item shorter than n, and half of all instructions are shorter
than 13 tokens. An item of fewer than 5 tokens ("Tell me a joke") is anybody's phrase, and counts only when exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter
from selfinstruct.filters.grams import Grams, Longs, Query
from selfinstruct.filters.offsets import token_spans
from selfinstruct.filters.rouge.index import NoveltyIndex
from selfinstruct.filters.text import tokenize
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Decontaminator"]

# Brown et al. 2020 (arXiv:2005.14165), appendix C: texts collide that share 13 lower-case words without punctuation.
NGRAM = 13
# Lambert et al. 2024 (arXiv:2411.15124): a token of a test item counts as matched where it is part of a run of 8 of the
# item that a training text has as well; a text matches the item with more than half of its tokens.
WINDOW = 8
COVERAGE = 0.5
# Short items: see above. F1 above 0.8 allows one of 6 tokens to differ, or two of 11.
SHORT = 5
ROUGE = 0.8

BATCH = 256  # texts looked up at once

Found: TypeAlias = tuple[str, int, float, list[tuple[int, int]]]  # reason, item, score, ranges of the text's tokens


@dataclass(frozen=True)
class Decontaminator(Filter):
    """Drops texts that give away one of a benchmark's items.

    ``nearest`` is the item's id. ``detail["spans"]`` lists the matched places of the text as [start, end] in
    characters, ``detail["item"]`` is the item's id again. The score is F1 for ``rouge``, otherwise the share of the
    item's tokens that the matched runs cover; of several items the one with the highest is reported, then the first.

    The index is built with the object and once more in every worker process; it is not part of what is sent there.

    Attributes:
        items: The benchmark's texts.
        ids: Their names; by default their running numbers.
        ngram: Tokens of a run that alone is too much; None turns the rule off.
        window, coverage: Tokens of the runs, and the share of an item that may lie in them; ``coverage`` None turns
            the rule off.
        short: Items of at least so many tokens, and fewer than ``ngram`` (or 13), are looked for as a whole and by
            ROUGE-L; None turns both rules off.
        rouge: Highest F1 that is kept; None turns the rule off.
    """

    filter: ClassVar[str] = "contamination"
    items: tuple[str, ...] = field(repr=False)
    ids: tuple[str, ...] | None = field(default=None, repr=False)
    ngram: int | None = NGRAM
    window: int = WINDOW
    coverage: float | None = COVERAGE
    short: int | None = SHORT
    rouge: float | None = ROUGE
    _index: _Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))
        if self.ids is not None:
            object.__setattr__(self, "ids", tuple(self.ids))
            if len(self.ids) != len(self.items):
                raise UsageError(f"{len(self.items)} items but {len(self.ids)} ids")
        if any(tokens is not None and tokens < 1 for tokens in (self.ngram, self.window, self.short)):
            raise UsageError("ngram, window and short are numbers of tokens, at least 1")
        if not all(0 <= share <= 1 for share in (self.coverage, self.rouge) if share is not None):
            raise UsageError("coverage and rouge are shares, between 0 and 1")
        object.__setattr__(self, "_index", _Index(self))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_index"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        object.__setattr__(self, "_index", _Index(self))

    def verdict(self, text: str) -> Verdict:
        """Judge one text."""
        return self.judge([text])[0]

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Judge each text."""
        return [self._verdict(text, found) for text, found in zip(texts, self._index.find(texts), strict=True)]

    def _verdict(self, text: str, found: Found | None) -> Verdict:
        if found is None:
            return self.kept()
        reason, item, score, runs = found
        name = str(item) if self.ids is None else self.ids[item]
        places = token_spans(text)
        spans = [[places[start][0], places[end - 1][1]] for start, end in runs] or [[0, len(text)]]
        return Verdict(self.filter, False, reason, score, name, {"item": name, "spans": spans})


class _Index:
    """What is known of the items."""

    def __init__(self, config: Decontaminator) -> None:
        self._config = config
        rows = [tokenize(item) for item in config.items]
        self._exact: dict[str, int] = {}
        for item, (row, text) in enumerate(zip(rows, config.items, strict=True)):
            self._exact.setdefault(_key(row, text), item)
        self._grams = Grams(rows)
        if config.ngram is not None:
            self._grams.index(config.ngram)
        if config.coverage is not None and config.window != config.ngram:
            self._grams.index(config.window)
        self._whole = Grams([])
        self._short: Longs = np.zeros(0, dtype=np.int64)
        self._rouge: NoveltyIndex | None = None
        self._reach = 0  # tokens of the longest text that can be as similar as that to a short item
        if config.short is not None:
            self._index_short(rows, config.short)

    def _index_short(self, rows: list[list[str]], least: int) -> None:
        most = (self._config.ngram or NGRAM) - 1
        self._short = np.array([item for item, row in enumerate(rows) if least <= len(row) <= most], dtype=np.int64)
        short = [rows[item] for item in self._short.tolist()]
        self._whole = Grams(short)
        for size in sorted(set(map(len, short))):
            self._whole.index(size, self._whole.offsets[:-1][self._whole.sizes == size])
        rouge = self._config.rouge
        if rouge and short:
            self._rouge = NoveltyIndex(rouge).fit(self._config.items[item] for item in self._short.tolist())
            self._reach = int(max(map(len, short)) * (2 - rouge) / rouge) + 1

    def find(self, texts: Sequence[str]) -> list[Found | None]:
        """For each text the first rule that it breaks."""
        found: list[Found | None] = []
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            rows = list(map(tokenize, part))
            runs, wholes = self._grams.suspects(rows).tolist(), self._whole.suspects(rows).tolist()
            found += map(self._find, part, rows, runs, wholes)
        return found

    def _find(self, text: str, tokens: list[str], has_run: bool, has_whole: bool) -> Found | None:
        item = self._exact.get(_key(tokens, text))
        if item is not None:
            return RejectReason.EXACT, item, 1.0, [(0, len(tokens))] if tokens else []
        found = self._shared(tokens) if has_run else None
        if found is None and has_whole:
            found = self._contained(tokens)
        return found or self._similar(text, tokens)

    def _shared(self, tokens: list[str]) -> Found | None:
        config, query = self._config, self._grams.read(tokens)
        found = None
        if config.ngram is not None:
            found = self._covered(RejectReason.NGRAM, query, config.ngram, 0.0)
        if found is None and config.coverage is not None:
            found = self._covered(RejectReason.COVERAGE, query, config.window, config.coverage)
        return found

    def _covered(self, reason: str, query: Query, n: int, limit: float) -> Found | None:
        """The item most of whose tokens lie in runs of n that the text has, if that is more than the limit."""
        places, _ = query.find(n)
        if not len(places):
            return None
        covered = np.unique(places[:, None] + np.arange(n))
        items, counts = np.unique(self._grams.row(covered), return_counts=True)
        shares = counts / self._grams.sizes[items]
        best = int(shares.argmax())
        if shares[best] <= limit:
            return None
        item = int(items[best])
        runs = query.runs(n, places[self._grams.row(places) == item])
        return reason, item, float(shares[best]), runs

    def _contained(self, tokens: list[str]) -> Found | None:
        """The longest short item that stands in the text as a whole."""
        query = self._whole.read(tokens)
        for size in reversed(self._whole.lengths):
            places, first = query.find(size)
            if len(places):
                item = int(self._short[self._whole.row(places[:1])[0]])
                return RejectReason.CONTAINED, item, 1.0, [(int(first[0]), int(first[0]) + size)]
        return None

    def _similar(self, text: str, tokens: list[str]) -> Found | None:
        if self._rouge is None or not 0 < len(tokens) <= self._reach:
            return None
        # With k tokens that any short item has, F1 is at most 2k / (n + k): most texts are done here.
        known = sum(token in self._whole for token in tokens)
        if 2 * known <= self._rouge.threshold * (len(tokens) + known):
            return None
        verdict = self._rouge.query(text)
        if verdict.kept or verdict.nearest is None or verdict.score is None:
            return None
        return RejectReason.ROUGE, int(self._short[int(verdict.nearest)]), verdict.score, [(0, len(tokens))]


def _key(tokens: list[str], text: str) -> str:
    """What two texts have in common that are the same item; texts without tokens are compared as they stand."""
    return " ".join(tokens) or f"\n{text.strip()}"

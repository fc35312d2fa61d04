"""The filters of a run as its semantics define them, so that a run of an earlier version gives the same rows as then.

With semantics 1 the tokenizer ``auto`` had no symbols, refusals were phrases, only some scripts without spaces had
words, and near-duplicates were found without regard to scopes and symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct.engine.row_filters import FilterOptions, NearDuplicateOptions
from selfinstruct.filters import Copied, WordCount
from selfinstruct.filters.earlier_refusals import REFUSALS, SELF_REFERENCES
from selfinstruct.filters.refusals import Refusals
from selfinstruct.filters.text import count_words_of_semantics_1, stored_tokenizer

__all__ = ["filters_of"]


@dataclass(frozen=True)
class _WordCount1(WordCount):
    @staticmethod
    def count(text: str) -> int:
        """Return the number of words of a text."""
        return count_words_of_semantics_1(text)


@dataclass(frozen=True)
class _Copied1(Copied):
    @staticmethod
    def count(text: str) -> int:
        """Return the number of words of a text."""
        return count_words_of_semantics_1(text)


class _NearDuplicate1(NearDuplicateOptions):
    scoped = False
    symbols = False


def filters_of(options: FilterOptions, semantics: int) -> FilterOptions:
    """Return the options of filters that decide as runs with these semantics do."""
    if semantics > 1:
        return options
    words, copied, novelty, near = options.word_count, options.copied, options.novelty, options.near_duplicate
    return replace(
        options,
        word_count=words and _WordCount1(words.min_words, words.max_words),
        copied=copied and _Copied1(copied.threshold, copied.min_words, stored_tokenizer(copied.tokenizer)),
        novelty=novelty and replace(novelty, tokenizer=stored_tokenizer(novelty.tokenizer)),
        near_duplicate=near and _NearDuplicate1(near.threshold, near.num_perm, near.bands),
        plugins=tuple(map(_plugin, options.plugins)),
    )


def _plugin(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    if settings["name"] != Refusals.name:
        return settings
    return {"refusals": REFUSALS, "self_references": SELF_REFERENCES, **settings}

"""What Self-Instruct (arXiv:2212.10560) and Alpaca (2023) drop before they compare an instruction with the pool.

The rules are those of the code that both projects released. Two differ, so that other languages than English are
judged alike: characters of scripts without spaces count as words, and a leading letter of any script is allowed.
"""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from selfinstruct.filters.base import Filter
from selfinstruct.filters.text import count_words
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["ALPACA_KEYWORDS", "SELF_INSTRUCT_KEYWORDS", "Keywords", "LeadingPunctuation", "ProgramPrefix", "WordCount"]

# Self-Instruct, bootstrap_instructions.py: what a model that reads and writes only text can't do.
SELF_INSTRUCT_KEYWORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files"),
    *("map", "maps", "draw", "plot", "go to"),
)
# Alpaca, generate_instruction.py: the same and five more.
ALPACA_KEYWORDS = (*SELF_INSTRUCT_KEYWORDS, "video", "audio", "music", "flowchart", "diagram")


@dataclass(frozen=True)
class WordCount(Filter):
    """Both papers: 3 < words <= 150. Reasons ``too_short`` and ``too_long``; the score is the number of words."""

    filter: ClassVar[str] = "words"
    min_words: int = 4
    max_words: int = 150

    def verdict(self, text: str) -> Verdict:
        """Judge one text."""
        words = count_words(text)
        if words < self.min_words:
            return self.dropped(RejectReason.TOO_SHORT, words)
        if words > self.max_words:
            return self.dropped(RejectReason.TOO_LONG, words)
        return self.kept(words)


@lru_cache(maxsize=64)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str] | None:
    # Longer words first, so that the one reported is the whole of what stands there.
    choices = [r"\s+".join(map(re.escape, word.split())) for word in sorted(words, key=len, reverse=True)]
    return re.compile(rf"(?<!\w)(?:{'|'.join(choices)})(?!\w)", re.IGNORECASE) if choices else None


@dataclass(frozen=True)
class Keywords(Filter):
    """Whole words that announce more than text, whatever their case. Reason ``keyword``; ``detail`` names the word."""

    filter: ClassVar[str] = "keywords"
    words: tuple[str, ...] = ALPACA_KEYWORDS

    def verdict(self, text: str) -> Verdict:
        """Judge one text."""
        pattern = _pattern(tuple(self.words))
        match = pattern.search(text) if pattern else None
        return self.kept() if match is None else self.dropped(RejectReason.KEYWORD, keyword=match.group().lower())


@dataclass(frozen=True)
class LeadingPunctuation(Filter):
    """Both papers: an instruction that begins with punctuation is a fragment. Reason ``punctuation``.

    Punctuation is ``string.punctuation`` and Unicode's categories P and S, but for ``allowed``: Spanish opens questions
    and exclamations with a mark.
    """

    filter: ClassVar[str] = "punctuation"
    allowed: str = "¿¡"

    def verdict(self, text: str) -> Verdict:
        """Judge one text."""
        first = text.lstrip()[:1]
        if not first or first in self.allowed:
            return self.kept()
        fragment = first in string.punctuation or unicodedata.category(first)[0] in "PS"
        return self.dropped(RejectReason.PUNCTUATION, character=first) if fragment else self.kept()


@dataclass(frozen=True)
class ProgramPrefix(Filter):
    """Both papers: models put "Write a program" before tasks whose result was wanted. Reason ``program``."""

    filter: ClassVar[str] = "program"
    prefixes: tuple[str, ...] = ("Write a program",)

    def verdict(self, text: str) -> Verdict:
        """Judge one text."""
        head = " ".join(text.lstrip()[:200].split()).casefold()
        found = any(head.startswith(prefix.casefold()) for prefix in self.prefixes)
        return self.dropped(RejectReason.PROGRAM) if found else self.kept()

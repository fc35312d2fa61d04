"""The instruction rules of Self-Instruct (arXiv:2212.10560) and Alpaca (2023), which apply before any comparison.

The rules equal the code that both projects released, with two differences for languages other than English: each
character of a script without spaces counts as a word, and a leading letter of any script is allowed.
"""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter, Reads
from selfinstruct.filters.text import count_words
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["ALPACA_KEYWORDS", "SELF_INSTRUCT_KEYWORDS", "Keywords", "LeadingPunctuation", "ProgramPrefix", "WordCount"]

# Self-Instruct, bootstrap_instructions.py: keywords for tasks that a text model cannot fulfil (draw, plot, play).
SELF_INSTRUCT_KEYWORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files"),
    *("map", "maps", "draw", "plot", "go to"),
)
# Alpaca, generate_instruction.py: the same keywords and five more.
ALPACA_KEYWORDS = (*SELF_INSTRUCT_KEYWORDS, "video", "audio", "music", "flowchart", "diagram")


@dataclass(frozen=True)
class WordCount(Filter):
    """Rejects instructions that are too short or too long (both papers: 3 < words <= 150).

    Reasons ``too_short`` and ``too_long``; the score is the number of words.

    Attributes:
        min_words: Fewest words that are kept.
        max_words: Most words that are kept.
    """

    name: ClassVar[str] = "words"
    reads: ClassVar[Reads] = "instruction"
    min_words: int = 4
    max_words: int = 150

    @staticmethod
    def count(text: str) -> int:
        """Return the number of words of a text."""
        return count_words(text)

    def __post_init__(self) -> None:
        if not 0 <= self.min_words <= self.max_words:
            raise UsageError(
                f"min_words {self.min_words} and max_words {self.max_words} are not a range: use 0 or more, the lower"
                " number first"
            )

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        words = self.count(text)
        if words < self.min_words:
            return self.reject(RejectReason.TOO_SHORT, words)
        if words > self.max_words:
            return self.reject(RejectReason.TOO_LONG, words)
        return self.keep(words)


@lru_cache(maxsize=64)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str] | None:
    # Longer words first, so that the verdict names the longest match.
    choices = [r"\s+".join(map(re.escape, word.split())) for word in sorted(words, key=len, reverse=True)]
    return re.compile(rf"(?<!\w)(?:{'|'.join(choices)})(?!\w)", re.IGNORECASE) if choices else None


@dataclass(frozen=True)
class Keywords(Filter):
    """Rejects instructions that need more than text: they contain one of the keywords as a whole word, in any case.

    Reason ``keyword``; ``detail["keyword"]`` is the word.

    Attributes:
        words: The keywords.
    """

    name: ClassVar[str] = "keywords"
    reads: ClassVar[Reads] = "instruction"
    words: tuple[str, ...] = ALPACA_KEYWORDS

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        pattern = _pattern(tuple(self.words))
        match = pattern.search(text) if pattern else None
        return self.keep() if match is None else self.reject(RejectReason.KEYWORD, keyword=match.group().lower())


@dataclass(frozen=True)
class LeadingPunctuation(Filter):
    """Rejects instructions that begin with punctuation, which marks them as fragments (both papers).

    Reason ``punctuation``. Punctuation is ``string.punctuation`` and Unicode's categories P and S.

    Attributes:
        allowed: Exempt characters: Spanish opens questions and exclamations with a mark.
    """

    name: ClassVar[str] = "punctuation"
    reads: ClassVar[Reads] = "instruction"
    allowed: str = "¿¡"

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        first = text.lstrip()[:1]
        if not first or first in self.allowed:
            return self.keep()
        fragment = first in string.punctuation or unicodedata.category(first)[0] in "PS"
        return self.reject(RejectReason.PUNCTUATION, character=first) if fragment else self.keep()


@dataclass(frozen=True)
class ProgramPrefix(Filter):
    """Rejects instructions that begin with "Write a program", where models mean the program's result (both papers).

    Reason ``program``.

    Attributes:
        prefixes: The rejected beginnings, in any case.
    """

    name: ClassVar[str] = "program"
    reads: ClassVar[Reads] = "instruction"
    prefixes: tuple[str, ...] = ("Write a program",)

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        head = " ".join(text.lstrip()[:200].split()).casefold()
        matches = any(head.startswith(prefix.casefold()) for prefix in self.prefixes)
        return self.reject(RejectReason.PROGRAM) if matches else self.keep()

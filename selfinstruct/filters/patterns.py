"""Phrases of an assistant around an answer: courtesies.

The lists are this project's own. Each pattern is anchored where such a phrase is meant rather than quoted: openings at
the beginning of the text, offers of more help in the last sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter, Reads
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["BOILERPLATE_ENDINGS", "BOILERPLATE_OPENINGS", "PLAIN", "Boilerplate", "find_phrase"]

# The parts of the text that are searched: a phrase further in belongs to the content.
HEAD = 240  # characters
TAIL = 240  # characters

# Courtesies around an answer, without content.
BOILERPLATE_OPENINGS = (
    r"(?:sure|certainly|of course|absolutely|great question|good question)(?:[,!.]| thing[,!.]?)(?=\s|$)",
    r"(?:i'd|i would) be (?:happy|glad|delighted) to (?:help|assist)\b",
    r"thank you for (?:your question|reaching out|asking)\b",
)
BOILERPLATE_ENDINGS = (
    r"(?:i )?hope (?:this|that|it) (?:helps|is helpful|answers)\b",
    r"(?:please )?(?:feel free to|don't hesitate to|do not hesitate to) (?:ask|contact|reach out|let me know)\b",
    r"let me know if (?:you (?:have|need|would|want|'d)|there(?:'s| is)|i can)\b",
    r"is there anything else (?:i can|you)\b",
    r"if you have any (?:other |more |further |additional )?questions\b",
)

# The start of a sentence: the start of the text, or after an end mark, a colon or a line break.
_SENTENCE = r"(?:\A|(?<=[.!?:;\n])|(?<=[.!?:;] ))"
# Typographic apostrophes are replaced by plain ones first, one character for one, so that offsets stay valid.
PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u00a0": " "})


@lru_cache(maxsize=64)
def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile(rf"{_SENTENCE}(?:{'|'.join(phrases)})", re.IGNORECASE) if phrases else None


def find_phrase(phrases: tuple[str, ...], text: str) -> str:
    """Return the first phrase that matches in a text of bounded length, in lower case; '' if none does."""
    pattern = _pattern(tuple(phrases))
    match = pattern.search(text.translate(PLAIN)) if pattern else None
    return match.group().lower() if match else ""


@dataclass(frozen=True)
class Boilerplate(Filter):
    """Rejects answers that open or end with a courtesy of assistants ("Sure!", "I hope this helps"); for outputs.

    Reasons ``opening`` (the first words) and ``ending`` (a sentence in the last ``tail`` characters);
    ``detail["phrase"]`` is the matching phrase. English only. Letters and dialogues legitimately end this way: don't
    use it on data that asks for them.

    Attributes:
        openings, endings: Regular expressions, matched in any case.
        tail: Number of characters at the end that are searched for ``endings``.
    """

    name: ClassVar[str] = "boilerplate"
    reads: ClassVar[Reads] = "output"
    openings: tuple[str, ...] = BOILERPLATE_OPENINGS
    endings: tuple[str, ...] = BOILERPLATE_ENDINGS
    tail: int = TAIL

    def __post_init__(self) -> None:
        if self.tail < 0:
            raise UsageError(f"tail is {self.tail}, but a number of characters is 0 or more")

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        stripped = text.strip()
        pattern = _pattern(tuple(self.openings))
        head = stripped[:HEAD].translate(PLAIN)
        if pattern and (match := pattern.match(head)):
            return self.reject(RejectReason.OPENING, phrase=match.group().lower())
        if phrase := find_phrase(self.endings, stripped[-self.tail :] if self.tail else ""):
            return self.reject(RejectReason.ENDING, phrase=phrase)
        return self.keep()

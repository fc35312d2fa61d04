"""Phrases of an assistant in place of an answer or around it: refusals, references to itself, courtesies.

The lists are this project's own. Each pattern is anchored where such a phrase is meant rather than quoted: refusals and
self-references at the start of a sentence near the beginning of the text, offers of more help in the last sentence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from selfinstruct.filters.base import Filter, Reads
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["BOILERPLATE_ENDINGS", "BOILERPLATE_OPENINGS", "REFUSALS", "SELF_REFERENCES", "Boilerplate", "Refusals"]

# The parts of the text that are searched: a refusal comes first, or second after an apology. A phrase further in
# belongs to the content.
HEAD = 240  # characters
TAIL = 240  # characters

_AI = (
    r"(?:an?|your) (?:(?:helpful|friendly|responsible|text-based) )?"
    r"(?:ai|artificial intelligence|(?:large )?language model|chat ?bot|virtual assistant)\b"
)
_UNABLE = r"(?:can(?:no|')t|can not|am (?:unable|not able|not allowed|not permitted) to|won't|will not)"
_ASSIST = (
    r"(?:assist|help(?! (?:but|myself|it)\b)|comply|fulfil|provide|answer|generate|create|write|access|browse|engage"
    r"|do that|continue|participate|support|complete|process|discuss|offer|give|share|produce|see|view"
    r"|open|recommend|condone)"
)

# References of a model to itself, which are useless in training data.
SELF_REFERENCES = (
    rf"as {_AI}",
    rf"(?:i am|i'm) (?:just |only |merely )?{_AI}",
    r"as a machine learning model\b",
    r"my (?:training data|knowledge) (?:only goes|goes|cuts? off|cutoff|only extends|ends)\b",
    r"my knowledge cut-?off\b",
    r"i (?:don't|do not) have (?:access to )?(?:real-time|personal (?:experiences|opinions|feelings|beliefs))\b",
)
# A declined request, or a complaint that the input is missing.
REFUSALS = (
    rf"(?:i'm |i am )?(?:very |so |truly |really )?sorry,? (?:but |that |however,? )?(?:i|as an ai)\b[^.!?\n]{{0,20}}?"
    rf"\b{_UNABLE}\b",
    rf"(?:unfortunately,? |i apologi[sz]e,? (?:but )?|apologies,? (?:but )?)(?:as an ai[^.!?\n]{{0,40}}, )?"
    rf"i {_UNABLE} {_ASSIST}",
    rf"i {_UNABLE} (?:assist|help(?! (?:but|myself|it)\b)|comply|fulfil|engage|do that|participate|condone)\b",
    r"i (?:must|have to) (?:respectfully )?(?:decline|refuse)\b",
    r"it (?:(?:is|would be) (?:not |in|un)|(?:isn't|wouldn't be) )(?:appropriate|ethical) for me to\b",
    r"(?:please )?(?:provide|give) (?:me )?(?:with )?(?:the|more|some|additional|further) (?:input|context|information"
    r"|details|text) (?:so that|so|in order|for me|to)\b",
    r"(?:there (?:is|was) no|you (?:have not|haven't|did not|didn't) provided? (?:any|an|the)) (?:input|text)\b",
)
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
_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u00a0": " "})


@lru_cache(maxsize=64)
def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile(rf"{_SENTENCE}(?:{'|'.join(phrases)})", re.IGNORECASE) if phrases else None


def _find(phrases: tuple[str, ...], text: str) -> str:
    """Return the first phrase that matches in a text of bounded length, in lower case; '' if none does."""
    pattern = _pattern(tuple(phrases))
    match = pattern.search(text.translate(_PLAIN)) if pattern else None
    return match.group().lower() if match else ""


@dataclass(frozen=True)
class Refusals(Filter):
    """Rejects answers that are refusals, or in which an assistant refers to itself; for outputs, not for instructions.

    Reasons ``refusal`` and ``self_reference``; ``detail["phrase"]`` is the matching phrase. English only.

    Attributes:
        refusals, self_references: Regular expressions, matched in any case at the start of sentences that begin in
            the first ``head`` characters.
        head: Number of characters that are searched.
    """

    name: ClassVar[str] = "refusals"
    reads: ClassVar[Reads] = "output"
    refusals: tuple[str, ...] = REFUSALS
    self_references: tuple[str, ...] = SELF_REFERENCES
    head: int = HEAD

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        start = text.lstrip()[: self.head]
        for reason, phrases in (
            (RejectReason.REFUSAL, self.refusals),
            (RejectReason.SELF_REFERENCE, self.self_references),
        ):
            if phrase := _find(phrases, start):
                return self.reject(reason, phrase=phrase)
        return self.keep()


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

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        stripped = text.strip()
        pattern = _pattern(tuple(self.openings))
        head = stripped[:HEAD].translate(_PLAIN)
        if pattern and (match := pattern.match(head)):
            return self.reject(RejectReason.OPENING, phrase=match.group().lower())
        if phrase := _find(self.endings, stripped[-self.tail :] if self.tail else ""):
            return self.reject(RejectReason.ENDING, phrase=phrase)
        return self.keep()

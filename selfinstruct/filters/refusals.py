"""Answers that are no answers: a declined request, a missing input, or an assistant that speaks about itself.

A refusal has a form rather than a wording: one of the first sentences says that the speaker cannot or will not (I
can't, I'm not able to, I must decline) do what assistants are asked for (assist, provide information, write that). The
same inability with another object (come to your party, recommend this book enough) is content, as is anything that is
quoted, spoken by a character of a dialogue, or reported. ``bench/refusals.py`` measures precision and recall on the
labelled lines of ``tests/data/refusals.jsonl``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import ClassVar

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter, Reads
from selfinstruct.filters.patterns import PLAIN, find_phrase
from selfinstruct.filters.refusal_forms import REFUSALS, SELF_REFERENCES, TRIGGERS
from selfinstruct.filters.refusal_idioms import IDIOM_TRIGGERS, IDIOMS
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Refusals"]

HEAD = 300  # characters: a phrase further in belongs to the content
SENTENCES = 3  # a refusal follows a greeting, an apology or a reason, not a page

_SENTENCE = re.compile(r"[^.!?\n\u3002\uff01\uff1f\u0964]+[.!?\u3002\uff01\uff1f\u0964]*")
_DECORATION = re.compile(r"[\s*_#>]+")
_LABEL = re.compile(r"(?:assistant|answer|response|output|reply|note|disclaimer|ai|bot|a)\s*:\s*", re.IGNORECASE)
# The speech of somebody else: a quotation, or the first line of a dialogue.
_QUOTED = re.compile(r"[\"'\u201c\u201e\u00ab\u300c]|[A-Z][\w.-]*(?: [\w.-]+)?:\s")
_TRIGGER = re.compile(rf"{TRIGGERS}|{IDIOM_TRIGGERS}", re.IGNORECASE)
_ALL_REFUSALS = (*REFUSALS, *IDIOMS)
_QUOTATION = re.compile(r"\"[^\"]*\"?|\u201c[^\u201d]*\u201d?|\u00ab[^\u00bb]*\u00bb?|\u300c[^\u300d]*\u300d?|`[^`]*`?")
_REPORTED = re.compile(
    r"[\"\u201d,]\s*(?:[\w']+ ){0,3}(?:said|says|repl(?:ied|ies)|answer(?:ed|s)|asked|wrote|writes|thought|cried"
    r"|shouted|whispered|growl(?:ed|s)|sang|sings|explained|told|repeats|vowed|argued|admitted|conclude[ds]|joked"
    r"|sighed|murmured|muttered|declared|confessed|insisted|yelled|screamed|remarked|snapped|laughed|moaned|announced"
    r"|used to say)\b|^[^,.:]*\b(?:said|says|wrote|replied)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Refusals(Filter):
    """Rejects answers that are refusals, or in which an assistant refers to itself; for outputs, not for instructions.

    Reasons ``refusal`` and ``self_reference``; ``detail["phrase"]`` is the matching phrase. English, and the usual
    forms in about twenty other languages.

    Attributes:
        refusals, self_references: Regular expressions that take the place of the built-in forms, matched in any case at
            the start of a sentence; None for the built-in forms.
        head: Number of characters that are searched.
    """

    name: ClassVar[str] = "refusals"
    reads: ClassVar[Reads] = "output"
    refusals: tuple[str, ...] | None = None
    self_references: tuple[str, ...] | None = None
    head: int = HEAD

    def __post_init__(self) -> None:
        if self.head < 1:
            raise UsageError(f"head is {self.head}, but at least one character must be searched")

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        start = text.lstrip()[: self.head]
        sentences = list(_sentences(start))
        for reason, phrases, forms in (
            (RejectReason.REFUSAL, self.refusals, _ALL_REFUSALS),
            (RejectReason.SELF_REFERENCE, self.self_references, SELF_REFERENCES),
        ):
            if phrase := _find_form(forms, sentences) if phrases is None else find_phrase(phrases, start):
                return self.reject(reason, phrase=phrase)
        return self.keep()


def _find_form(forms: tuple[str, ...], sentences: Iterable[str]) -> str:
    """Return the first match in the sentences, in lower case; "" without a match."""
    matches = filter(None, map(_compiled(forms).search, sentences))
    return next((match.group().strip(" ,").lower() for match in matches), "")


@lru_cache(maxsize=8)
def _compiled(forms: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{form})" for form in forms), re.IGNORECASE)


def _sentences(start: str) -> Iterator[str]:
    """Yield the first sentences of an answer that may match a form, without speech of others."""
    start = start.translate(PLAIN)
    for mark in (_DECORATION, _LABEL):
        start = start[match.end() :] if (match := mark.match(start)) else start
    if _QUOTED.match(start):
        return
    for match in islice(_SENTENCE.finditer(_QUOTATION.sub('""', start)), SENTENCES):
        sentence = match.group().strip(" \t*_")
        worth = not sentence.isascii() or _TRIGGER.search(sentence)
        if worth and not _REPORTED.search(sentence):
            yield sentence

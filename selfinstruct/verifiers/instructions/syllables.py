"""Syllables of an English word, by rules of spelling.

Dictionaries know better, but have to be downloaded, and do not agree either. The rules count groups of vowels, then
correct for a silent ``e`` and for vowels that are pronounced one by one.
"""

from __future__ import annotations

import re

__all__ = ["count_syllables"]

_NOT_LETTERS = re.compile(r"[^a-z]+")
_GROUPS = re.compile(r"[aeiouy]+")
# Vowels next to each other that are pronounced apart: alien, radius, being, layer, usual, video, quiet, theory, poem.
_APART = re.compile(
    r"(?<![tcsgx])i(?:a|o)(?!u)|(?<=[^tcsgx])iou|ium|ius|(?<=[ln])ien|(?<=[dscru])iet"
    r"|[aeiou](?=ing)|(?<=[aeou])y(?=[aeiou])|i(?:er|est)$|(?<![qg])u(?:al|ou|ity|ate|el|ent|ance)|uine?$|uid"
    r"|eo(?!us|n$|p)|(?:cr|id|ar)ea(?=[st]|$|l)|reali|nea[nr]|oe[mt]|nuc|eum|uum|yi|ii"
)
_SILENT = re.compile(r"(?:[^aeiouyl]|[aeiouyl]l|[aeiouy]r)e$|[^aeioutd]ed$|[^aeiousxzcg]es$|(?<![cs])hes$")
_SOUNDED = re.compile(r"[^aeiouyl]l(?:e|ed|es)$|[cs]hes$")
# Silent within a word: likely, statement, careful, homework.
_SILENT_INSIDE = re.compile(
    r"(?<=[aeiouy][^aeiouy])e(?=(?:ly|ments?|ful|fully|less|ness|works?|times?|things?|where|lines?)$)|(?<=[aeiouy]r[scv])e(?=ly$)"
)
_MUTE = re.compile(r"[^aeiouy]sms?$|thms?$")
_EXCEPTIONS = {
    "area": 3, "areas": 3, "every": 2, "everyone": 3, "everything": 3, "business": 2, "something": 2, "sometimes": 2,
    "someone": 2, "somewhere": 2, "idea": 3, "ideas": 3, "maybe": 2, "recipe": 3, "science": 2, "evening": 2,
    "society": 4, "variety": 4, "people": 2, "create": 2, "creates": 2, "via": 2, "cafe": 2, "the": 1, "being": 2,
}  # fmt: skip


def count_syllables(word: str) -> int:
    """Return the number of syllables of a word; 0 if it has a digit or no letter of a to z."""
    word = word.lower()
    if any(map(str.isdecimal, word)):
        return 0
    return sum(_count(part) for part in _NOT_LETTERS.split(word) if part)


def _count(word: str) -> int:
    if word in _EXCEPTIONS:
        return _EXCEPTIONS[word]
    count = len(_GROUPS.findall(word)) + len(_APART.findall(word)) + bool(_MUTE.search(word))
    count -= bool(_SILENT.search(word) and not _SOUNDED.search(word))
    return max(1, count - len(_SILENT_INSIDE.findall(word)))

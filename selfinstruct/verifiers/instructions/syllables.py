"""Syllables of an English word, by the usual rules of spelling.

Dictionaries know better, but have to be downloaded. The rules count groups of vowels and correct for silent endings
and for vowels that are pronounced one by one; the bench measures how often they agree with a dictionary.
"""

from __future__ import annotations

import re

__all__ = ["count_syllables"]

_GROUPS = re.compile(r"[aeiouy]+")
_LETTERS = re.compile(r"[^a-z]+")
# Groups that are two syllables: cre-ate, qui-et, ide-a, sci-ence, po-em, du-al, ru-in, go-ing; not sta-tion, spe-cial.
_SPLIT = re.compile(
    r"(?<![tcsgx])i(?:a|o(?!u))|(?<=[^tcsg])ious|[^cgtqs]u(?:al|el|ent|ity|ou|ate|um)|eo(?=[nlmr])|ea(?=t(?:e|ing|ion|iv|or))"
    r"|(?<=id)ea|[aeiouy]ing|(?:sc|qu|d|l|n|r|v)ie(?=[nt](?:$|s|c|t|l|y|i))|oe(?=[mt])|yi|eing|ii|uu|iu|aic|ao(?!u)|uin(?=$|s|e|g)|eal(?=ity|is)"
)
_SILENT = re.compile(r"(?:[^aeiouylr]|[aeiouy][lr]|[aeiouylr][aeiouy]r|rl)e(?:s|d)?$")
_SOUNDED = re.compile(r"(?:[^aeiouy]le[sd]?|[td]ed|(?:[csxz]|[csz]h|[cdg]g?|s)es|[cg]es|eed|ees|[aeiou]ed)$")
_ISM = re.compile(r"(?:[^aeiouy]|[aeiouy]s?)sms?$|thms?$")
_PREFIXES = re.compile(r"^(?:re|pre|de|anti|semi|multi|bi|tri|co)(?=[aeiou][^u])(?!re[ad]|real|rein$|coa|coi[nl]|boa|dea|deu|bia$|cou|coo)")


def count_syllables(word: str) -> int:
    """Return the number of syllables of a word; 0 if it has a digit or no letter of a to z."""
    word = word.lower()
    if any(character.isdecimal() for character in word):
        return 0
    parts = [part for part in _LETTERS.split(word) if part]
    return sum(_count(part) for part in parts)


def _count(word: str) -> int:
    if word in _EXCEPTIONS:
        return _EXCEPTIONS[word]
    count = len(_GROUPS.findall(word)) + len(_SPLIT.findall(word))
    if _SILENT.search(word) and not _SOUNDED.search(word):
        count -= 1
    if _ISM.search(word):
        count += 1
    return max(1, count)


_EXCEPTIONS = {
    "the": 1, "people": 2, "business": 2, "every": 2, "everything": 3, "everyone": 3, "something": 2, "sometimes": 2,
    "someone": 2, "somewhere": 2, "therefore": 2, "create": 2, "created": 3, "being": 2, "science": 2, "idea": 3,
    "area": 3, "areas": 3, "ideas": 3, "real": 2, "really": 2, "different": 3, "evening": 2, "maybe": 2, "recipe": 3,
    "simile": 3, "apostrophe": 4, "cafe": 2, "sometime": 2, "homework": 2, "lovely": 2, "movement": 2, "statement": 2,
    "safety": 2, "lonely": 2, "careful": 2, "hopeful": 2, "useful": 2, "poem": 2, "poems": 2, "poet": 2, "quiet": 2,
    "diet": 2, "society": 4, "variety": 4, "via": 2, "eye": 1, "eyes": 1, "are": 1, "were": 1, "one": 1, "once": 1,
}  # fmt: skip

"""Demands on the form of an answer that code can check (IFEval: Zhou et al. 2023, arXiv:2311.07911)."""

from __future__ import annotations

import re
from collections.abc import Callable

from selfinstruct.filters.text import count_words, tokenize
from selfinstruct.verifiers.base import Finding, Kind, Spec, count, short, text, texts

__all__ = ["CONSTRAINTS", "sentences"]

_END = re.compile(
    r"""(?<![.!?\u3002\uff01\uff1f\u2026])[.!?\u3002\uff01\uff1f\u2026]++["'\u201d\u2019\u00bb)\]*_]*+(?=\s|$)|[\u3002\uff01\uff1f]"""
)
_LETTER = re.compile(r"[^\W\d_]")
_ABBREVIATIONS = frozenset({"mr", "mrs", "dr", "prof", "vs", "e.g", "i.e", "cf", "et al"})
_BEFORE_NUMBERS = frozenset({"no", "fig"})
_BEFORE_NAMES = frozenset({"St", "Ms"})
_LAST_WORD = re.compile(r"(?:\b[Ee]t\s)?[\w.]+$")


def sentences(given: str) -> int:
    """Sentences of a text: what ends with a mark before white space and has a letter in it, and what is left over.

    The full stop of a common abbreviation (``e.g.``, ``Dr.``; ``no.`` before a number, ``St.`` before a name) or of a
    list's number ends none.
    """
    found = start = 0
    begun = False  # a letter was met since the last end
    for match in _END.finditer(given):
        begun = begun or _LETTER.search(given, start, match.end()) is not None
        if match.group() == ".":
            word = _LAST_WORD.search(given, max(start, match.start() - 12), match.start())
            if word is not None and _abbreviates(word.group(), given[match.end() : match.end() + 8]):
                start = match.end()
                continue
        start = match.end()
        found += begun
        begun = False
    return found + (begun or _LETTER.search(given, start) is not None)


def _abbreviates(word: str, following: str) -> bool:
    """Whether a word with a full stop is an abbreviation, before this text."""
    first = following.lstrip(" \t\n*_([#")[:1]
    if word.casefold() in _BEFORE_NUMBERS:
        return first.isdecimal()
    return " ".join(word.casefold().split()) in _ABBREVIATIONS or (word in _BEFORE_NAMES and first.isupper())


def _range(unit: str, counted: Callable[[str], int]) -> Kind:
    def verify(spec: Spec, answer: str) -> Finding:
        least, most, found = spec.get("min", 0), spec.get("max"), counted(answer)
        if most is None:
            expected = f"at least {least} {unit}"
        else:
            expected = f"{least} to {most} {unit}" if least else f"at most {most} {unit}"
        return Finding(least <= found and (most is None or found <= most), expected, f"{found} {unit}")

    def check(spec: Spec) -> None:
        if spec.get("min", 0) > spec.get("max", spec.get("min", 0)):
            raise ValueError("'min' is above 'max'")

    return Kind(verify, {"min": count, "max": count}, one_of=("min", "max"), check=check)


def _bullets(spec: Spec, answer: str) -> Finding:
    found = sum(line.lstrip(" \t").startswith(("- ", "* ")) for line in answer.split("\n"))
    return Finding(found == spec["count"], f"{spec['count']} bullets", f"{found} bullets")


def _words_in(answer: str, words: list[str]) -> dict[str, bool]:
    """Of each word whether it is in the answer, as a whole and whatever its case; a word may be several."""
    # Joined by a space that no token has, so that what is between two words counts for nothing.
    joined = f" {' '.join(tokenize(answer))} "
    return {word: f" {' '.join(tokenize(word))} " in joined for word in words}


def _contains(spec: Spec, answer: str) -> Finding:
    missing = [word for word, there in _words_in(answer, spec["words"]).items() if not there]
    found = f"no {', '.join(map(short, missing[:5]))}" if missing else "all of them"
    return Finding(not missing, f"the words {short(', '.join(spec['words']))}", found)


def _excludes(spec: Spec, answer: str) -> Finding:
    there = [word for word, found in _words_in(answer, spec["words"]).items() if found]
    return Finding(
        not there, f"none of the words {short(', '.join(spec['words']))}", ", ".join(map(short, there[:5])) or "none"
    )


def _whole_words(spec: Spec) -> None:
    for word in spec["words"]:
        if not tokenize(word):
            raise ValueError(f"{short(word)} has no letter and no digit")


def _edge(where: str, fits: Callable[[str, str], bool]) -> Kind:
    def verify(spec: Spec, answer: str) -> Finding:
        wanted, given = spec["text"].strip(), answer.strip()
        shown = given[: len(wanted) + 20] if where == "beginning" else given[-len(wanted) - 20 :]
        return Finding(fits(given, wanted), f"{short(wanted)} at its {where}", short(shown))

    return Kind(verify, {"text": text}, required=("text",))


def _free_of(unwanted: Callable[[str], str], expected: str) -> Kind:
    def verify(_: Spec, answer: str) -> Finding:
        found = unwanted(answer)
        return Finding(not found, expected, short(found) if found else expected)

    return Kind(verify)


def _cased(changed: Callable[[str], str]) -> Callable[[str], str]:
    """The first word with a letter that is not as it would be."""

    def wrong(answer: str) -> str:
        return next((word for word in answer.split() if word != changed(word)), "")

    return wrong


def _upper(word: str) -> str:
    return "".join(one if one.upper() == one or len(one.upper()) > 1 else one.upper() for one in word)


CONSTRAINTS: dict[str, Kind] = {
    "words": _range("words", count_words),
    "sentences": _range("sentences", sentences),
    "bullets": Kind(_bullets, {"count": count}, required=("count",)),
    "contains": Kind(_contains, {"words": texts}, required=("words",), check=_whole_words),
    "excludes": Kind(_excludes, {"words": texts}, required=("words",), check=_whole_words),
    "starts_with": _edge("beginning", str.startswith),
    "ends_with": _edge("end", str.endswith),
    "lowercase": _free_of(_cased(str.lower), "no capital letter"),
    "uppercase": _free_of(_cased(_upper), "no small letter"),
    "no_commas": _free_of(lambda answer: next((one for one in answer if one in ",\uff0c\u3001"), ""), "no comma"),
}

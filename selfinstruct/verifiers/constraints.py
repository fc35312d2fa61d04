"""The kinds that check the form of an answer (IFEval: Zhou et al. 2023, arXiv:2311.07911)."""

from __future__ import annotations

import re
from collections.abc import Callable

from selfinstruct.filters.text import count_words, find_words
from selfinstruct.verifiers.base import Finding, Kind, Spec, check_count, check_text, check_texts, short

__all__ = ["CONSTRAINTS", "sentences"]

_END = re.compile(
    r"""(?<![.!?\u3002\uff01\uff1f\u2026])[.!?\u3002\uff01\uff1f\u2026]++["'\u201d\u2019\u00bb)\]*_]*+(?=\s|$)|[\u3002\uff01\uff1f]"""
)
_LETTER = re.compile(r"[^\W\d_]")
_ABBREVIATIONS = frozenset({"mr", "mrs", "dr", "prof", "vs", "e.g", "i.e", "cf", "et al"})
_BEFORE_NUMBERS = frozenset({"no", "fig"})
_BEFORE_NAMES = frozenset({"St", "Ms"})
_LAST_WORD = re.compile(r"(?:\b[Ee]t\s)?[\w.]+$")


def sentences(text: str) -> int:
    """Return the number of sentences: parts with a letter that end with a mark before white space, and the remainder.

    The full stop of a common abbreviation (``e.g.``, ``Dr.``; ``no.`` before a number, ``St.`` before a name) or of a
    list's number does not end a sentence.
    """
    count = start = 0
    has_letter = False  # since the last end of a sentence
    for match in _END.finditer(text):
        has_letter = has_letter or _LETTER.search(text, start, match.end()) is not None
        if match.group() == ".":
            word = _LAST_WORD.search(text, max(start, match.start() - 12), match.start())
            if word is not None and _is_abbreviation(word.group(), text[match.end() : match.end() + 8]):
                start = match.end()
                continue
        start = match.end()
        count += has_letter
        has_letter = False
    return count + (has_letter or _LETTER.search(text, start) is not None)


def _is_abbreviation(word: str, following: str) -> bool:
    """Return whether a word before a full stop is an abbreviation, given the text after it."""
    first = following.lstrip(" \t\n*_([#")[:1]
    if word.casefold() in _BEFORE_NUMBERS:
        return first.isdecimal()
    return " ".join(word.casefold().split()) in _ABBREVIATIONS or (word in _BEFORE_NAMES and first.isupper())


def _range(unit: str, measure: Callable[[str], int]) -> Kind:
    def verify(spec: Spec, answer: str) -> Finding:
        least, most, count = spec.get("min", 0), spec.get("max"), measure(answer)
        if most is None:
            expected = f"at least {least} {unit}"
        else:
            expected = f"{least} to {most} {unit}" if least else f"at most {most} {unit}"
        return Finding(least <= count and (most is None or count <= most), expected, f"{count} {unit}")

    def check(spec: Spec) -> None:
        if spec.get("min", 0) > spec.get("max", spec.get("min", 0)):
            raise ValueError("'min' is above 'max'")

    return Kind(verify, {"min": check_count, "max": check_count}, one_of=("min", "max"), check=check)


def _verify_bullets(spec: Spec, answer: str) -> Finding:
    count = sum(line.lstrip(" \t").startswith(("- ", "* ")) for line in answer.split("\n"))
    return Finding(count == spec["count"], f"{spec['count']} bullets", f"{count} bullets")


def _occurrences(answer: str, words: list[str]) -> dict[str, bool]:
    """Return for each word whether the answer contains it as a whole, in any case. A "word" may have spaces."""
    joined = f" {' '.join(find_words(answer))} "  # no token has a space, so the text between two words does not matter
    return {word: f" {' '.join(find_words(word))} " in joined for word in words}


def _verify_contains(spec: Spec, answer: str) -> Finding:
    missing = [word for word, occurs in _occurrences(answer, spec["words"]).items() if not occurs]
    found = f"no {', '.join(map(short, missing[:5]))}" if missing else "all of them"
    return Finding(not missing, f"the words {short(', '.join(spec['words']))}", found)


def _verify_excludes(spec: Spec, answer: str) -> Finding:
    present = [word for word, occurs in _occurrences(answer, spec["words"]).items() if occurs]
    found = ", ".join(map(short, present[:5])) or "none"
    return Finding(not present, f"none of the words {short(', '.join(spec['words']))}", found)


def _check_words(spec: Spec) -> None:
    for word in spec["words"]:
        if not find_words(word):
            raise ValueError(f"{short(word)} has no letter and no digit")


def _edge(edge: str, matches: Callable[[str, str], bool]) -> Kind:
    def verify(spec: Spec, answer: str) -> Finding:
        wanted, text = spec["text"].strip(), answer.strip()
        shown = text[: len(wanted) + 20] if edge == "beginning" else text[-len(wanted) - 20 :]
        return Finding(matches(text, wanted), f"{short(wanted)} at its {edge}", short(shown))

    return Kind(verify, {"text": check_text}, required=("text",))


def _without(first_unwanted: Callable[[str], str], expected: str) -> Kind:
    def verify(_: Spec, answer: str) -> Finding:
        unwanted = first_unwanted(answer)
        return Finding(not unwanted, expected, short(unwanted) if unwanted else expected)

    return Kind(verify)


def _changed_by(change: Callable[[str], str]) -> Callable[[str], str]:
    """Return a function that finds the first word that `change` would change; "" if there is none."""

    def first(answer: str) -> str:
        return next((word for word in answer.split() if word != change(word)), "")

    return first


def _upper(word: str) -> str:
    return "".join(char if char.upper() == char or len(char.upper()) > 1 else char.upper() for char in word)


def _first_comma(answer: str) -> str:
    return next((char for char in answer if char in ",\uff0c\u3001"), "")


CONSTRAINTS: dict[str, Kind] = {
    "words": _range("words", count_words),
    "sentences": _range("sentences", sentences),
    "bullets": Kind(_verify_bullets, {"count": check_count}, required=("count",)),
    "contains": Kind(_verify_contains, {"words": check_texts}, required=("words",), check=_check_words),
    "excludes": Kind(_verify_excludes, {"words": check_texts}, required=("words",), check=_check_words),
    "starts_with": _edge("beginning", str.startswith),
    "ends_with": _edge("end", str.endswith),
    "lowercase": _without(_changed_by(str.lower), "no capital letter"),
    "uppercase": _without(_changed_by(_upper), "no small letter"),
    "no_commas": _without(_first_comma, "no comma"),
}

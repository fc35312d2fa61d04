"""A score and its reason in what a judge wrote, in any of the forms in which models write them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from selfinstruct.parse.structured import read_object
from selfinstruct.parse.text import FLAGS, LEAD, collapse

__all__ = ["read_score"]

_NUMBER = r"(?<![-\d.,])(?P<number>\d{1,3}(?:\.\d{1,3})?)(?!\d)"
_OF = r"(?:[*_]{0,3}[ \t]{0,2}(?:/|out[ \t]of)[ \t]{0,2}(?P<most>\d{1,3})(?!\d))?"
_BETWEEN = r"(?:[\s:=*_`\"'<>\[(]|[-\u2013\u2014](?=\s)){0,8}"
_LABELLED = (
    r"\b(?:score|rating|grade)\b(?:[ \t]{0,2}\([^()\n]{0,30}\))?"
    rf"(?:[*_]{{0,3}}[ \t]{{1,2}}(?:is|of|as|would[ \t]be)\b)?{_BETWEEN}{_NUMBER}{_OF}"
)
_LINE = re.compile(rf"{LEAD}(?:(?:overall|final|total|my)[ \t]{{1,2}})?{_LABELLED}", FLAGS)
_INSIDE = re.compile(_LABELLED, FLAGS)
_FRACTION = re.compile(
    rf"{_NUMBER}[*_]{{0,3}}[ \t]{{0,2}}(?:/|out[ \t]of)[ \t]{{0,2}}(?P<most>\d{{1,3}})(?![\d/])", FLAGS
)
_FIRST = re.compile(rf"[\s*_`\"'<\[(]{{0,8}}{_NUMBER}{_OF}", FLAGS)
_ALONE = re.compile(r"[*_`\"'>\])]{0,4}[ \t]{0,2}(?:[-\u2013\u2014:,;\r\n]|\.?\s{0,8}\Z)")
_REASON = re.compile(
    rf"{LEAD}(?:reason|reasoning|explanation|justification|rationale)\b[*_\"']{{0,3}}[ \t]{{0,2}}[:=-][*_]{{0,3}}",
    FLAGS,
)
_LONGEST = 300  # characters of a reason that are kept: it travels with the row


def read_score(text: str, low: int, high: int, *, continued: bool) -> tuple[float | None, str]:
    """Read what a judge wrote.

    A JSON object with a ``score`` is taken first, then a line that begins with the word (``Score: 4``), a number at the
    very start, the word inside a line (``a score of 4``), and last a fraction (``4/5``, ``4 out of 5``). A number
    outside the scale, or of another one (``8/10``), is no score: nothing is clamped or converted.

    Args:
        text: What the model wrote, whatever it is.
        low: The lowest score of the scale.
        high: The highest.
        continued: The prompt ended where the score belongs, and the text goes on from there.

    Returns:
        The score, or None where there is none; and the reason on one line, at most 300 characters, "" without one.
    """
    found = read_object(text)
    if found is not None and "score" in found:
        reason = found.get("reason")
        return _of_json(found["score"], low, high), _short(reason if isinstance(reason, str) else "")
    mark = _mark(text, high, continued)
    if mark is None:
        return None, _short(text)
    number, most = float(mark["number"]), mark["most"]
    sound = low <= number <= high and (most is None or int(most) == high)
    return number if sound else None, _reason(text, mark)


def _of_json(value: object, low: int, high: int) -> float | None:
    if isinstance(value, str):
        mark = _FIRST.match(value)
        value = float(mark["number"]) if mark and mark["most"] in (None, str(high)) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if low <= value <= high else None


def _mark(text: str, high: int, continued: bool) -> re.Match[str] | None:
    """Where the score stands: the first place in the order in which they are to be trusted."""
    line, first = _LINE.search(text), _FIRST.match(text)
    if continued and first is not None:
        return first
    if line is not None:
        return line
    if first is not None and (first["most"] or _ALONE.match(text, first.end())):
        return first
    # Inside running text the last one is the conclusion.
    return _last(_INSIDE.finditer(text)) or _last(
        mark for mark in _FRACTION.finditer(text) if int(mark["most"]) == high
    )


def _last(marks: Iterable[re.Match[str]]) -> re.Match[str] | None:
    found = None
    for mark in marks:
        found = mark
    return found


def _reason(text: str, mark: re.Match[str]) -> str:
    """What stands after its label; without one, what follows the score, or else what comes before it."""
    label = _REASON.search(text)
    if label is not None:
        end = mark.start() if mark.start() >= label.end() else len(text)
        return _short(text[label.end() : end])
    return _short(text[mark.end() :]) or _short(text[: mark.start()])


def _short(text: str) -> str:
    """One paragraph of it, on one line, without the marks around it."""
    plain = text.strip().strip("*_`.,:;)]>- \t\r\n").partition("\n\n")[0]
    return collapse(plain)[:_LONGEST].rstrip()

"""Parsing of the score and its reason from a judge's answer, in the forms that models use."""

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
_LONGEST = 300  # characters of a reason; it is stored with the row


def read_score(text: str, low: int, high: int, *, continued: bool) -> tuple[float | None, str]:
    """Read a score and its reason.

    In order of precedence: a JSON object with a ``score``, a line that begins with the word (``Score: 4``), a number at
    the very start, the word inside a line (``a score of 4``), and a fraction (``4/5``, ``4 out of 5``). A number
    outside the scale, or on another scale (``8/10``), is not a score: nothing is clamped or converted.

    Args:
        text: The judge's answer.
        low: Lowest score of the scale.
        high: Highest score of the scale.
        continued: Whether the prompt ended where the score belongs, so that the text begins with it.

    Returns:
        The score, or None if there is no valid score; and the reason on one line of at most 300 characters, or "".
    """
    record = read_object(text)
    if record is not None and "score" in record:
        reason = record.get("reason")
        return _json_score(record["score"], low, high), _short(reason if isinstance(reason, str) else "")
    mark = _mark(text, high, continued)
    if mark is None:
        return None, _short(text)
    number, most = float(mark["number"]), mark["most"]
    sound = low <= number <= high and (most is None or int(most) == high)
    return number if sound else None, _reason(text, mark)


def _json_score(value: object, low: int, high: int) -> float | None:
    if isinstance(value, str):
        mark = _FIRST.match(value)
        value = float(mark["number"]) if mark and mark["most"] in (None, str(high)) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if low <= value <= high else None


def _mark(text: str, high: int, continued: bool) -> re.Match[str] | None:
    """Find the score, trying the forms in order of precedence."""
    line, first = _LINE.search(text), _FIRST.match(text)
    if continued and first is not None:
        return first
    if line is not None:
        return line
    if first is not None and (first["most"] or _ALONE.match(text, first.end())):
        return first
    # In running text the last score is the conclusion.
    return _last(_INSIDE.finditer(text)) or _last(
        mark for mark in _FRACTION.finditer(text) if int(mark["most"]) == high
    )


def _last(marks: Iterable[re.Match[str]]) -> re.Match[str] | None:
    last = None
    for mark in marks:
        last = mark
    return last


def _reason(text: str, mark: re.Match[str]) -> str:
    """Return the text after the reason's label; without a label, the text after the score, or else before it."""
    label = _REASON.search(text)
    if label is not None:
        end = mark.start() if mark.start() >= label.end() else len(text)
        return _short(text[label.end() : end])
    return _short(text[mark.end() :]) or _short(text[: mark.start()])


def _short(text: str) -> str:
    """Return the first paragraph on one line, without surrounding markup."""
    plain = text.strip().strip("*_`.,:;)]>- \t\r\n").partition("\n\n")[0]
    return collapse(plain)[:_LONGEST].rstrip()

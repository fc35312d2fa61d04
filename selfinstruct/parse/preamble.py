"""Recognition of the preamble that chat models write before a task: "Sure! Here's a harder version:"."""

from __future__ import annotations

import re

from selfinstruct.parse.text import strip_span

__all__ = ["skip_preamble"]

_ACKNOWLEDGEMENT = r"(?:sure|certainly|of course|absolutely|okay|ok)\b[^\n:]{0,40}?\s{0,4}[*_]{0,3}"
_HERE = r"here(?:['\u2019]s| is)\b(?! (?:my|our)\b)"  # "Here is my question:" belongs to the task
_WHAT = r"\b(?:task|problem|challenge|exercise|version|rewrite|prompt|instruction|question|request)\b"
_PERSON = r"\b(?:persona|(?:this|the) person)\b"
_COLON = r":[*_]{0,3}[ \t]*"

_ANNOUNCED = re.compile(
    rf"[*_]{{0,3}}(?:(?:{_ACKNOWLEDGEMENT})?{_HERE}[^\n:]{{0,80}}{_WHAT}[^\n:]{{0,40}}{_COLON}(?:\n|\Z)"
    rf"|(?:{_ACKNOWLEDGEMENT}{_HERE}[^\n:]{{0,80}}{_WHAT}[^\n:]{{0,40}}"  # the task may follow on the same line
    rf"|{_HERE}[^\n:]{{0,80}}{_WHAT}[^\n:]{{0,40}}{_PERSON}[^\n:]{{0,20}}|{_HERE} (?:a|one|the|your) task){_COLON})",
    re.IGNORECASE,
)


def skip_preamble(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without surrounding white space and without a preamble at its beginning.

    A preamble is a separate line, or the beginning of the task's line if it is unambiguous: after a word such as
    "Sure", with the persona named, or exactly "Here is a task:". The pattern is bounded in length, so that the
    search is fast in a long text.
    """
    start, end = strip_span(text, start, end)
    preamble = _ANNOUNCED.match(text, start, end)
    return strip_span(text, preamble.end(), end) if preamble else (start, end)

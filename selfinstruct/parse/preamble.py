"""What a chat model says before a task that it was asked for: "Sure! Here's a harder version:"."""

from __future__ import annotations

import re

from selfinstruct.parse.text import strip

__all__ = ["behind_announcement"]

_SAID = r"(?:sure|certainly|of course|absolutely|okay|ok)\b[^\n:]{0,40}?\s{0,4}[*_]{0,3}"
_HERE = r"here(?:['\u2019]s| is)\b(?! (?:my|our)\b)"  # what is theirs is of the task: "Here is my question:"
_WHAT = r"\b(?:task|problem|challenge|exercise|version|rewrite|prompt|instruction|question|request)\b"
_PERSON = r"\b(?:persona|(?:this|the) person)\b"
_COLON = r":[*_]{0,3}[ \t]*"

_ANNOUNCED = re.compile(
    rf"[*_]{{0,3}}(?:(?:{_SAID})?{_HERE}[^\n:]{{0,80}}{_WHAT}[^\n:]{{0,40}}{_COLON}(?:\n|\Z)"
    rf"|(?:{_SAID}{_HERE}[^\n:]{{0,80}}{_WHAT}[^\n:]{{0,40}}"  # and what may have the task on the same line
    rf"|{_HERE}[^\n:]{{0,80}}{_WHAT}[^\n:]{{0,40}}{_PERSON}[^\n:]{{0,20}}|{_HERE} (?:a|one|the|your) task){_COLON})",
    re.IGNORECASE,
)


def behind_announcement(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space around it and without what announces a task at its beginning.

    That is a line of its own; or before the task on one line, where it can be nothing else: behind a word such as
    "Sure", with the person named, or no more than "Here is a task:". It is bounded in length, so that looking for it
    takes no time in a long text.
    """
    start, end = strip(text, start, end)
    found = _ANNOUNCED.match(text, start, end)
    return strip(text, found.end(), end) if found else (start, end)

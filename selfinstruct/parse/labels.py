"""Parsing of labels from closed vocabularies: ``Category: coding``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from selfinstruct.parse.structured import read_object
from selfinstruct.parse.text import FLAGS, LEAD, collapse

__all__ = ["read_labels"]

OTHER = "other"


def read_labels(text: str, vocabularies: Mapping[str, Sequence[str]], *, continued: bool) -> dict[str, str | None]:
    """Read one label for each name, from a JSON object or from lines ``Name: label``.

    Args:
        text: The model's answer.
        vocabularies: The allowed labels by name; case doesn't matter.
        continued: Whether the prompt ended after the first name, so that the text begins with its label.

    Returns:
        For each name, the first label of its vocabulary in the value. A value without a known label is ``other`` if the
        vocabulary has that label, else None. A missing value is None.
    """
    values = read_object(text)
    if values is None:
        values = {}
        for index, name in enumerate(vocabularies):
            match = _line(name).search(text)
            if match is not None:
                values[name] = match["value"]
            elif index == 0 and (continued or len(vocabularies) == 1):
                values[name] = text.lstrip().partition("\n")[0]
    return {name: _label(values.get(name), tuple(words)) for name, words in vocabularies.items()}


@lru_cache(maxsize=64)
def _line(name: str) -> re.Pattern[str]:
    return re.compile(rf"{LEAD}{re.escape(name)}[*_\"']{{0,3}}[ \t]{{0,2}}[:=](?P<value>[^\n]*)", FLAGS)


@lru_cache(maxsize=64)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


def _label(value: object, words: tuple[str, ...]) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    match = _pattern(words).search(collapse(value))
    if match is not None:
        return next(word for word in words if word.casefold() == match.group().casefold())
    return OTHER if OTHER in words else None

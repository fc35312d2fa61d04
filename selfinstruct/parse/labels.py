"""Words of closed vocabularies in what a model wrote about a text: ``Category: coding``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from selfinstruct.parse.structured import read_object
from selfinstruct.parse.text import FLAGS, LEAD, collapse

__all__ = ["read_labels"]

OTHER = "other"


def read_labels(text: str, vocabularies: Mapping[str, Sequence[str]], *, continued: bool) -> dict[str, str | None]:
    """Read one word for each name, from a JSON object or from lines ``Name: word``.

    Args:
        text: What the model wrote, whatever it is.
        vocabularies: By name, the words that may be chosen; case doesn't matter.
        continued: The prompt ended after the first name, and the text goes on from there.

    Returns:
        By name, the word of its vocabulary that comes first in what was said. What is no such word is ``other`` where
        the vocabulary has that, else None; and None where nothing was said.
    """
    said = read_object(text)
    if said is None:
        said = {}
        for place, name in enumerate(vocabularies):
            found = _line(name).search(text)
            if found is not None:
                said[name] = found["value"]
            elif place == 0 and (continued or len(vocabularies) == 1):
                said[name] = text.lstrip().partition("\n")[0]
    return {name: _chosen(said.get(name), tuple(words)) for name, words in vocabularies.items()}


@lru_cache(maxsize=64)
def _line(name: str) -> re.Pattern[str]:
    return re.compile(rf"{LEAD}{re.escape(name)}[*_\"']{{0,3}}[ \t]{{0,2}}[:=](?P<value>[^\n]*)", FLAGS)


@lru_cache(maxsize=64)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


def _chosen(said: object, words: tuple[str, ...]) -> str | None:
    if not isinstance(said, str) or not said.strip():
        return None
    found = _pattern(words).search(collapse(said))
    if found is not None:
        return next(word for word in words if word.casefold() == found.group().casefold())
    return OTHER if OTHER in words else None

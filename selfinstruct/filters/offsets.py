"""Where the tokens of a text stand in it, in characters, although the tokenizer folds and normalises."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import partial

import regex

from selfinstruct.filters.text import tokenize

__all__ = ["token_spans"]

_PIECE = re.compile(r"\S+")
# What a reader takes for one character, conjoining jamo and marks included: composition stays within it.
_CLUSTER = regex.compile(r"\X")
_fold = partial(unicodedata.normalize, "NFKC")


def token_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each of ``tokenize(text)``, in order.

    White space never lies within a token, so that each piece between is looked at alone. In the rare piece whose
    characters can't be normalised one by one, a token that isn't found gets the rest of the piece.
    """
    spans: list[tuple[int, int]] = []
    for piece in _PIECE.finditer(text):
        start, end = piece.span()
        spans += ((start + a, start + b) for a, b in _within(piece.group(), end - start))
    return spans


def _within(piece: str, size: int) -> Iterator[tuple[int, int]]:
    tokens = tokenize(piece)
    folded, origin = _folded(piece)
    at = 0
    for token in tokens:
        # What stands between tokens has no character that a token could begin with: the first hit is the token.
        found = folded.find(token, at)
        if found < 0:
            yield (origin[min(at, len(origin) - 1)][0] if origin else 0), size
            continue
        at = found + len(token)
        yield origin[found][0], origin[at - 1][1]


def _folded(piece: str) -> tuple[str, list[tuple[int, int]]]:
    """The piece as the tokenizer reads it, and for each of its characters where it comes from."""
    letters: list[str] = []
    origin: list[tuple[int, int]] = []
    for cluster in _CLUSTER.finditer(piece):
        made = _fold(_fold(cluster.group()[:64]).casefold())
        letters.append(made)
        origin += [cluster.span()] * len(made)
    return "".join(letters), origin

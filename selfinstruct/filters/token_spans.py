"""Positions of tokens in the original text, in characters, although the tokenizer folds case and normalises."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import partial

import regex

from selfinstruct.filters.text import find_words

__all__ = ["token_spans"]

_PIECE = re.compile(r"\S+")
# A grapheme cluster: normalisation never composes characters across its border.
_CLUSTER = regex.compile(r"\X")
_fold = partial(unicodedata.normalize, "NFKC")


def token_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of each token of ``find_words(text)``, in order.

    A token never contains white space, so the pieces between white space are independent. In the rare piece whose
    characters cannot be normalised one by one, a token that is not found gets the rest of the piece.
    """
    spans: list[tuple[int, int]] = []
    for piece in _PIECE.finditer(text):
        start, end = piece.span()
        spans += ((start + a, start + b) for a, b in _within(piece.group(), end - start))
    return spans


def _within(piece: str, size: int) -> Iterator[tuple[int, int]]:
    tokens = find_words(piece)
    folded, origin = _folded(piece)
    end = 0
    for token in tokens:
        # No character between tokens can begin a token, so the first match is the token.
        start = folded.find(token, end)
        if start < 0:
            yield (origin[min(end, len(origin) - 1)][0] if origin else 0), size
            continue
        end = start + len(token)
        yield origin[start][0], origin[end - 1][1]


def _folded(piece: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the piece as the tokenizer reads it, and the source span of each of its characters."""
    letters: list[str] = []
    origin: list[tuple[int, int]] = []
    for cluster in _CLUSTER.finditer(piece):
        normalised = _fold(_fold(cluster.group()[:64]).casefold())
        letters.append(normalised)
        origin += [cluster.span()] * len(normalised)
    return "".join(letters), origin

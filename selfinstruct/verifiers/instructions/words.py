r"""Words and tokens of an answer.

Three units are in use, as in the published checkers: words are runs of letters, digits and underscores (``\w+``);
pieces are what white space separates; tokens are words, contractions and punctuation marks in the manner of the Penn
Treebank, where ``don't`` is ``do`` and ``n't``, and ``U.S.`` and ``self-made`` are one token each.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from selfinstruct.verifiers.instructions.sentences import split_sentences

__all__ = ["PUNCTUATION", "find_all_words", "plain_pieces", "stripped_pieces", "tokens", "without_punctuation"]

PUNCTUATION = string.punctuation
_EDGES = f"{PUNCTUATION} "
_NO_PUNCTUATION = str.maketrans("", "", PUNCTUATION)

_WORDS = re.compile(r"\w+")
_MARKS = r";@#$%&?!*()\[\]{}<>\u00ab\u00bb\u201c\u201d\u201e\u2018\u2019\"`"
_TOKENS = re.compile(
    rf"\.{{2,}}|--|[{_MARKS}]|[:,](?!\d)|'(?:s|m|d|ll|re|ve)(?!\w)|(?:[^\s{_MARKS}:,.'-]|[:,](?=\d)|\.(?!\.)|-(?!-))+|'",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"n(?='t(?!\w))", re.IGNORECASE)
_COMPOUNDS = {"cannot": 3, "gimme": 3, "gonna": 3, "gotta": 3, "lemme": 3, "wanna": 3}


def find_all_words(text: str) -> list[str]:
    """Return the runs of letters, digits and underscores."""
    return _WORDS.findall(text)


def without_punctuation(text: str) -> str:
    """Return a text without the punctuation marks and symbols of ASCII."""
    return text.translate(_NO_PUNCTUATION)


def plain_pieces(text: str) -> list[str]:
    """Return the pieces of a text in small letters, without the punctuation marks of ASCII anywhere in them."""
    return without_punctuation(text.lower()).split()


def stripped_pieces(text: str) -> list[str]:
    """Return the pieces of a text in small letters, without punctuation marks at their edges; no empty ones."""
    return [stripped for piece in text.lower().split() if (stripped := piece.strip(_EDGES))]


def tokens(text: str) -> list[str]:
    """Return the tokens of a text: words, the parts of contractions, and punctuation marks."""
    return [token for sentence in split_sentences(text) for token in _sentence_tokens(sentence)]


def _sentence_tokens(sentence: str) -> Iterator[str]:
    body = sentence.rstrip("\"')]}>\u201d\u2019\u00bb ")
    has_stop = body.endswith(".") and not body.endswith("..")
    stop = len(body) - 1 if has_stop else len(sentence)
    yield from _joined(_TOKENS.findall(_NEGATION.sub(r" \g<0>", sentence[:stop])))
    yield from sentence[stop:]


def _joined(parts: list[str]) -> Iterator[str]:
    """Yield tokens in which the apostrophe of ``n't`` and of ``o'clock`` is not split off."""
    position = 0
    while position < len(parts):
        part = parts[position]
        if part.lower() == "n" and parts[position + 1 : position + 3] in (["'", "t"], ["'", "T"]):
            yield f"{part}'{parts[position + 2]}"
            position += 3
            continue
        position += 1
        if cut := _COMPOUNDS.get(part.lower()):
            yield part[:cut]
            yield part[cut:]
        else:
            yield part

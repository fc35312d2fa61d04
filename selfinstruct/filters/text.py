"""Tokens of a text: the unit in which ROUGE-L compares.

``rouge`` equals the tokenizer of the ``rouge_score`` package, token for token. It only knows a to z and 0 to 9, so a
text in another script has no tokens except digits. ``auto`` gives the same tokens for ASCII text and reads every other
script as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, get_args

import regex

from selfinstruct.errors import UsageError

__all__ = ["Tokenizer", "count_words", "tokenize", "tokenizer_function"]

Tokenizer = Literal["auto", "rouge", "rouge-stem"]

_ALPHANUMERIC = re.compile("[a-z0-9]+")

# Scripts without spaces: a run of letters is a whole clause, and no two clauses would ever be equal, so each character
# is a token, together with its marks. U+30FC (the long vowel) and U+3006 belong to kana and Han text, although Unicode
# assigns them to no script.
_UNSPACED = r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u30FC\u3006]&&[\p{L}\p{M}\p{N}]]"
_WORDS = regex.compile(rf"(?V1){_UNSPACED}\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]+")

_UNSPACED_ONE = regex.compile(rf"(?V1){_UNSPACED}")

# Sorting a run of combining marks is quadratic in CPython. Unicode's stream-safe format (UAX 15, section 13) allows 30
# in a row; no language needs more than a few.
_MARKS = regex.compile(r"(\p{M}{30})\p{M}++")


def _find_words(text: str) -> list[str]:
    words: list[str] = _WORDS.findall(text)
    return words


# Maps every ASCII character to its lower case if it is alphanumeric, otherwise to a space.
_LOWER = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}


def _rouge(text: str) -> list[str]:
    # rouge_score replaces characters outside [a-z0-9] by spaces, splits, and drops empty tokens: the same list.
    if text.isascii():
        return text.translate(_LOWER).split()  # twice as fast
    return _ALPHANUMERIC.findall(text.lower())


def _auto(text: str) -> list[str]:
    if text.isascii():
        return text.translate(_LOWER).split()
    text = unicodedata.normalize("NFKC", _MARKS.sub(r"\1", text)).casefold()
    return _find_words(unicodedata.normalize("NFKC", text))


@cache
def _stemmer() -> Any:
    try:
        from nltk.stem.porter import PorterStemmer  # slow to import, rarely used
    except ImportError:
        raise UsageError("the tokenizer rouge-stem needs nltk; run: pip install nltk") from None
    return PorterStemmer()


def _rouge_stem(text: str) -> list[str]:
    # rouge_score stems only words of more than three characters.
    stem = _stemmer().stem
    return [stem(token) if len(token) > 3 else token for token in _rouge(text)]


_FUNCTIONS: dict[str, Callable[[str], list[str]]] = {"auto": _auto, "rouge": _rouge, "rouge-stem": _rouge_stem}


def tokenizer_function(name: str) -> Callable[[str], list[str]]:
    """Return the function from a text to its tokens.

    Raises:
        UsageError: There is no tokenizer with this name.
    """
    if name not in _FUNCTIONS:
        raise UsageError(f"unknown tokenizer {name!r}; choose one of {', '.join(get_args(Tokenizer))}")
    return _FUNCTIONS[name]


def tokenize(text: str, tokenizer: Tokenizer = "auto") -> list[str]:
    """Return the tokens of a text, in time linear in its length.

    Args:
        text: The text.
        tokenizer: ``rouge``: lower case, runs of a-z and 0-9, as in ``rouge_score`` (``rouge-stem``: with its Porter
            stemmer). ``auto``: the same for ASCII text; otherwise NFKC, case folded, runs of letters, marks and
            numbers of any script, and one token per character in scripts without spaces (Han, kana, Thai, Lao,
            Khmer, Burmese).
    """
    return tokenizer_function(tokenizer)(text)


def count_words(text: str) -> int:
    """Return the number of words: pieces between white space, and single characters in scripts without spaces."""
    pieces = text.split()
    if text.isascii() or not _UNSPACED_ONE.search(text):
        return len(pieces)
    return sum(len(_find_words(piece)) if _UNSPACED_ONE.search(piece) else 1 for piece in pieces)

"""Tokens of a text: the unit in which ROUGE-L compares.

``rouge`` is the tokenizer of the ``rouge_score`` package, token for token. It knows only a to z and 0 to 9, so that a
text in another script has no tokens, or only its digits. ``auto`` gives the same tokens for ASCII text and reads every
other script as well.
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

# Scripts written without spaces: there a run of letters is a clause, and no two of them would ever be equal. One token
# for each character, with the marks that follow it. U+30FC (the long vowel) and U+3006 belong to kana and Han text,
# though Unicode gives them to no script.
_UNSPACED = r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u30FC\u3006]&&[\p{L}\p{M}\p{N}]]"
_WORDS = regex.compile(rf"(?V1){_UNSPACED}\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]+")

_UNSPACED_ONE = regex.compile(rf"(?V1){_UNSPACED}")

# Sorting a run of combining marks is quadratic in CPython. Unicode's stream-safe format (UAX 15, section 13) allows 30
# in a row; no language needs more than a few.
_MARKS = regex.compile(r"(\p{M}{30})\p{M}++")


def _find_words(text: str) -> list[str]:
    found: list[str] = _WORDS.findall(text)
    return found


# Every ASCII character to itself in lower case, or to a space.
_LOWER = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}


def _rouge(text: str) -> list[str]:
    # rouge_score replaces whatever is not in [a-z0-9] by a space, splits, and drops empty tokens: the same list.
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
        from nltk.stem.porter import PorterStemmer  # slow to import, seldom wanted
    except ImportError:
        raise UsageError("the tokenizer rouge-stem needs nltk; run: pip install nltk") from None
    return PorterStemmer()


def _rouge_stem(text: str) -> list[str]:
    # rouge_score stems only words of more than three characters.
    stem = _stemmer().stem
    return [stem(token) if len(token) > 3 else token for token in _rouge(text)]


_FUNCTIONS: dict[str, Callable[[str], list[str]]] = {"auto": _auto, "rouge": _rouge, "rouge-stem": _rouge_stem}


def tokenizer_function(name: str) -> Callable[[str], list[str]]:
    """The function from a text to its tokens.

    Raises:
        UsageError: There is no tokenizer of that name.
    """
    if name not in _FUNCTIONS:
        raise UsageError(f"unknown tokenizer {name!r}; choose one of {', '.join(get_args(Tokenizer))}")
    return _FUNCTIONS[name]


def tokenize(text: str, tokenizer: Tokenizer = "auto") -> list[str]:
    """Tokens of a text, in time linear in its length.

    Args:
        tokenizer: ``rouge``: lower case, runs of a-z and 0-9, as ``rouge_score`` (``rouge-stem``: with its Porter
            stemmer). ``auto``: the same for ASCII text; otherwise NFKC, case folded, runs of letters, marks and
            numbers of any script, and one token for each character of scripts written without spaces (Han, kana,
            Thai, Lao, Khmer, Burmese).
    """
    return tokenizer_function(tokenizer)(text)


def count_words(text: str) -> int:
    """Words of a text: what white space separates, and each character of scripts written without spaces."""
    pieces = text.split()
    if text.isascii() or not _UNSPACED_ONE.search(text):
        return len(pieces)
    return sum(len(_find_words(piece)) if _UNSPACED_ONE.search(piece) else 1 for piece in pieces)

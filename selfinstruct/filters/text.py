"""Tokens of a text: the unit in which ROUGE-L and shingles of words compare.

``rouge`` equals the tokenizer of the ``rouge_score`` package, token for token. It only knows a to z and 0 to 9, so a
text in another script has no tokens except digits. ``words`` gives the same tokens for ASCII text and reads every other
script as well. ``symbols`` adds operators and other symbols, without which ``a & b`` equals ``a | b``; ``auto`` is
another name for it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal, get_args

import regex

from selfinstruct.errors import UsageError

__all__ = [
    "Tokenizer",
    "count_words",
    "count_words_of_semantics_1",
    "differ_in_symbols_alone",
    "find_words",
    "stored_tokenizer",
    "tokenize",
    "tokenizer_function",
]

Tokenizer = Literal["auto", "symbols", "words", "rouge", "rouge-stem"]

_ALPHANUMERIC = re.compile("[a-z0-9]+")

# Scripts without spaces: a run of letters is a whole clause, and no two clauses would ever be equal, so each character
# is a token, together with its marks. U+30FC (the long vowel) and U+3006 belong to kana and Han text, although Unicode
# assigns them to no script.
_UNSPACED = r"[[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u30FC\u3006]&&[\p{L}\p{M}\p{N}]]"
_WORDS = regex.compile(rf"(?V1){_UNSPACED}\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]+")
_UNSPACED_ONE = regex.compile(rf"(?V1){_UNSPACED}")

# The same by a rule: Unicode's line breaking classes (UAX 14) mark the scripts in which a line may break between any
# two characters (ID, CJ) or only where a dictionary says so (SA); the other scripts named here have neither.
_ANY_UNSPACED = (
    r"[[\p{LB=ID}\p{LB=CJ}\p{LB=SA}\p{Bopomofo}\p{Javanese}\p{Balinese}\p{Buginese}\p{Batak}\p{Rejang}\u30FC\u3006]"
    r"&&[\p{L}\p{M}\p{N}]]"
)
_WORD = rf"{_ANY_UNSPACED}\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--{_ANY_UNSPACED}]+"
_ANY_WORDS = regex.compile(rf"(?V1){_WORD}")
# Tibetan separates syllables by a mark, and sentences by spaces.
_WITHOUT_SPACES = regex.compile(rf"(?V1){_ANY_UNSPACED}|[\p{{Tibetan}}&&\p{{L}}]")

# Symbols are tokens where they carry meaning. Sentence punctuation, quotes, closing brackets and the marks of lists and
# headings carry none: near-duplicates differ in them. ``letter``, ``digit`` and ``operator`` are the insides of sets.
_SYMBOLS = r"""
    ^[ \t]*(?:[*>+]|\#+)(?=[ \t]+[^\s{digit}])    # the mark of a list, quotation or heading is matched and left out
    |(
        {word}
        |(?:[!:]=|-[>=]|[{operator}])(?:[{operator}]|-[>=])*    # a run is one token: C++, !=, ->, <=>
        |(?<![{letter}])-(?=[ ]?\.?[{digit}])     # -5 and 2 - 2, but not covid-19
        |(?<![-{letter}{digit}])-(?=\(|[{letter}](?![{letter}]))    # -x
        |(?<=(?<![{letter}])[{letter}{digit})\]][ ])-(?=[ ][{letter}{digit}(])    # a - b
        |[\[{{]|(?<=[{letter}{digit}\])}}])\(     # a[0] and a(0), but no parenthesis of a sentence
        |(?<=[{digit}])[.:](?=[{digit}])          # 1.5 and 1:5
        |(?<![.{letter}{digit}])\.(?=[{letter}])  # .NET
        |(?<=[{digit}])!                          # 5!
        |(?<![!?{letter}{digit}])!(?=[({letter}{digit}])    # !x
    )"""
_OPERATORS = r"\#$%&*+/<=>@\\^|~"
_ASCII_TOKENS = re.compile(
    _SYMBOLS.format(word="[a-z0-9]+", letter="a-z", digit="0-9", operator=_OPERATORS), re.MULTILINE | re.VERBOSE
)
_TOKENS = regex.compile(
    "(?V1)"
    + _SYMBOLS.format(
        word=rf"{_WORD}|\p{{So}}|\p{{EMod}}",
        letter=r"\p{L}\p{M}",
        digit=r"\p{Nd}",
        operator=rf"{_OPERATORS}\p{{Sm}}\p{{Sc}}",
    ),
    regex.MULTILINE | regex.VERBOSE,
)
# A text without a match has no symbol, and takes the fast path.
_MAYBE_SYMBOL = re.compile(r"[#$%&*+/<=>@\\^|~\[{(]|[:.!](?=\S)|(?<=\d)!|-(?![A-Za-z]{2})")

_MARKUP = frozenset("*()[]{}")  # emphasis, lists and brackets of a sentence

# Typographic forms of one sign, and superscripts, which NFKC turns into plain digits: 10² is not 102.
_SIGNS = regex.compile(r"\p{Pd}|[\u2044\u2212\u2215\uFE0E\uFE0F]")
_PLAIN_SIGNS = {"\u2044": "/", "\u2215": "/", "\ufe0e": "", "\ufe0f": ""}
_SUPERSCRIPTS = re.compile("[\u00b2\u00b3\u00b9\u2070\u2074-\u207c\u207f]+")

# Sorting a run of combining marks is quadratic in CPython. Unicode's stream-safe format (UAX 15, section 13) allows 30
# in a row; no language needs more than a few.
_MARKS = regex.compile(r"(\p{M}{30})\p{M}++")


# Maps every ASCII character to its lower case if it is alphanumeric, otherwise to a space.
_LOWER = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFKC", _MARKS.sub(r"\1", text)).casefold()
    return unicodedata.normalize("NFKC", text)


def _rouge(text: str) -> list[str]:
    # rouge_score replaces characters outside [a-z0-9] by spaces, splits, and drops empty tokens: the same list.
    if text.isascii():
        return text.translate(_LOWER).split()  # twice as fast
    return _ALPHANUMERIC.findall(text.lower())


def find_words(text: str) -> list[str]:
    """Return the tokens of a text by the tokenizer ``words``."""
    if text.isascii():
        return text.translate(_LOWER).split()
    words: list[str] = _WORDS.findall(_folded(text))
    return words


def _symbols(text: str) -> list[str]:
    if text.isascii():
        if not _MAYBE_SYMBOL.search(text):
            return text.translate(_LOWER).split()
        return list(filter(None, _ASCII_TOKENS.findall(text.lower())))
    text = _folded(_SUPERSCRIPTS.sub(r"^\g<0>", text))
    text = _SIGNS.sub(lambda sign: _PLAIN_SIGNS.get(sign.group(), "-"), text)
    return list(filter(None, _TOKENS.findall(text)))


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


_FUNCTIONS: dict[str, Callable[[str], list[str]]] = {
    "auto": _symbols,
    "symbols": _symbols,
    "words": find_words,
    "rouge": _rouge,
    "rouge-stem": _rouge_stem,
}


def tokenizer_function(name: str) -> Callable[[str], list[str]]:
    """Return the function from a text to its tokens.

    Raises:
        UsageError: There is no tokenizer with this name.
    """
    if name not in _FUNCTIONS:
        raise UsageError(f"unknown tokenizer {name!r}; choose one of {', '.join(get_args(Tokenizer))}")
    return _FUNCTIONS[name]


def stored_tokenizer(name: Tokenizer) -> Tokenizer:
    """Return the present name of a tokenizer that an earlier version stored: its ``auto`` had no symbols."""
    return "words" if name == "auto" else name


def tokenize(text: str, tokenizer: Tokenizer = "auto") -> list[str]:
    """Return the tokens of a text, in time linear in its length.

    Args:
        text: The text.
        tokenizer: ``rouge``: lower case, runs of a-z and 0-9, as in ``rouge_score`` (``rouge-stem``: with its Porter
            stemmer). ``words``: the same for ASCII text; otherwise NFKC, case folded, runs of letters, marks and
            numbers of any script, and one token per character in scripts without spaces (Han, kana, Thai, Lao,
            Khmer, Burmese). ``symbols`` or ``auto``: also operators and other symbols (``+``, ``->``, ``%``,
            ``.NET``, currencies, emoji), not sentence punctuation; and one token per character in every script
            without spaces.
    """
    return tokenizer_function(tokenizer)(text)


def differ_in_symbols_alone(first: str, second: str) -> bool:
    """Return whether two texts have the same words but other symbols: ``2 + 2`` and ``2 - 2``, ``C++`` and ``C#``.

    Asterisks and brackets don't count, since they also mark emphasis, lists and asides.
    """
    if not (_has_symbol(first) or _has_symbol(second)) or first.casefold() == second.casefold():
        return False
    words, symbols = zip(*(_split_symbols(tokenize(text)) for text in (first, second)), strict=True)
    return bool(words[0] == words[1] and symbols[0] != symbols[1])


def _has_symbol(text: str) -> bool:
    return not text.isascii() or _MAYBE_SYMBOL.search(text) is not None


def _split_symbols(tokens: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the words and the symbols of a text."""
    words: list[str] = []
    symbols: list[str] = []
    for token in tokens:
        if token[0].isalnum():
            words.append(token)
        elif not _MARKUP.issuperset(token):
            symbols.append(token)
    return words, symbols


def count_words(text: str) -> int:
    """Return the number of words: pieces between white space, single characters in scripts without spaces, and
    syllables in Tibetan.
    """
    return _count(text, _WITHOUT_SPACES, _ANY_WORDS)


def count_words_of_semantics_1(text: str) -> int:
    """Return the number of words as runs with semantics 1 count them: without the later scripts."""
    return _count(text, _UNSPACED_ONE, _WORDS)


def _count(text: str, without_spaces: regex.Pattern[str], words: regex.Pattern[str]) -> int:
    pieces = text.split()
    if text.isascii() or not without_spaces.search(text):
        return len(pieces)
    return sum(len(words.findall(piece)) if without_spaces.search(piece) else 1 for piece in pieces)

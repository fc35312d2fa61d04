"""Repetition within a text, by the rules of Gopher's MassiveText (Rae et al. 2021, arXiv:2112.11446, A.1.1).

Three choices that the paper leaves open: words are the tokens of ``find_words``, so that the rules work in every
script; an n-gram that occurs once is not a repetition, however large its share of a short text; only the characters of
words count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter, Reads
from selfinstruct.filters.text import find_words
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Repetition"]

# Table A1 of the paper: a document is rejected when a fraction is above its threshold.
#
# | measure                                 | n  | threshold |
# | --------------------------------------- | -- | --------- |
# | duplicate line fraction                 |    | 0.30      |
# | duplicate paragraph fraction            |    | 0.30      |
# | duplicate line character fraction       |    | 0.20      |
# | duplicate paragraph character fraction  |    | 0.20      |
# | top n-gram character fraction           |  2 | 0.20      |
# |                                         |  3 | 0.18      |
# |                                         |  4 | 0.16      |
# | duplicate n-gram character fraction     |  5 | 0.15      |
# |                                         |  6 | 0.14      |
# |                                         |  7 | 0.13      |
# |                                         |  8 | 0.12      |
# |                                         |  9 | 0.11      |
# |                                         | 10 | 0.10      |
LINES = 0.30
PARAGRAPHS = 0.30
LINE_CHARACTERS = 0.20
PARAGRAPH_CHARACTERS = 0.20
TOP_GRAMS = (0.20, 0.18, 0.16)  # of 2, 3 and 4 words
DUPLICATE_GRAMS = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)  # of 5 to 10 words

# The paper removes documents with fewer than 50 words first; in a shorter one, two times "of the" exceeds 0.20.
MIN_WORDS = 50

_PARAGRAPH = re.compile(r"\n[^\S\n]*+\n\s*+")


@dataclass(frozen=True)
class Repetition(Filter):
    """Rejects texts that repeat themselves (Gopher's rules); the score is the fraction that was too high.

    Reasons, in the order in which they are tried: ``lines``, ``paragraphs``, ``line_characters``,
    ``paragraph_characters``, ``top_2_gram`` to ``top_4_gram``, ``duplicate_5_gram`` to ``duplicate_10_gram``.
    A line or paragraph is a duplicate if an equal one (apart from surrounding white space) precedes it.

    Attributes:
        lines, paragraphs, line_characters, paragraph_characters: Highest fractions that are kept; 1.0 disables a rule.
        top_grams: Highest fractions of characters in the most frequent n-gram, for n from 2.
        duplicate_grams: Highest fractions of characters in n-grams that occur more than once, for the following n.
        min_words: Shorter texts are always kept.
    """

    name: ClassVar[str] = "repetition"
    reads: ClassVar[Reads] = "output"
    lines: float = LINES
    paragraphs: float = PARAGRAPHS
    line_characters: float = LINE_CHARACTERS
    paragraph_characters: float = PARAGRAPH_CHARACTERS
    top_grams: tuple[float, ...] = TOP_GRAMS
    duplicate_grams: tuple[float, ...] = DUPLICATE_GRAMS
    min_words: int = MIN_WORDS

    def __post_init__(self) -> None:
        limits = (self.lines, self.paragraphs, self.line_characters, self.paragraph_characters)
        if wrong := [limit for limit in (*limits, *self.top_grams, *self.duplicate_grams) if not 0 <= limit <= 1]:
            raise UsageError(f"{wrong[0]} is not a fraction; give thresholds between 0 and 1")
        if self.min_words < 0:
            raise UsageError(f"min_words is {self.min_words}, but a number of words is 0 or more")

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        words = find_words(text)
        if len(words) < self.min_words:
            return self.keep()
        for reason, fraction, limit in self._fractions(text, words):
            if fraction > limit:
                return self.reject(reason, fraction)
        return self.keep()

    def _fractions(self, text: str, words: Sequence[str]) -> Iterator[tuple[str, float, float]]:
        line, line_characters = _duplicates(text.splitlines())
        paragraph, paragraph_characters = _duplicates(_PARAGRAPH.split(text))
        yield RejectReason.LINES, line, self.lines
        yield RejectReason.PARAGRAPHS, paragraph, self.paragraphs
        yield RejectReason.LINE_CHARACTERS, line_characters, self.line_characters
        yield RejectReason.PARAGRAPH_CHARACTERS, paragraph_characters, self.paragraph_characters
        limits = (*self.top_grams, *self.duplicate_grams)
        for number, (top, duplicate) in enumerate(_grams(words, len(limits) + 1)):
            is_top = number < len(self.top_grams)
            name = "top" if is_top else "duplicate"
            yield f"{name}_{number + 2}_gram", top if is_top else duplicate, limits[number]


def _duplicates(pieces: Sequence[str]) -> tuple[float, float]:
    """Return the shares of duplicate pieces, by number and by characters; empty pieces are ignored."""
    stripped = [piece for piece in map(str.strip, pieces) if piece]
    characters = sum(map(len, stripped))
    if not characters:
        return 0.0, 0.0
    unique = set(stripped)
    repeated = characters - sum(map(len, unique))
    return (len(stripped) - len(unique)) / len(stripped), repeated / characters


def _grams(words: Sequence[str], longest: int) -> Iterator[tuple[float, float]]:
    """Yield, for n from 2, the shares of characters in the most frequent n-gram and in all repeated n-grams.

    An n-gram that occurs once is never the beginning of a longer one that occurs twice, so each step only visits the
    positions of the previous duplicates: ordinary text ends after a few steps, and the time is linear in any text.
    """
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(word, len(numbers)) for word in words]
    sizes = [len(word) for word in words]
    total = sum(sizes)
    grams = codes  # number of the n-gram at each of the starts
    starts: Sequence[int] = range(len(words))
    for n in range(2, longest + 1):
        numbers_of: dict[int, int] = {}
        base = len(words)
        keys = [
            gram * base + codes[start + n - 1] for gram, start in zip(grams, starts, strict=True) if start + n <= base
        ]
        starts = starts[: len(keys)]
        counts = Counter(keys)
        repeated = [number for number, key in enumerate(keys) if counts[key] > 1]
        starts = [starts[number] for number in repeated]
        grams = [numbers_of.setdefault(keys[number], len(numbers_of)) for number in repeated]
        if not starts:
            return
        top = _top(grams, starts, n, sizes)
        starts_of_top = [start for gram, start in zip(grams, starts, strict=True) if gram == top]
        yield _covered(starts_of_top, n, sizes) / total, _covered(starts, n, sizes) / total


def _top(grams: Sequence[int], starts: Sequence[int], n: int, sizes: Sequence[int]) -> int:
    """Return the most frequent n-gram; of equally frequent ones, the first with the most characters."""
    counts = Counter(grams)
    most = max(counts.values())
    first = dict(zip(reversed(grams), reversed(starts), strict=True))
    rivals = [gram for gram, count in counts.items() if count == most]
    return max(rivals, key=lambda gram: sum(sizes[first[gram] : first[gram] + n]))


def _covered(starts: Sequence[int], n: int, sizes: Sequence[int]) -> int:
    """Return the characters of the words in n-grams with these ascending starts, each word counted once."""
    covered = end = 0
    for gram_start in starts:
        start = max(gram_start, end)
        end = gram_start + n
        covered += sum(sizes[start:end])
    return covered

"""Text that repeats itself, by the rules of Gopher's MassiveText (Rae et al. 2021, arXiv:2112.11446, A.1.1).

Three choices that the paper leaves open: words are those of ``tokenize``, so that every script is judged alike; an
n-gram that occurs once is no repetition, however large its share of a short text; and characters are those of words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter
from selfinstruct.filters.text import tokenize
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Repetition"]

# Table A1 of the paper: a document is dropped when a fraction is above its threshold.
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

# The same paper drops documents of fewer than 50 words before; in a shorter one, "of the" twice is above 0.20.
MIN_WORDS = 50

_PARAGRAPH = re.compile(r"\n[^\S\n]*+\n\s*+")


@dataclass(frozen=True)
class Repetition(Filter):
    """Gopher's repetition rules; the score is the fraction that was too high.

    Reasons, in the order in which they are tried: ``lines``, ``paragraphs``, ``line_characters``,
    ``paragraph_characters``, ``top_2_gram`` to ``top_4_gram``, ``duplicate_5_gram`` to ``duplicate_10_gram``.
    A line or paragraph is a duplicate when the same one (but for white space around it) stands before it.

    Attributes:
        lines, paragraphs, line_characters, paragraph_characters: Highest fractions that are kept; 1.0 turns one off.
        top_grams: Highest fractions of characters in the most frequent n-gram, for n from 2.
        duplicate_grams: Highest fractions of characters in n-grams that occur more than once, for the n that follow.
        min_words: Shorter texts are kept unjudged.
    """

    filter: ClassVar[str] = "repetition"
    lines: float = LINES
    paragraphs: float = PARAGRAPHS
    line_characters: float = LINE_CHARACTERS
    paragraph_characters: float = PARAGRAPH_CHARACTERS
    top_grams: tuple[float, ...] = TOP_GRAMS
    duplicate_grams: tuple[float, ...] = DUPLICATE_GRAMS
    min_words: int = MIN_WORDS

    def __post_init__(self) -> None:
        limits = (self.lines, self.paragraphs, self.line_characters, self.paragraph_characters)
        if wrong := [one for one in (*limits, *self.top_grams, *self.duplicate_grams) if not 0 <= one <= 1]:
            raise UsageError(f"{wrong[0]} is no fraction; give thresholds between 0 and 1")

    def verdict(self, text: str) -> Verdict:
        """Judge one text."""
        words = tokenize(text)
        if len(words) < self.min_words:
            return self.kept()
        for reason, fraction, limit in self._fractions(text, words):
            if fraction > limit:
                return self.dropped(reason, fraction)
        return self.kept()

    def _fractions(self, text: str, words: Sequence[str]) -> Iterator[tuple[str, float, float]]:
        line, line_characters = _duplicates(text.splitlines())
        paragraph, paragraph_characters = _duplicates(_PARAGRAPH.split(text))
        yield RejectReason.LINES, line, self.lines
        yield RejectReason.PARAGRAPHS, paragraph, self.paragraphs
        yield RejectReason.LINE_CHARACTERS, line_characters, self.line_characters
        yield RejectReason.PARAGRAPH_CHARACTERS, paragraph_characters, self.paragraph_characters
        limits = (*self.top_grams, *self.duplicate_grams)
        for place, (top, duplicate) in enumerate(_grams(words, len(limits) + 1)):
            is_top = place < len(self.top_grams)
            name = "top" if is_top else "duplicate"
            yield f"{name}_{place + 2}_gram", top if is_top else duplicate, limits[place]


def _duplicates(pieces: Sequence[str]) -> tuple[float, float]:
    """Share of the pieces that stood before, in number and in characters; empty pieces count for nothing."""
    stripped = [piece for piece in map(str.strip, pieces) if piece]
    characters = sum(map(len, stripped))
    if not characters:
        return 0.0, 0.0
    unique = set(stripped)
    again = characters - sum(map(len, unique))
    return (len(stripped) - len(unique)) / len(stripped), again / characters


def _grams(words: Sequence[str], longest: int) -> Iterator[tuple[float, float]]:
    """For n from 2, shares of characters in the most frequent n-gram and in all that occur more than once.

    What occurs once has no longer n-gram that occurs twice, so that only the places of the duplicates are looked at
    again: ordinary text is done after a few steps, and any text in time linear in its words.
    """
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(word, len(numbers)) for word in words]
    sizes = [len(word) for word in words]
    total = sum(sizes)
    grams = codes  # number of the n-gram at each of the places
    places: Sequence[int] = range(len(words))
    for n in range(2, longest + 1):
        known: dict[int, int] = {}
        base = len(words)
        keys = [
            gram * base + codes[place + n - 1] for gram, place in zip(grams, places, strict=True) if place + n <= base
        ]
        places = places[: len(keys)]
        counts = Counter(keys)
        twice = [at for at, key in enumerate(keys) if counts[key] > 1]
        places = [places[at] for at in twice]
        grams = [known.setdefault(keys[at], len(known)) for at in twice]
        if not places:
            return
        top = _top(grams, places, n, sizes)
        own = [place for gram, place in zip(grams, places, strict=True) if gram == top]
        yield _covered(own, n, sizes) / total, _covered(places, n, sizes) / total


def _top(grams: Sequence[int], places: Sequence[int], n: int, sizes: Sequence[int]) -> int:
    """The most frequent n-gram; of several, the first of those with the most characters."""
    counts = Counter(grams)
    most = max(counts.values())
    first = dict(zip(reversed(grams), reversed(places), strict=True))
    rivals = [gram for gram, count in counts.items() if count == most]
    return max(rivals, key=lambda gram: sum(sizes[first[gram] : first[gram] + n]))


def _covered(places: Sequence[int], n: int, sizes: Sequence[int]) -> int:
    """Characters of the words in n-grams at ascending places, none counted twice."""
    covered = end = 0
    for place in places:
        start = max(place, end)
        end = place + n
        covered += sum(sizes[start:end])
    return covered

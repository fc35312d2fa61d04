"""The language of a text, detected by lingua (the extra ``language``); "undecided" where a text is too short."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.filters.base import Filter, Reads
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Language", "Undecided"]

Undecided = Literal["keep", "drop"]

# Of 1,500 short English statements, lingua's accurate mode with all its languages assigned no other language with a
# confidence of at least 0.5.
MIN_CONFIDENCE = 0.5
MIN_LETTERS = 12  # "Buenos Aires" is not a Spanish sentence
READ = 2000  # characters: more do not change the decision, and the time per text is bounded


@dataclass(frozen=True)
class Language(Filter):
    """Rejects texts in other languages than the allowed ones.

    The reason is ``language``, with the language's code in ``detail["language"]`` and the confidence as
    the score. A text with few letters, or for which no language reaches ``min_confidence``, is undecided: it is kept
    (``detail["undecided"]`` is true), or with ``undecided="drop"`` rejected for the reason ``undecided``.

    Loading all 75 languages takes about 1 GB and several seconds in each process, once. Naming the languages that may
    occur (``among``) makes detection small and fast; every text is then assigned to one of them.

    Attributes:
        allow: ISO 639-1 codes of the languages to keep.
        min_confidence: Least confidence of a decision, 0 to 1.
        undecided: ``keep`` or ``drop`` for undecided texts.
        among: ISO 639-1 codes of the languages that may occur, at least two; empty for all.
        min_letters: A text with fewer letters is undecided. A character of Han, kana or hangul counts as three.
    """

    name: ClassVar[str] = "language"
    reads: ClassVar[Reads] = "instruction"
    allow: tuple[str, ...] = ("en",)
    min_confidence: float = MIN_CONFIDENCE
    undecided: Undecided = "keep"
    among: tuple[str, ...] = ()
    min_letters: int = MIN_LETTERS

    def __post_init__(self) -> None:
        if isinstance(self.allow, str) or isinstance(self.among, str):
            raise UsageError("allow and among are tuples of language codes, such as ('en', 'de')")
        if self.undecided not in get_args(Undecided):
            raise UsageError(f"undecided must be keep or drop, not {self.undecided!r}")
        if not 0 <= self.min_confidence <= 1:
            raise UsageError(f"min_confidence {self.min_confidence} is not between 0 and 1")
        if self.min_letters < 0:
            raise UsageError(f"min_letters is {self.min_letters}, but a number of letters is 0 or more")
        if self.among and (missing := sorted(set(self.allow) - set(self.among))):
            raise UsageError(f"{missing[0]!r} is allowed but not among the languages that may occur")
        if len(self.among) == 1:
            raise UsageError("among must name at least two languages, or none to allow all")

    def verdict(self, text: str) -> Verdict:
        """Decide on one text.

        Raises:
            MissingExtraError: lingua is not installed.
            UsageError: lingua does not support one of the languages.
        """
        detector = _detector(tuple(sorted(self.among)), tuple(sorted(self.allow)))
        head = text[:READ]
        if _letters(head) < self.min_letters:
            return self._undecided(0.0)
        best = detector.compute_language_confidence_values(head)[0]
        code = best.language.iso_code_639_1.name.lower()
        if best.value < self.min_confidence:
            return self._undecided(best.value)
        if code in self.allow:
            return self.keep(best.value)
        return self.reject(RejectReason.LANGUAGE, best.value, language=code)

    def _undecided(self, score: float) -> Verdict:
        if self.undecided == "drop":
            return self.reject(RejectReason.UNDECIDED, score)
        return Verdict(self.name, True, score=score, detail={"undecided": True})


def _letters(text: str) -> int:
    """Return the number of letters; a letter of a script that writes syllables or words counts as three."""
    letters = [letter for letter in text if letter.isalpha()]
    return len(letters) + 2 * sum("\u3040" <= letter <= "\ud7ff" or letter >= "\U00020000" for letter in letters)


@lru_cache(maxsize=4)
def _detector(among: tuple[str, ...], allow: tuple[str, ...]) -> Any:
    try:
        from lingua import IsoCode639_1, LanguageDetectorBuilder  # slow to load, rarely used
    except ImportError:
        raise MissingExtraError("lingua", "language") from None
    unknown = [code for code in (*among, *allow) if not hasattr(IsoCode639_1, code.upper())]
    if unknown:
        raise UsageError(f"unknown language {unknown[0]!r}; give ISO 639-1 codes, such as en or de")
    if not among:
        return LanguageDetectorBuilder.from_all_languages().build()
    codes = [getattr(IsoCode639_1, code.upper()) for code in among]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*codes).build()

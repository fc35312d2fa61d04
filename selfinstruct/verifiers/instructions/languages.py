"""The language of an answer.

The published checkers ask ``langdetect``, which draws random numbers: the same answer may get several verdicts. Here

- a language with a script of its own is recognised by it: at least half of the letters belong to the script;
- Hindi, Marathi and Nepali share one, and are told apart by their most frequent words;
- all others are detected by lingua (the extra ``language``), among the languages that share their script.

A text without letters follows the instruction, as in the published checkers.
"""

from __future__ import annotations

from typing import Any

import regex

from selfinstruct.filters.language import MIN_CONFIDENCE, MIN_LETTERS, Language
from selfinstruct.verifiers.base import nearest_name, short
from selfinstruct.verifiers.instructions.lexicon import words_of

__all__ = ["LANGUAGES", "check_language", "is_in_language"]

LANGUAGES = {
    "en": "English", "es": "Spanish", "pt": "Portuguese", "ar": "Arabic", "hi": "Hindi", "fr": "French",
    "ru": "Russian", "de": "German", "ja": "Japanese", "it": "Italian", "bn": "Bengali", "uk": "Ukrainian",
    "th": "Thai", "ur": "Urdu", "ta": "Tamil", "te": "Telugu", "bg": "Bulgarian", "ko": "Korean", "pl": "Polish",
    "he": "Hebrew", "fa": "Persian", "vi": "Vietnamese", "ne": "Nepali", "sw": "Swahili", "kn": "Kannada",
    "mr": "Marathi", "gu": "Gujarati", "pa": "Punjabi", "ml": "Malayalam", "fi": "Finnish", "zh": "Chinese",
    "el": "Greek", "nl": "Dutch", "sv": "Swedish", "tr": "Turkish", "id": "Indonesian", "cs": "Czech", "ro": "Romanian",
    "hu": "Hungarian", "da": "Danish",
}  # fmt: skip
"""Names of the languages that can be asked for, by their ISO 639-1 codes."""

_SCRIPTS = {
    "bn": "Bengali", "th": "Thai", "ta": "Tamil", "te": "Telugu", "ko": "Hangul", "he": "Hebrew", "kn": "Kannada",
    "gu": "Gujarati", "pa": "Gurmukhi", "ml": "Malayalam", "el": "Greek",
    "hi": "Devanagari", "mr": "Devanagari", "ne": "Devanagari",
    "ar": "Arabic", "fa": "Arabic", "ur": "Arabic", "ru": "Cyrillic", "uk": "Cyrillic", "bg": "Cyrillic",
    "ja": "Japanese", "zh": "Han",
}  # fmt: skip
_JAPANESE = r"[\p{Han}\p{Hiragana}\p{Katakana}\u30FC]"
_LETTERS = regex.compile(r"\p{L}")
_SHARING = {
    "Arabic": ("ar", "fa", "ur"),
    "Cyrillic": ("bg", "ru", "uk", "sr", "mk", "be"),
    "Latin": (
        *("en", "es", "pt", "fr", "de", "it", "pl", "vi", "sw", "fi", "nl", "sv", "tr", "id", "cs", "ro", "hu", "da"),
    ),
}
_FREQUENT = {
    "hi": words_of("है हैं का की के में से को और नहीं यह था थी ने हो कर लिए पर भी तो एक या इस"),
    "mr": words_of("आहे आहेत आणि च्या ची चे चा मध्ये नाही हे हा ही ते होते करण्यासाठी साठी या एक तर मी असे आपण"),
    "ne": words_of("छ छन् र को लाई मा हो पनि यो गर्न गर्ने भएको थियो छैन तपाईं हुन्छ म हामी एक बाट लागि"),
}
_ENDINGS = {
    "mr": ("च्या", "ांना", "मध्ये", "साठी", "ण्यास", "ाची", "ाचे", "ाचा"),
    "ne": ("लाई", "को", "हरू", "बाट", "हरु"),
}


def check_language(value: Any) -> None:
    """Raise ValueError unless `value` is the code of a language that can be recognised."""
    if value not in LANGUAGES:
        raise ValueError(f"must be the code of a language, found {short(value)}{nearest_name(str(value), LANGUAGES)}")


def is_in_language(text: str, code: str) -> bool:
    """Return whether a text is in a language; True if it has no letter.

    Raises:
        MissingExtraError: The language shares its script, and lingua is not installed.
    """
    letters = len(_LETTERS.findall(text))
    if not letters:
        return True
    script = _SCRIPTS.get(code, "Latin")
    if 2 * _letters_of(text, script) < letters:
        return False
    if code == "ja":
        return _letters_of(text, "Hiragana") + _letters_of(text, "Katakana") > 0
    if script == "Devanagari":
        return code in _likely_devanagari(text)
    if script not in _SHARING:
        return True
    # English is asked for together with a case, of code and names too: what lingua cannot decide follows that
    # instruction. Of another language, the likeliest decides, since an answer in English must not follow it.
    limits = (MIN_CONFIDENCE, MIN_LETTERS) if code == "en" else (0.0, 1)
    detector = Language(allow=(code,), among=_SHARING[script], min_confidence=limits[0], min_letters=limits[1])
    return detector.verdict(text.lower()).kept


def _letters_of(text: str, script: str) -> int:
    pattern = _JAPANESE if script == "Japanese" else rf"[\p{{{script}}}&&\p{{L}}]"
    return len(regex.findall(f"(?V1){pattern}", text))


def _likely_devanagari(text: str) -> set[str]:
    """Return the languages whose frequent words and endings occur most often; all of them if none occurs."""
    words = regex.findall(r"[\p{L}\p{M}]+", text)
    scores = {
        code: sum(word in frequent or word.endswith(_ENDINGS.get(code, ("\0",))) for word in words)
        for code, frequent in _FREQUENT.items()
    }
    best = max(scores.values())
    return {code for code, score in scores.items() if score == best}

"""IFEval's instructions about keywords, length, case, language and punctuation (Zhou et al. 2023, arXiv:2311.07911)."""

from __future__ import annotations

import re
from typing import Any

from selfinstruct.verifiers.base import Finding, check_text, check_texts, short
from selfinstruct.verifiers.instructions.base import (
    Arguments,
    Table,
    check_index,
    check_relation,
    check_whole,
    compared,
    integer,
)
from selfinstruct.verifiers.instructions.languages import LANGUAGES, check_language, is_in_language
from selfinstruct.verifiers.instructions.sentences import split_sentences
from selfinstruct.verifiers.instructions.words import find_all_words, tokens

__all__ = ["IFEVAL_WORDS"]

IFEVAL_WORDS = Table()


def _check_letter(value: Any) -> None:
    if not isinstance(value, str) or len(value.strip()) != 1:
        raise ValueError(f"must be a single character, found {short(value)}")


@IFEVAL_WORDS.add("keywords:existence", keywords=check_texts)
def keywords_exist(answer: str, arguments: Arguments) -> Finding:
    """The answer contains every keyword, in any case and also within words."""
    missing = [word for word in arguments["keywords"] if not re.search(re.escape(word), answer, re.IGNORECASE)]
    observed = f"no {', '.join(map(short, missing))}" if missing else "all of them"
    return Finding(not missing, f"the keywords {', '.join(map(short, arguments['keywords']))}", observed)


@IFEVAL_WORDS.add("keywords:frequency", keyword=check_text, frequency=check_whole, relation=check_relation)
def keyword_frequency(answer: str, arguments: Arguments) -> Finding:
    """A keyword occurs at least, or less than, a number of times, in any case and also within words."""
    keyword = arguments["keyword"].strip()
    count = len(re.findall(re.escape(keyword), answer, re.IGNORECASE))
    return compared(count, arguments["relation"], integer(arguments, "frequency"), f"times {short(keyword)}")


@IFEVAL_WORDS.add("keywords:forbidden_words", forbidden_words=check_texts)
def no_forbidden_words(answer: str, arguments: Arguments) -> Finding:
    """None of the forbidden words occurs as a whole word, in any case."""
    words = arguments["forbidden_words"]
    present = [word for word in words if re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE)]
    expected = f"none of the words {', '.join(map(short, words))}"
    return Finding(not present, expected, ", ".join(map(short, present)) or "none of them")


@IFEVAL_WORDS.add(
    "keywords:letter_frequency", letter=_check_letter, let_frequency=check_whole, let_relation=check_relation
)
def letter_frequency(answer: str, arguments: Arguments) -> Finding:
    """A letter occurs at least, or less than, a number of times, in any case.

    Two published prompts name ``#`` and ``!``, which are counted as they are; the published checker replaces them by a
    random letter.
    """
    letter = arguments["letter"].strip().lower()
    count = answer.lower().count(letter)
    return compared(count, arguments["let_relation"], integer(arguments, "let_frequency"), f"times {short(letter)}")


@IFEVAL_WORDS.add("length_constraints:number_words", num_words=check_whole, relation=check_relation)
def number_of_words(answer: str, arguments: Arguments) -> Finding:
    r"""The answer has at least, or less than, a number of words (runs of letters, digits and underscores)."""
    return compared(len(find_all_words(answer)), arguments["relation"], integer(arguments, "num_words"), "words")


@IFEVAL_WORDS.add("length_constraints:number_sentences", num_sentences=check_whole, relation=check_relation)
def number_of_sentences(answer: str, arguments: Arguments) -> Finding:
    """The answer has at least, or less than, a number of sentences."""
    limit = integer(arguments, "num_sentences")
    return compared(len(split_sentences(answer)), arguments["relation"], limit, "sentences")


@IFEVAL_WORDS.add("length_constraints:number_paragraphs", num_paragraphs=check_whole)
def number_of_paragraphs(answer: str, arguments: Arguments) -> Finding:
    """The answer has exactly a number of paragraphs separated by ``***``, none of them blank."""
    parts = answer.split("***")
    inner_blank = any(not part.strip() for part in parts[1:-1])
    count = sum(bool(part.strip()) for part in parts)
    expected = f"exactly {integer(arguments, 'num_paragraphs')} paragraphs separated by ***"
    observed = f"{count} counted{' and a blank one between' if inner_blank else ''}"
    return Finding(not inner_blank and count == arguments["num_paragraphs"], expected, observed)


def _check_nth(arguments: Arguments) -> None:
    if arguments["nth_paragraph"] > arguments["num_paragraphs"]:
        raise ValueError("'nth_paragraph' is above 'num_paragraphs'")


@IFEVAL_WORDS.add(
    "length_constraints:nth_paragraph_first_word",
    _check_nth,
    num_paragraphs=check_index,
    nth_paragraph=check_index,
    first_word=check_text,
)
def nth_paragraph_first_word(answer: str, arguments: Arguments) -> Finding:
    """The answer has exactly a number of paragraphs separated by blank lines, and one begins with a given word."""
    paragraphs = [part for part in answer.split("\n\n") if part.strip()]
    nth, wanted = integer(arguments, "nth_paragraph"), arguments["first_word"].strip().lower()
    total = integer(arguments, "num_paragraphs")
    first = _first_word(paragraphs[nth - 1]) if nth <= len(paragraphs) else ""
    expected = f"exactly {total} paragraphs and {short(wanted)} at the beginning of paragraph {nth}"
    kept = len(paragraphs) == total and first == wanted
    return Finding(kept, expected, f"{len(paragraphs)} counted and {short(first)}")


def _first_word(paragraph: str) -> str:
    word = paragraph.split(maxsplit=1)[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower()


@IFEVAL_WORDS.add("change_case:english_capital")
def english_capital(answer: str, _: Arguments) -> Finding:
    """The answer is English, in capital letters only."""
    return _cased(answer, answer.isupper(), "no small letter", str.islower)


@IFEVAL_WORDS.add("change_case:english_lowercase")
def english_lowercase(answer: str, _: Arguments) -> Finding:
    """The answer is English, in small letters only."""
    return _cased(answer, answer.islower(), "no capital letter", str.isupper)


def _cased(answer: str, is_cased: bool, expected: str, is_wrong: Any) -> Finding:
    expected = f"English with {expected}"
    if not is_cased:
        wrong = sum(map(is_wrong, answer))
        return Finding(False, expected, f"{wrong} counted" if wrong else "no letter")
    return Finding(kept := is_in_language(answer, "en"), expected, "English" if kept else "another language")


@IFEVAL_WORDS.add("change_case:capital_word_frequency", capital_frequency=check_whole, capital_relation=check_relation)
def capital_words(answer: str, arguments: Arguments) -> Finding:
    """At least, or less than, a number of words consist of capital letters; ``A`` and ``I`` are such words."""
    count = sum(token.isupper() for token in tokens(answer))
    limit = integer(arguments, "capital_frequency")
    return compared(count, arguments["capital_relation"], limit, "words in capital letters")


@IFEVAL_WORDS.add("language:response_language", language=check_language)
def response_language(answer: str, arguments: Arguments) -> Finding:
    """The answer is in a given language."""
    name = LANGUAGES[arguments["language"]]
    kept = is_in_language(answer, arguments["language"])
    return Finding(kept, f"an answer in {name}", name if kept else "another language")


@IFEVAL_WORDS.add("punctuation:no_comma")
def no_comma(answer: str, _: Arguments) -> Finding:
    """The answer has no comma."""
    count = answer.count(",")
    return Finding(not count, "no comma", f"{count} counted")

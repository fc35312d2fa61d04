"""IFBench's instructions that count words and marks, and its ratios (Pyatkin et al. 2025, arXiv:2507.02833)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from selfinstruct.verifiers.base import Finding, check_text, short
from selfinstruct.verifiers.instructions.base import (
    Arguments,
    Table,
    check_index,
    check_percentage,
    check_whole,
    counted,
    integer,
)
from selfinstruct.verifiers.instructions.lexicon import CONJUNCTIONS, NAMES, PRONOUNS, STOP_WORDS
from selfinstruct.verifiers.instructions.sentences import split_sentences
from selfinstruct.verifiers.instructions.words import (
    PUNCTUATION,
    find_all_words,
    plain_pieces,
    stripped_pieces,
    tokens,
    without_punctuation,
)

__all__ = ["IFBENCH_COUNTS"]

IFBENCH_COUNTS = Table()

_TIMES = {"keyword1": 1, "keyword2": 2, "keyword3": 3, "keyword4": 5, "keyword5": 7}
_INTERROBANGS = ("\u203d", "?!", "!?")
_MARKS = ".,!?;:"
_JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_NAME_PATTERN = re.compile(rf"\b(?:{'|'.join(sorted(NAMES))})\b")
_TOLERANCE = 2  # percent points of ratio:overlap


def _check_range(arguments: Arguments) -> None:
    if arguments["min_words"] > arguments["max_words"]:
        raise ValueError("'min_words' is above 'max_words'")


@IFBENCH_COUNTS.add("count:word_count_range", _check_range, min_words=check_whole, max_words=check_whole)
def word_count_range(answer: str, arguments: Arguments) -> Finding:
    """The number of words lies between two limits, inclusive."""
    least, most, count = integer(arguments, "min_words"), integer(arguments, "max_words"), len(find_all_words(answer))
    return counted(least <= count <= most, f"{least} to {most} words", count)


@IFBENCH_COUNTS.add("count:unique_word_count", N=check_whole)
def unique_words(answer: str, arguments: Arguments) -> Finding:
    """At least a number of different words occur; case and punctuation at their edges do not matter."""
    limit, count = integer(arguments, "N"), len(set(stripped_pieces(answer)))
    return counted(count >= limit, f"at least {limit} different words", count)


@IFBENCH_COUNTS.add("count:numbers", N=check_whole)
def numbers(answer: str, arguments: Arguments) -> Finding:
    """Exactly a number of numbers occur, written with digits; ``100,000`` and ``3.14`` are one each."""
    limit, count = integer(arguments, "N"), len(re.findall(r"\d+", without_punctuation(answer)))
    return counted(count == limit, f"exactly {limit} numbers", count)


@IFBENCH_COUNTS.add("count:person_names", N=check_whole)
def person_names(answer: str, arguments: Arguments) -> Finding:
    """At least a number of different names of the list in the prompt occur, as whole words."""
    limit, count = integer(arguments, "N"), len(set(_NAME_PATTERN.findall(answer)))
    return counted(count >= limit, f"at least {limit} different names of the list", count)


@IFBENCH_COUNTS.add("count:conjunctions", small_n=check_whole)
def conjunctions(answer: str, arguments: Arguments) -> Finding:
    """At least a number of different coordinating conjunctions occur: and, but, for, nor, or, so, yet."""
    limit, count = integer(arguments, "small_n"), len(CONJUNCTIONS & set(stripped_pieces(answer)))
    return counted(count >= limit, f"at least {limit} different coordinating conjunctions", count)


@IFBENCH_COUNTS.add("count:pronouns", N=check_whole)
def pronouns(answer: str, arguments: Arguments) -> Finding:
    """At least a number of personal, possessive and reflexive pronouns occur; a slash separates two."""
    limit = integer(arguments, "N")
    count = sum(token in PRONOUNS for token in tokens(answer.lower().replace("/", " ")))
    return counted(count >= limit, f"at least {limit} pronouns", count)


@IFBENCH_COUNTS.add("count:punctuation")
def punctuation(answer: str, _: Arguments) -> Finding:
    """Each of ``. , ! ? ; :`` occurs, and an interrobang besides: ``?!``, ``!?`` or U+203D."""
    interrobang = next((mark for mark in _INTERROBANGS if mark in answer), "")
    rest = answer.replace(interrobang, "", 1) if interrobang else answer
    missing = [mark for mark in _MARKS if mark not in rest] + ([] if interrobang else ["?!"])
    return Finding(not missing, f"all of {' '.join(_MARKS)} ?!", f"no {' '.join(missing)}" if missing else "all")


@IFBENCH_COUNTS.add("count:keywords_multiple", **dict.fromkeys(_TIMES, check_text))
def keywords_multiple(answer: str, arguments: Arguments) -> Finding:
    """Five keywords occur exactly once, twice, three, five and seven times, as whole words in any case."""
    counts = {name: _occurrences(arguments[name].strip(), answer) for name in _TIMES}
    expected = ", ".join(f"{short(arguments[name].strip())} {times} times" for name, times in _TIMES.items())
    return Finding(counts == _TIMES, expected, f"{', '.join(map(str, counts.values()))} counted")


def _occurrences(word: str, text: str) -> int:
    return len(re.findall(rf"\b{re.escape(word)}\b", text, re.IGNORECASE))


@IFBENCH_COUNTS.add("count:words_japanese", N=check_index)
def words_japanese(answer: str, arguments: Arguments) -> Finding:
    """Every nth word, as white space separates them, has a Japanese character, unless it is a number or punctuation."""
    step = integer(arguments, "N")
    nth = [piece.strip(f"{PUNCTUATION} ") for piece in answer.split()[step - 1 :: step]]
    wrong = sum(bool(word) and not word.isdigit() and not _JAPANESE.search(word) for word in nth)
    return Finding(not wrong, f"every word number {step} in Japanese", f"{wrong} others of {len(nth)} counted")


@IFBENCH_COUNTS.add("ratio:stop_words", percentage=check_percentage)
def stop_words(answer: str, arguments: Arguments) -> Finding:
    """At most a percentage of the words are English stop words."""
    words = find_all_words(answer)
    share = 100 * sum(word.lower() in STOP_WORDS for word in words) / max(1, len(words))
    expected = f"at most {arguments['percentage']:g}% stop words"
    return Finding(bool(words) and share <= arguments["percentage"], expected, f"{share:.1f}% of {len(words)} words")


@IFBENCH_COUNTS.add("ratio:sentence_type")
def sentence_type(answer: str, _: Arguments) -> Finding:
    """Twice as many sentences end with a full stop as with a question mark, and at least one does."""
    statements, questions, _exclamations = _sentence_types(answer)
    observed = f"{statements} and {questions} counted"
    return Finding(statements == 2 * questions > 0, "2 statements for each question", observed)


@IFBENCH_COUNTS.add("ratio:sentence_balance")
def sentence_balance(answer: str, _: Arguments) -> Finding:
    """As many sentences end with a full stop as with a question mark and with an exclamation mark, and at least one."""
    types = _sentence_types(answer)
    observed = f"{', '.join(map(str, types))} counted"
    return Finding(types[0] == types[1] == types[2] > 0, "as many statements as questions and exclamations", observed)


def _sentence_types(answer: str) -> Sequence[int]:
    endings = [sentence[-1] for sentence in split_sentences(answer)]
    return [endings.count(mark) for mark in ".?!"]


@IFBENCH_COUNTS.add("ratio:sentence_words")
def sentence_words(answer: str, _: Arguments) -> Finding:
    """The answer has three sentences of equal length in characters, and no word occurs twice."""
    sentences = split_sentences(answer)
    words = plain_pieces(answer)
    kept = len(sentences) == 3 and len(set(map(len, sentences))) == 1 and len(set(words)) == len(words)
    lengths = ", ".join(str(len(sentence)) for sentence in sentences[:5])
    observed = f"{len(sentences)} sentences of {lengths} characters, {len(words) - len(set(words))} repeated words"
    return Finding(kept, "3 sentences of equal length without a repeated word", observed)


@IFBENCH_COUNTS.add("ratio:overlap", reference_text=check_text, percentage=check_percentage)
def overlap(answer: str, arguments: Arguments) -> Finding:
    """A percentage of the different word trigrams, give or take 2 points, occur in the reference text."""
    trigrams, reference = _trigrams(answer), _trigrams(arguments["reference_text"])
    share = 100 * len(trigrams & reference) / max(1, len(trigrams))
    percentage = arguments["percentage"]
    kept = bool(trigrams) and abs(share - percentage) <= _TOLERANCE
    return Finding(kept, f"{percentage:g}% of trigrams in the reference text (±2)", f"{share:.1f}%")


def _trigrams(text: str) -> set[tuple[str, str, str]]:
    words = tokens(text)
    return set(zip(words, words[1:], words[2:], strict=False))

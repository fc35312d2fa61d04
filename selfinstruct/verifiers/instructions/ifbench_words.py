"""IFBench's instructions about each word and each sentence (Pyatkin et al. 2025, arXiv:2507.02833)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from selfinstruct.verifiers.base import Finding, check_text, short
from selfinstruct.verifiers.instructions.base import Arguments, Table, check_index, check_whole, counted, integer
from selfinstruct.verifiers.instructions.sentences import split_sentences
from selfinstruct.verifiers.instructions.syllables import count_syllables
from selfinstruct.verifiers.instructions.verbs import is_verb
from selfinstruct.verifiers.instructions.words import PUNCTUATION, plain_pieces, tokens, without_punctuation

__all__ = ["IFBENCH_WORDS"]

IFBENCH_WORDS = Table()

_EDGES = f"{PUNCTUATION} "
_CLUSTER = re.compile("[bcdfghjklmnpqrstvwxyz]{2}")
_MIN_PALINDROMES = 10
_MIN_PALINDROME_LENGTH = 5
_MAX_VOWELS = 3
_BEGINNING = 200  # characters in which the first word is searched


def _first_that(words: Sequence[str], is_wrong: Callable[[str], bool]) -> str:
    return next((word for word in words if is_wrong(word)), "")


def _every(expected: str, wrong: str) -> Finding:
    return Finding(not wrong, expected, short(wrong) if wrong else "all")


@IFBENCH_WORDS.add("words:alphabet")
def alphabet(answer: str, _: Arguments) -> Finding:
    """Each word begins with the next letter of the alphabet, with ``a`` after ``z``; the first may have any letter."""
    words = plain_pieces(answer)
    letters = [ord(word[0]) - ord("a") for word in words]
    kept = bool(words) and 0 <= letters[0] < 26
    wrong = next((words[i] for i in range(1, len(words)) if letters[i] != (letters[0] + i) % 26), "")
    return Finding(kept and not wrong, "each word to begin with the next letter", short(wrong) if wrong else "all")


@IFBENCH_WORDS.add("words:vowel")
def vowels(answer: str, _: Arguments) -> Finding:
    """The answer is one paragraph in which at most three of the vowels a, e, i, o, u occur."""
    paragraphs = answer.strip().count("\n") + 1
    present = sorted(set("aeiou") & set(answer.lower()))
    kept = paragraphs == 1 and len(present) <= _MAX_VOWELS
    return Finding(kept, "one paragraph with at most 3 different vowels", f"{paragraphs} with {' '.join(present)}")


@IFBENCH_WORDS.add("words:consonants")
def consonants(answer: str, _: Arguments) -> Finding:
    """Each piece between white space has two consonants in a row; ``y`` is one."""
    wrong = _first_that(answer.lower().split(), lambda word: not _CLUSTER.search(word))
    return _every("two consonants in a row in each word", wrong)


@IFBENCH_WORDS.add("words:prime_lengths")
def prime_lengths(answer: str, _: Arguments) -> Finding:
    """The length of each word, without punctuation, is a prime number."""
    return _every(
        "words whose length is prime", _first_that(plain_pieces(answer), lambda word: not _is_prime(len(word)))
    )


def _is_prime(number: int) -> bool:
    return number in (2, 3) or (
        number > 3 and number % 2 == 1 and all(number % divisor for divisor in range(3, int(number**0.5) + 1, 2))
    )


@IFBENCH_WORDS.add("words:palindrome")
def palindromes(answer: str, _: Arguments) -> Finding:
    """At least ten words of five or more characters are palindromes; they may repeat."""
    words = plain_pieces(answer)
    count = sum(len(word) >= _MIN_PALINDROME_LENGTH and word == word[::-1] for word in words)
    return counted(count >= _MIN_PALINDROMES, "at least 10 palindromes of 5 or more letters", count)


@IFBENCH_WORDS.add("words:repeats", small_n=check_whole)
def repeats(answer: str, arguments: Arguments) -> Finding:
    """No word occurs more than a number of times."""
    limit = integer(arguments, "small_n")
    word, count = max(Counter(plain_pieces(answer)).items(), key=lambda item: item[1], default=("", 0))
    return Finding(count <= limit, f"each word at most {limit} times", f"{short(word)} {count} times")


@IFBENCH_WORDS.add("words:no_consecutive")
def no_consecutive(answer: str, _: Arguments) -> Finding:
    """No two consecutive words begin with the same letter."""
    words = plain_pieces(answer)
    wrong = next((f"{first} {second}" for first, second in pairwise(words) if first[0] == second[0]), "")
    return _every("different first letters of consecutive words", wrong)


@IFBENCH_WORDS.add("words:odd_even_syllables")
def odd_even_syllables(answer: str, _: Arguments) -> Finding:
    """Words with an odd and with an even number of syllables alternate, counted by rules of spelling."""
    words = plain_pieces(answer)
    odd = [count_syllables(word) % 2 for word in words]
    wrong = next((f"{words[i]} {words[i + 1]}" for i in range(len(words) - 1) if odd[i] == odd[i + 1]), "")
    return _every("words of odd and even numbers of syllables in turn", wrong)


@IFBENCH_WORDS.add("words:start_verb")
def start_verb(answer: str, _: Arguments) -> Finding:
    """The first word is a verb, by a list of common English verbs and their inflections."""
    first = next(iter(_word_tokens(answer[:_BEGINNING])), "")
    return Finding(is_verb(first), "a verb at its beginning", short(first))


@IFBENCH_WORDS.add("words:words_position", keyword=check_text)
def words_position(answer: str, arguments: Arguments) -> Finding:
    """The second word and the second to last word are a given word, in any case; punctuation does not count."""
    words = _word_tokens(answer)
    wanted = arguments["keyword"].strip().lower()
    pair = (words[1], words[-2]) if len(words) > 1 else ()
    return Finding(set(pair) == {wanted}, f"{short(wanted)} as second and second to last word", short(", ".join(pair)))


def _word_tokens(text: str) -> list[str]:
    return [token.lower() for token in tokens(text) if any(map(str.isalnum, token))]


@IFBENCH_WORDS.add("words:keywords_specific_position", keyword=check_text, n=check_index, m=check_index)
def keyword_position(answer: str, arguments: Arguments) -> Finding:
    """The mth word of the nth sentence is a given word, in any case."""
    n, m, wanted = integer(arguments, "n"), integer(arguments, "m"), arguments["keyword"].strip().lower()
    sentences = split_sentences(answer)
    words = _word_tokens(sentences[n - 1]) if n <= len(sentences) else []
    word = words[m - 1] if m <= len(words) else ""
    observed = f"{short(word)} there, {len(sentences)} sentences and {len(words)} words in it counted"
    return Finding(word == wanted, f"{short(wanted)} as word {m} of sentence {n}", observed)


@IFBENCH_WORDS.add("words:last_first")
def last_first(answer: str, _: Arguments) -> Finding:
    """The last word of each sentence is the first of the next one, in any case."""
    sentences = [sentence.strip(_EDGES).lower().split() for sentence in split_sentences(answer)]
    wrong = next(
        (i for i, (first, second) in enumerate(pairwise(sentences), 2) if first[-1:] != second[:1] or not first), 0
    )
    observed = f"sentence {wrong} does not" if wrong else "all do"
    return Finding(not wrong, "each sentence to begin with the last word of the one before", observed)


@IFBENCH_WORDS.add("words:paragraph_last_first")
def paragraph_last_first(answer: str, _: Arguments) -> Finding:
    """Each line ends with the word it begins with, in any case."""
    lines = [words for line in answer.lower().split("\n") if (words := line.strip().strip(_EDGES).split())]
    wrong = next((f"{words[0]} … {words[-1]}" for words in lines if words[0] != words[-1]), "")
    return _every("each paragraph to end with its first word", wrong)


@IFBENCH_WORDS.add("sentence:keyword", word=check_text, N=check_index)
def sentence_keyword(answer: str, arguments: Arguments) -> Finding:
    """The nth sentence contains a given word, as a whole word in any case."""
    number, word = integer(arguments, "N"), arguments["word"].strip()
    sentences = split_sentences(answer)
    sentence = sentences[number - 1] if number <= len(sentences) else ""
    kept = re.search(rf"\b{re.escape(word)}\b", sentence, re.IGNORECASE) is not None
    observed = "found" if kept else "not there" if sentence else f"{len(sentences)} sentences counted"
    return Finding(kept, f"{short(word)} in sentence {number}", observed)


@IFBENCH_WORDS.add("sentence:increment", small_n=check_whole)
def sentence_increment(answer: str, arguments: Arguments) -> Finding:
    """Each sentence has a number of words more than the one before."""
    step = integer(arguments, "small_n")
    lengths = [len(without_punctuation(sentence).split()) for sentence in split_sentences(answer)]
    kept = all(second == first + step for first, second in pairwise(lengths))
    return Finding(kept, f"{step} words more in each sentence", f"{', '.join(map(str, lengths[:10]))} counted")


@IFBENCH_WORDS.add("sentence:alliteration_increment")
def alliteration_increment(answer: str, _: Arguments) -> Finding:
    """The longest run of words with the same first letter is longer in each sentence than in the one before."""
    runs = [_longest_run(sentence) for sentence in split_sentences(answer)]
    kept = all(first < second for first, second in pairwise(runs))
    return Finding(kept, "a longer alliteration in each sentence", f"{', '.join(map(str, runs[:10]))} counted")


def _longest_run(sentence: str) -> int:
    """Return the length of the longest run of two or more words with the same first letter; 0 if there is none."""
    letters = [word[0] for piece in sentence.lower().split() if (word := piece.lstrip(_EDGES))]
    longest = run = 1
    for first, second in pairwise(letters):
        run = run + 1 if first == second else 1
        longest = max(longest, run)
    return longest if longest > 1 else 0

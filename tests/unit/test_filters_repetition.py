import pickle
import random

import pytest

from selfinstruct.errors import UsageError
from selfinstruct.filters.repetition import Repetition


def prose(count, seed=0):
    """Words without any repetition worth the name."""
    dice = random.Random(seed)
    return ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(count)]


ONLY = {"lines": 1.0, "paragraphs": 1.0, "line_characters": 1.0, "paragraph_characters": 1.0}


def reason(text, **limits):
    verdict = Repetition(**limits).verdict(text)
    assert verdict.filter == "repetition"
    assert verdict.kept == (verdict.reason == "")
    return verdict.reason


def test_ordinary_text_is_kept():
    assert reason(" ".join(prose(200))) == ""
    lines = [" ".join(prose(12, seed)) for seed in range(10)]
    assert reason("\n".join(lines)) == ""
    assert reason("\n\n".join(lines)) == ""


def test_short_texts_are_always_kept():
    loop = "I am here. " * 16
    assert reason(loop) == ""
    assert reason(loop, min_words=1) == "top_2_gram"
    assert reason("") == reason("", min_words=0) == ""
    assert reason("... \n ...\n ...", min_words=0) == "lines"


@pytest.mark.parametrize(("copies", "expected"), [(3, ""), (4, "lines")])
def test_duplicate_lines_are_above_three_tenths(copies, expected):
    lines = [" ".join(prose(8, seed)) for seed in range(7)] + ["x"] * copies  # 3 of 10 and 4 of 11 with the first
    lines[0] = "x"
    assert Repetition().verdict("\n".join(lines)).reason == expected
    assert reason("\r\n\r\n".join(f"  {line}\t" for line in lines), lines=1.0) == (expected and "paragraphs")


def test_characters_of_duplicate_lines_and_paragraphs():
    lines = [" ".join(prose(5, seed)) for seed in range(20)]
    long = " ".join(prose(40, 99))
    assert reason("\n".join([*lines, long, long])) == "line_characters"
    assert reason("\n\n".join([*lines, long, long]), line_characters=1.0) == "paragraph_characters"
    verdict = Repetition().verdict("\n".join([*lines, long, long]))
    assert verdict.score == pytest.approx(len(long) / (sum(map(len, lines)) + 2 * len(long)))


@pytest.mark.parametrize(("n", "limit"), [(2, 0.20), (3, 0.18), (4, 0.16)])
def test_the_most_frequent_n_gram_by_its_characters(n, limit):
    """The n-gram occurs 4 times among other words of the same length, just at and just above its share."""
    gram = prose(n, 7)
    off = {
        **ONLY,
        "top_grams": tuple(limit if k == n else 1.0 for k in (2, 3, 4)),
        "duplicate_grams": (),
        "min_words": 1,
    }
    at_limit = round(4 * n / limit) - 4 * n
    for others, expected in ((at_limit + 1, ""), (at_limit - 1, f"top_{n}_gram")):
        words = prose(others, 1)
        parts = [gram, words[:9], gram, words[9:14], gram, words[14:16], gram, words[16:]]
        text = " ".join(word for part in parts for word in part)
        assert reason(text, **off) == expected


@pytest.mark.parametrize(("n", "limit"), list(zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True)))
def test_duplicate_n_grams_by_the_characters_that_they_cover(n, limit):
    run = prose(n + 2, 7)  # three overlapping duplicates of n words: their characters count once
    off = {**ONLY, "top_grams": (1.0,) * 3, "duplicate_grams": tuple(limit if k == n else 1.0 for k in range(5, 11))}
    off["min_words"] = 1
    at_limit = round(2 * len(run) / limit) - 2 * len(run)
    for others, expected in ((at_limit + 2, ""), (at_limit - 2, f"duplicate_{n}_gram")):
        words = prose(others, 1)
        text = " ".join([*run, *words[:20], *run, *words[20:]])
        verdict = Repetition(**off).verdict(text)
        assert verdict.reason == expected
        if expected:
            assert verdict.score == pytest.approx(2 * len(run) / (2 * len(run) + others))


def test_one_occurrence_does_not_count_and_no_share_exceeds_one():
    assert reason("alpha beta", min_words=1) == ""
    verdict = Repetition(min_words=1).verdict("a " * 100)
    assert (verdict.reason, verdict.score) == ("top_2_gram", 1.0)


def test_each_character_is_a_word_in_scripts_without_spaces():
    assert reason("我很高兴" * 30) == "top_2_gram"
    assert reason("".join(chr(0x4E00 + at) for at in range(200))) == ""


def test_case_and_punctuation_do_not_hide_repetition():
    assert reason("Go home! go, HOME. " * 20) == "top_2_gram"


def test_thresholds_are_fractions():
    with pytest.raises(UsageError, match=r"1\.5 is not a fraction"):
        Repetition(lines=1.5)


def test_it_can_be_pickled():
    member = Repetition()
    assert pickle.loads(pickle.dumps(member)) == member
    assert hash(member) == hash(Repetition())
    assert member(["a b c " * 100, "fine"]) == [False, True]

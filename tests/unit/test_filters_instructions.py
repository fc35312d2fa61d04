import pickle

import pytest

from selfinstruct.filters import (
    SELF_INSTRUCT_KEYWORDS,
    Keywords,
    LeadingPunctuation,
    ProgramPrefix,
    WordCount,
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one two three", "too_short"),
        ("one two three four", ""),
        ("", "too_short"),
        ("w " * 150, ""),
        ("w " * 151, "too_long"),
        ("写诗", "too_short"),
        ("写一首关于春天的诗", ""),
    ],
)
def test_instructions_of_4_to_150_words_are_kept(text, reason):
    (verdict,) = WordCount().decide([text])
    assert (verdict.filter, verdict.kept, verdict.reason) == ("words", not reason, reason)


def test_the_number_of_words_is_the_score():
    assert WordCount().decide(["one two three", "a b c d e"])[0].score == 3
    assert WordCount(1, 4)(["a", "a b c d e", ""]) == [True, False, False]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Describe this IMAGE in words", "image"),
        ("Go  to the shop", "go  to"),
        ("Draw a cat", "draw"),
        ("List the profiles of mapping imagery drawn by filers", None),
        ("Write about a music_box", None),
        ("Open file.txt", "file"),
        ("Describe the file-system", "file"),
        ("Explain flowcharts", None),
        ("Explain a flowchart", "flowchart"),
    ],
)
def test_keywords_are_whole_words_of_any_case(text, found):
    (verdict,) = Keywords().decide([text])
    assert verdict.kept == (found is None)
    assert verdict.reason == ("" if found is None else "keyword")
    assert verdict.detail.get("keyword") == found


def test_the_list_is_configurable_and_literal():
    assert Keywords(SELF_INSTRUCT_KEYWORDS)(["Explain a flowchart"]) == [True]
    assert Keywords(("c++", "a.b"))(["Learn C++ now", "aXb", "a.b"]) == [False, True, False]
    assert Keywords(())(["Draw a map"]) == [True]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('"Quoted" start', False),
        ("- a list item", False),
        ("«Zitat»", False),
        ("。", False),
        ("★ star", False),
        ("  * x", False),
        ("¿Qué es la luz?", True),
        ("Übersetze dies", True),
        ("写诗", True),
        ("3 facts about tea", True),
        ("", True),
    ],
)
def test_leading_punctuation(text, kept):
    (verdict,) = LeadingPunctuation().decide([text])
    assert (verdict.kept, verdict.reason) == (kept, "" if kept else "punctuation")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Write a program that sorts numbers", False),
        ("write a  Program to add", False),
        ("Write a programme for a concert", False),  # a prefix of characters, as in both papers' code
        ("Write a poem", True),
        ("Please write a program", True),
    ],
)
def test_program_prefix(text, kept):
    (verdict,) = ProgramPrefix().decide([text])
    assert (verdict.kept, verdict.reason) == (kept, "" if kept else "program")


@pytest.mark.parametrize("member", [WordCount(), Keywords(), LeadingPunctuation(), ProgramPrefix()])
def test_a_megabyte_takes_linear_time_and_filters_can_be_pickled(member):
    mega = ["a" * 10**6 + "!", "go " * 330_000, "go" + " " * 10**6, " " * 10**6, "write a " * 125_000, "é" * 10**6]
    assert member(mega) == pickle.loads(pickle.dumps(member))(mega)
    assert hash(member) == hash(type(member)())
    assert member.decide([]) == []

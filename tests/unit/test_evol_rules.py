"""The rules that eliminate an evolution, at their boundaries."""

from __future__ import annotations

import math

import pytest

from selfinstruct.strategies.shared import evol_rules as rules


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Equal or different: different", ""),
        ("Equal or Different: equal", "equal"),
        ("They are not different.", "equal"),
        ("No different", "equal"),
        ("aren't equal", ""),
        ("not-equal", ""),
        ("not at all equal", ""),
        ("**Not equal**", ""),
        ("They are unequal.", ""),
        ("Different", ""),
        ("They are equal.", "equal"),
        ("Hm, they rhyme.", "unjudged"),
        ("", "unjudged"),
        ("They are not different; they are equal.", "equal"),
        ("They do not differ", "equal"),
        ("**Equal or different:** **different**", ""),
    ],
)
def test_a_judges_answer_is_read_with_its_negations(answer: str, reason: str) -> None:
    verdict = rules.gain(answer)
    assert (verdict.filter, verdict.kept, verdict.reason) == ("evol_judge", not reason, reason)


def test_a_response_with_the_minimum_of_words_may_contain_sorry() -> None:
    for count, reason in ((79, "sorry"), (80, "")):
        verdict = rules.apology("Sorry " + "word " * (count - 1), min_words=80)
        assert (verdict.kept, verdict.reason, verdict.score) == (not reason, reason, count)


def test_a_similarity_at_the_threshold_is_rejected() -> None:
    for least, reason in ((0.75, "too_similar"), (math.nextafter(0.75, 1), "")):
        verdict = rules.similarity("Name four red birds", "Name four red trees", threshold=least, current_id="s0")
        assert (verdict.kept, verdict.reason, verdict.score, verdict.nearest) == (not reason, reason, 0.75, "s0")


def test_eight_consecutive_words_of_the_prompt_are_rejected_and_seven_are_not() -> None:
    prompt = "Rewrite it so that whoever answers has to think for longer."
    seven, eight = "so that whoever answers has to think", "so that whoever answers has to think for"
    assert rules.wording(f"Ask {seven} hard.", "Ask.", (), prompt).kept
    verdict = rules.wording(f"Ask {eight} days.", "Ask.", (), prompt)
    assert (verdict.reason, verdict.detail) == ("prompt_words", {"words": eight})
    assert rules.wording(f"Ask {eight} days.", f"Say {eight} fun.", (), prompt).kept, "it was there before"


@pytest.mark.parametrize("answer", ["I don't.", "It isn't, and he didn't.", "We\u2019ll do so\u2026"])
def test_parts_of_contractions_are_not_content(answer: str) -> None:
    assert rules.content(answer).reason == "no_content"
    assert rules.content(f"{answer} Gulls").kept

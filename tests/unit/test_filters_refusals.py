"""Precision and recall of the refusal filter, and forms that it must distinguish."""

import pytest

from bench.refusals import DATA, HALVES, measure, read
from selfinstruct.engine.earlier_filters import filters_of
from selfinstruct.engine.row_filters import FilterOptions
from selfinstruct.errors import UsageError
from selfinstruct.filters import Refusals

LINES = read()


def test_the_labelled_lines_are_many_different_and_in_both_halves() -> None:
    assert len({line.text for line in LINES}) == len(LINES) >= 300
    for half in HALVES:
        part = [line for line in LINES if line.half == half]
        assert min(sum(line.positive for line in part), sum(not line.positive for line in part)) >= 100


@pytest.mark.parametrize("half", HALVES)
def test_precision_and_recall(half: str) -> None:
    result = measure([line for line in LINES if line.half == half])
    print(f"{half}: precision {result.precision:.3f}, recall {result.recall:.3f}")
    assert result.precision >= 0.95
    assert result.recall >= 0.9


def test_refusals_by_idiom_or_rule() -> None:
    result = measure(read(DATA.with_name("refusals-idioms.jsonl")))
    print(f"idioms: precision {result.precision:.3f}, recall {result.recall:.3f}")
    assert result.precision >= 0.95
    assert result.recall >= 0.9


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I cannot fulfill this request.", "refusal"),
        ("I cannot fulfil this request.", "refusal"),
        ("I really can't help you plan something like that.", "refusal"),
        ("I'll stop you there; I won't produce sexual content involving minors.", "refusal"),
        ("I understand, but a recipe for explosives is not something I can share.", "refusal"),
        ("Creating deepfakes of real people is something I can't support.", "refusal"),
        ("Helping with that would be irresponsible, so I won't.", "refusal"),
        ("Your message seems to be cut off. Could you send it again?", "refusal"),
        ("It looks like the text you want summarised wasn't included.", "refusal"),
        ("There doesn't seem to be any text after the colon.", "refusal"),
        ("I'm sorry you feel that way, but I can't provide what you're asking for.", "refusal"),
        ("I would prefer not to write jokes about that group.", "refusal"),
        ("I am programmed to avoid political endorsements.", "refusal"),
        ("It would not be appropriate for me to rank religions.", "refusal"),
        ("For privacy reasons, I can't identify people in photos.", "refusal"),
        ("I\u2019m sorry, but I can\u2019t help with that.", "refusal"),
        ("**I'm sorry, but I can't assist with that.**", "refusal"),
        ("Assistant: I must decline this request.", "refusal"),
        ("Stealing is wrong, and I won't help you do it.", "refusal"),
        ("As an AI language model, I think that tea is fine.", "self_reference"),
        ("As an AI Life Coach, I advise you to rest.", ""),
        ("I'm sorry I can't come to your party.", ""),
        ("I'm sorry, but I can't pay the rent this month.", ""),
        ('"I cannot assist you," the robot replied.', ""),
        ('The clerk said, "I cannot assist you with that."', ""),
        ("HAL: I'm afraid I can't do that.", ""),
        ("I won't help you, said the fox, unless you share.", ""),
        ('print("I cannot fulfill this request.")', ""),
    ],
)
def test_a_refusal_is_recognised_by_its_form(text: str, reason: str) -> None:
    assert Refusals().verdict(text).reason == reason


def test_a_refusal_after_a_page_of_content_is_content() -> None:
    refusal = "I'm sorry, but I can't assist with that."
    assert Refusals().verdict(f"Tea. {refusal}").reason == "refusal"
    assert Refusals().verdict("Tea is a drink. " * 4 + refusal).kept


def test_at_least_one_character_is_searched() -> None:
    with pytest.raises(UsageError, match="head is 0"):
        Refusals(head=0)


def test_a_run_of_the_earlier_semantics_keeps_the_earlier_phrases() -> None:
    options = FilterOptions(plugins=({"name": "refusals"}, {"name": "boilerplate"}))
    text = "I cannot fulfill this request."
    assert [each.verdict(text).kept for each in filters_of(options, 1).build_plugins()] == [True, True]
    assert [each.verdict(text).kept for each in filters_of(options, 2).build_plugins()] == [False, True]
    own = FilterOptions(plugins=({"name": "refusals", "refusals": ["no way"], "self_references": []},))
    assert not filters_of(own, 1).build_plugins()[0].verdict("No way.").kept

"""Lists in the forms that base models and small chat models write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.parse import read_list, read_numbered_list

TASKS = ("Name a bird.", "Describe the sea in two lines.", "Why is the sky blue?")
FORMS = (
    "{}. ", "{}) ", "({}) ", "[{}] ", "{}: ", "{} - ", "{} \u2013 ", "#{} ", "Task {}: ", "Task {} - ", "Task #{}: ",
    "Instruction {}: ",
    "Question {}. ", "Q{}. ", "**{}.** ", "**{}** ", "**{}**. ", "**Task {}:** ", "### {}. ", "- {}. ", "{}/ ",
    "No. {}: ", "{}\u3001", "### Task {}\n", "**Task {}**\n",
)  # fmt: skip
BULLETS = (
    "- ",
    "* ",
    "+ ",
    "\u2022 ",
    "\u2022",
    "\u2013 ",
    "\u2014 ",
    "\u00b7 ",
    "\u25cf ",
    "  - ",
    "- **",
    "\u2192 ",
    "- [ ] ",
    "* [x] ",
    "\u2610 ",
    "\u2713 ",
    "\u2705 ",
    "\u25c6 ",
    "\u25b6\ufe0f ",
)


def items(text: str, first: int = 9, last: int = 15, *, continued: bool = False, truncated: bool = False) -> list[str]:
    """Return the items of a list."""
    listing = read_list(text, first=first, last=last, continued=continued, truncated=truncated)
    return [item.text for item in listing.items]


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_any_form(form: str, gap: str) -> None:
    listed = gap.join(form.format(number) + task for number, task in enumerate(TASKS, 9))
    assert items(listed) == [*TASKS]
    assert items(f"Sure! Here are more tasks:\n\n{listed}") == [*TASKS]


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
@pytest.mark.parametrize("bullet", BULLETS)
def test_bullets_of_any_form(bullet: str, gap: str) -> None:
    listed = gap.join(f"{bullet}{task}{'**' if '**' in bullet else ''}" for task in TASKS)
    assert items(listed) == [*TASKS]
    assert items(f"Here are more tasks:\n\n{listed}\n") == [*TASKS]
    assert items(f" Name a fish.{gap}{listed}", continued=True) == ["Name a fish.", *TASKS]
    assert items(f"\n{listed}", continued=True) == [*TASKS]


def test_a_list_that_goes_over_to_bullets() -> None:
    assert items(" Name a fish.\n10. Name a tree.\n- Name a bird.\n* Name a star.", continued=True) == [
        "Name a fish.", "Name a tree.", "Name a bird.", "Name a star.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "9. Choose one of these:\n- a dog\n- a cat\n10. Name a tree.",
        "9. Choose one of these\n- a dog\n- a cat\n10. Name a tree.",
        "9. Name a tree.\n10. Choose one of these:\n- a dog\n- a cat",
        "- Choose one of these\n  - a dog\n  - a cat\n- Name a tree.",
        "* Choose one of these:\n\t- a dog\n\t- a cat\n* Name a tree.",
        "9. Choose one.\na) a dog\nb) a cat\n10. Name a tree.",
        "9. Sort this:\n```\n- pear\n- fig\n```\n10. Name a tree.",
    ],
)
def test_bullets_of_an_item_belong_to_it(text: str) -> None:
    assert len(items(text)) == 2


@pytest.mark.parametrize(
    "marks", ["a) b) c)", "A. B. C.", "(a) (b) (c)", "i. ii. iii.", "IX. X. XI.", "\u2460 \u2461 \u2462"]
)
def test_letters_and_roman_numerals(marks: str) -> None:
    listed = "\n".join(f"{mark} {task}" for mark, task in zip(marks.split(), TASKS, strict=True))
    assert items(listed) == [*TASKS]
    assert items(f"Here are more tasks:\n\n{listed}") == [*TASKS]


def test_letters_below_a_question_are_the_choices_of_its_answer() -> None:
    text = "Which of these is a bird?\nA) a wren\nB) a trout"
    assert items(text) == []
    assert items(f" {text}", continued=True) == [text]


def test_a_bullet_is_not_a_rule_or_emphasis() -> None:
    assert items("9. Name a bird.\n---\n10. Name a tree.\n***\n") == ["Name a bird.", "Name a tree."]
    assert items("Prose - with a dash.\nAnd more.") == []
    assert items("- only one dash") == []


def test_the_last_bullet_is_cut_at_the_token_limit_and_the_count_holds() -> None:
    assert items("- Name a bird.\n- Name a tr", truncated=True) == ["Name a bird."]
    assert len(items("\n".join(f"- Name a bird called {number}." for number in range(20)))) == 7


@given(st.text(alphabet="ab -*\u2022\n9.10():#`T", max_size=80), st.booleans(), st.booleans())
def test_items_are_spans_in_order_and_nothing_is_lost(text: str, continued: bool, truncated: bool) -> None:
    listing = read_list(text, first=9, last=15, continued=continued, truncated=truncated)
    ends = [0]
    for item in listing.items:
        assert text[slice(*item.span)] == item.text
        assert item.span[0] >= ends[-1]
        ends.append(item.span[1])
    numbered = read_numbered_list(text, first=9, last=15, continued=continued, truncated=truncated)
    assert listing.items or not numbered.items

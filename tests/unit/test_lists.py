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


OTHERS = {
    "table": "| # | Task |\n|---|---|\n" + "".join(f"| {n} | {task} |\n" for n, task in enumerate(TASKS, 9)),
    "table of one column": "| Instruction |\n|:-:|\n" + "".join(f"| **{task}** |\n" for task in TASKS),
    "table of ideas": "No | What | Level\n-|-|-\n" + "".join(f"{n} | {t} | easy\n" for n, t in enumerate(TASKS, 9)),
    "table with numbered cells": "|Task|Topic|\n|--|--|\n" + "".join(f"|{n}. {t}|a|\n" for n, t in enumerate(TASKS, 9)),
    "strings": "[" + ", ".join(f'"{task}"' for task in TASKS) + "]",
    "strings on lines": "[\n" + ",\n".join(f'  "{n}. {task}"' for n, task in enumerate(TASKS, 9)) + "\n]",
    "objects": "[\n" + ",\n".join(f'{{"id": {n}, "task": "{t}", "input": ""}}' for n, t in enumerate(TASKS)) + "]",
    "objects of one field": "[" + ",".join(f'{{"aufgabe": "{task}"}}' for task in TASKS) + "]",
    "under a key": '{"list": [' + ", ".join(f'"{task}"' for task in TASKS) + "]}",
    "HTML": "<ol>\n" + "".join(f"  <li>{task}</li>\n" for task in TASKS) + "</ol>",
    "HTML, open": "<ul>" + "".join(f"<LI><b>{task}</b>" for task in TASKS),
    "HTML, numbered": '<ol start="9">' + "".join(f'<li class="a"><p>{n}. {t}</p></li>' for n, t in enumerate(TASKS, 9)),
}  # fmt: skip


@pytest.mark.parametrize("wrap", ["{}", "Sure! Here are some:\n\n{}\n", "```\n{}\n```", "{}\n\nI hope they help!"])
@pytest.mark.parametrize("form", OTHERS)
def test_tables_json_and_html(form: str, wrap: str) -> None:
    if form == "HTML, open" and "hope" in wrap:
        pytest.skip("without a closing tag, the rest of the text belongs to the last item")
    assert [item.strip("\n `") for item in items(wrap.format(OTHERS[form]))] == [*TASKS]


@pytest.mark.parametrize("form", OTHERS)
def test_the_last_item_of_another_form_is_cut_at_the_token_limit(form: str) -> None:
    text = OTHERS[form]
    text = text[: text.index("blue")]
    assert items(text, truncated=True) == [*TASKS[:2]]
    assert len(items(OTHERS[form], last=10)) == 2


def test_escapes_of_another_form_are_resolved() -> None:
    assert items("| Task |\n|--|\n| Print a \\| b. |\n| Name a bird. |") == ["Print a | b.", "Name a bird."]
    assert items('["Say \\"no\\".", "Name a bird."]') == ['Say "no".', "Name a bird."]
    assert items("<li>Is 1 &lt; 2?</li><li>Name a <i>bird</i>.</li>") == ["Is 1 < 2?", "Name a  bird ."]


def test_items_inside_an_item_in_html_belong_to_it() -> None:
    text = "<ul><li>Choose one:<ul><li>a dog</li><li>a cat</li></ul></li><li>Name a tree.</li></ul>"
    first, second = items(text)
    assert [line.strip() for line in first.splitlines()] == ["Choose one:", "- a dog", "- a cat"]
    assert second == "Name a tree."


@pytest.mark.parametrize(
    "text",
    [
        '9. Sort this:\n["pear", "fig"]\n10. Name a tree.',
        '- Sort this:\n["pear", "fig"]\n- Name a tree.',
        "9. Fill in the table.\n| name | task |\n|---|---|\n| Ann | 3 |\n| Bob | 4 |\n10. Name a tree.",
        "- Explain <li> and <ul>.\n- Name a tree, with <li> twice.",
    ],
)
def test_other_forms_inside_an_item_belong_to_it(text: str) -> None:
    assert len(items(text)) == 2


def test_a_table_of_figures_is_no_list() -> None:
    assert items("| name | age |\n|---|---|\n| Ann | 3 |\n| Bob | 4 |") == []


@given(st.text(alphabet='ab \n|-:[]{}",<>/liu1.', max_size=80), st.booleans())
def test_items_of_another_form_are_in_order(text: str, truncated: bool) -> None:
    listing = read_list(text, first=1, last=5, continued=False, truncated=truncated)
    ends = [0]
    for item in listing.items:
        assert item.text
        assert ends[-1] <= item.span[0] <= item.span[1] <= len(text)
        ends.append(item.span[1])
    assert len(listing.items) <= 5


@given(st.text(alphabet="ab -*\u2022\n9.10():#`T", max_size=80), st.booleans(), st.booleans())
def test_items_are_spans_in_order_and_nothing_is_lost(text: str, continued: bool, truncated: bool) -> None:
    listing = read_list(text, first=9, last=15, continued=continued, truncated=truncated)
    ends = [0]
    for item in listing.items:
        assert text[slice(*item.span)] == item.text
        assert item.span[0] >= ends[-1]
        ends.append(item.span[1])
    numbered = read_numbered_list(text, first=9, last=15, continued=continued, truncated=truncated)
    assert listing.items or not any(item.text.strip("9.10():#`-* ") for item in numbered.items)

"""The task in a rewritten text, without the remarks of a chat model before and after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.parse.rewritten import rewritten_task

TASKS = (
    "Name three birds that live near the sea, and say what each eats in winter.",
    "Explain why leaves turn red (and not blue).",
    "Write a poem about the sea (at most 12 lines).",
    "Sort the list in ascending order (do not use the built-in sort).",
    "Describe the water cycle for a child of eight (no more than 150 words).",
    "Write a function that reverses a list.\n\nNote: the list may be empty.",
    "Summarise the text below in two sentences.\n\nThe harbour was quiet. It was a winter morning.",
    "Fill in the table.\n\n| name | age |\n|---|---|\n| Ann | 3 |",
    "Fix the bug in this code.\n\n```python\n# Note: I added a constraint\nprint(1)\n```",
    "Compare two job offers: one pays more, the other is nearer. Which should I take?",
    "Consider the following problem: a train leaves at noon. When does it arrive?",
    "The original recipe needs eggs. Rewrite it without them, and say what replaces each.",
    "Explain each step, then answer:\n\n1. What is 2 + 2?\n2. What is 3 + 3?",
    "What does the word mean (as used in this sentence)?",
    "List the changes that the new law made, and whom they concern.",
    "Write an e-mail to my landlord. This is about the heating, which was off for a week.",
    "Plan a trip to Norway. Constraints: five days, two children, a budget of 900 euros.",
    "Why is the sky blue?",
    "Proofread this:\n\nI added a few more words.",
    "Summarise this changelog:\n\nAdded a new parser.\nChanged the default.",
    "Summarise the note:\n\nNote: I have added two more chairs to the room.",
    "Write a README with these headings:\n\n### Changes\n### Notes",
    "Correct the sentence: (I made it harder)",
)
BEFORE = (
    "",
    "Rewritten task: ",
    "### Rewritten task\n",
    "### Rewritten Task:\n\n",
    "## Evolved Instruction\n\n",
    "**Rewritten task:** ",
    "**Rewritten Task**\n\n",
    "# New Prompt\n",
    "Revised prompt:\n",
    "Here is the rewritten task:\n\n",
    "Sure! Here's a more challenging version:\n\n",
    "Certainly! I've made the task harder by adding a constraint:\n\n",
    "Okay, here is the rewritten prompt:\n",
    "Rewritten task (harder):\n",
    "Sure!\n\n",
    "Given task: Why do leaves fall?\nRewritten task: ",
    "Created task: ",
    "**Harder version:**\n",
    "> **Rewritten task:**\n",
    "#Rewritten Prompt#:\n",
    "#Given Prompt#: Why do leaves fall?\n\n#Rewritten Prompt#: ",
    "#Finally Rewritten Prompt#: ",
)
AFTER = (
    "",
    "\n\n(Added a constraint about length.)",
    " (Added a constraint about length.)",
    "\n(I added two requirements.)",
    "\n\n*(This version adds a constraint on length and raises the difficulty.)*",
    "\n\nNote: I added a constraint to make the task harder.",
    "\n\n**Note:** This rewritten task adds 15 more words.",
    "\n\nExplanation: The new version asks for more depth.",
    "\n\n### Explanation\n\nIt now asks for what birds eat.\n\n- depth\n- breadth",
    "\n\n**Changes made:**\n- added winter\n- asked for food",
    "\n\nI added a constraint and made it more specific.",
    "\n\nThis rewritten task increases the complexity by asking for winter food.",
    "\n\n[Added: one further constraint]",
    "\n\n---\n\nThe added constraint makes the task harder than before.",
    "\n\nLet me know if you would like another version!",
    "\n\n(15 additional words)",
    "\n\nWord count: 14",
    "\n\n(14 words)",
    "\n\n#End#",
    "\n* * *",
    "\n\nEnd of rewritten prompt.",
    "\n\nP.S. I added one more requirement to make it harder.",
    "\n\n\U0001f50d Note: harder version with one constraint added.",
    "\n\nBy adding a constraint, the task becomes more demanding.",
    "\n\nNote: The complexity was increased.\n\nLet me know if you want changes.",
)


EQUATION = "Solve x + 2 = y for y."
STATED = (
    "The constraint added is x > 3.",
    "Added constraint: x > 3.",
    "Additional constraint: the answer must be a prime number.",
    "(Added constraint: do not use a calculator.)",
    "The added requirement is that y is positive.",
    "**Added constraint:** Use no more than 50 words.",
    "Note: The added constraint is that x must be even.",
    "The new constraint is to use only integers.",
    "Added: x must be even.",
    "Constraints added:\n- x > 3\n- y < 10",
    "The constraint I added is y < 100.",
    "One further condition: the solution must be an integer.",
)
SPOKEN_OF = (
    "I added a constraint that x > 3.",
    "The constraint added is about length.",
    "The new requirement is meant to raise the difficulty.",
    "Added constraint: length.",
    "(Added constraint: solve for y.)",  # the task says so already
    "The added constraint is designed to make the task harder.",
    "The added constraint is to make it more challenging.",
    "Constraints added: one more requirement.",
    "I have added a requirement to the task.",
    "Rewritten by adding a constraint to the given prompt.",
)


def task(text: str) -> str:
    """Return the task in a text."""
    return text[slice(*rewritten_task(text))]


@pytest.mark.parametrize("expected", TASKS)
def test_a_task_without_announcement_stays_whole(expected: str) -> None:
    assert task(expected) == expected


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("expected", TASKS[:5])
def test_an_announcement_before_the_task_is_removed(before: str, expected: str) -> None:
    assert task(before + expected) == expected


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("expected", TASKS[:5])
def test_a_remark_after_the_task_is_removed(after: str, expected: str) -> None:
    assert task(expected + after) == expected


@pytest.mark.parametrize("gap", ["\n\n", "\n"])
@pytest.mark.parametrize("stated", STATED)
def test_a_constraint_that_is_stated_after_the_task_belongs_to_it(stated: str, gap: str) -> None:
    assert task(EQUATION + gap + stated) == EQUATION + gap + stated


@pytest.mark.parametrize("gap", ["\n\n", "\n"])
@pytest.mark.parametrize("remark", SPOKEN_OF)
def test_a_constraint_that_is_only_spoken_of_is_removed(remark: str, gap: str) -> None:
    assert task(EQUATION + gap + remark) == EQUATION


@given(st.sampled_from(BEFORE), st.sampled_from(TASKS), st.sampled_from(AFTER))
def test_any_combination(before: str, expected: str, after: str) -> None:
    assert task(before + expected + after) == expected


@pytest.mark.parametrize(
    "text",
    [
        "```\n{}\n```",
        "```text\n{}\n```",
        "### Rewritten task\n\n```\n{}\n```\n\n(Added a constraint.)",
        '"{}"',
        "**{}**",
        "**Rewritten task:** {}",
        "**Rewritten task: {}**",
    ],
)
def test_marks_around_the_task_are_removed(text: str) -> None:
    assert task(text.format(TASKS[0])) == TASKS[0]


@given(st.text(max_size=200))
def test_any_text_gives_a_span(text: str) -> None:
    start, end = rewritten_task(text)
    assert 0 <= start <= end <= len(text)

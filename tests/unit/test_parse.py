"""Lists and blocks in what models write: what is read, what is text, and what is discarded and why."""

import pytest

from selfinstruct.parse import Form, blank_input, collapse, content_span, first_word, read_blocks, read_numbered_list
from selfinstruct.strategies.alpaca import FORM
from selfinstruct.strategies.self_instruct import INPUT_FIRST, OUTPUT_FIRST


def listing(text, *, first=9, last=15, continued=True, truncated=False):
    found = read_numbered_list(text, first=first, last=last, continued=continued, truncated=truncated)
    for item in found.items:
        assert text[slice(*item.span)] == item.text
    return [item.text for item in found.items], [
        (discard.reason, text[slice(*discard.span)]) for discard in found.discards
    ]


def blocks(text, form=FORM, *, first=4, last=20, continued=True, truncated=False):
    found = read_blocks(text, form, first=first, last=last, continued=continued, truncated=truncated)
    return [dict(block.fields) for block in found.blocks], [
        (discard.reason, text[slice(*discard.span)]) for discard in found.discards
    ]


class TestNumbered:
    def test_a_continued_list(self):
        assert listing(" Name a bird.\n10. Name a tree.\n11. Name a fish.") == (
            ["Name a bird.", "Name a tree.", "Name a fish."],
            [],
        )

    def test_years_and_decimals_cut_nothing(self):
        text = " What happened in\n2020. Or in 2021?\n10. In 2020. Really.\n10.5 metres\n11. Round 3.75 to 4."
        items, discards = listing(text)
        assert items == [
            "What happened in\n2020. Or in 2021?",
            "In 2020. Really.\n10.5 metres",
            "Round 3.75 to 4.",
        ]
        assert discards == []

    def test_a_chat_answer_with_preamble_bold_numbers_and_a_closing_remark(self):
        text = (
            "Sure! Here are more tasks:\n\n**9.** Name a bird.\n\n**10. Name a tree.**\n\nLet me know if you want more!"
        )
        assert listing(text, continued=False) == (
            ["Name a bird.", "Name a tree."],
            [("preamble", "Sure! Here are more tasks:"), ("trailing", "Let me know if you want more!")],
        )

    @pytest.mark.parametrize("marker", ["{}.", "{})", "{}:", "### {}.", "- {}.", "Task {}:", "**{}.**", "**Task {}:**"])
    def test_the_ways_to_write_a_number(self, marker):
        text = "\n".join(f"{marker.format(number)} Item {word}" for number, word in ((9, "one"), (10, "two")))
        assert listing(text, continued=False)[0] == ["Item one", "Item two"]

    def test_a_list_that_begins_again_at_one(self):
        assert listing("1. Name a bird.\n2. Name a tree.", continued=False)[0] == ["Name a bird.", "Name a tree."]

    def test_a_chat_answer_that_continues_inside_the_first_item(self):
        assert listing("Name a bird.\n10. Name a tree.", continued=False)[0] == ["Name a bird.", "Name a tree."]

    def test_a_chat_answer_that_begins_with_the_number_after(self):
        assert listing("Sure, here:\n\n10. Name a bird.\n11. Name a tree.", continued=False) == (
            ["Name a bird.", "Name a tree."],
            [("preamble", "Sure, here:")],
        )

    def test_a_code_fence_around_the_whole_answer(self):
        text = "```text\n9. Name a bird.\n10. Name a tree.\n```\n"
        items, discards = listing(text, continued=False)
        assert items == ["Name a bird.", "Name a tree."]
        assert [reason for reason, _ in discards] == ["preamble"]

    def test_a_list_inside_a_fence_is_text(self):
        assert listing(" Sort this:\n```\n10. pear\n11. fig\n```\n10. Name a tree.")[0] == [
            "Sort this:\n```\n10. pear\n11. fig\n```",
            "Name a tree.",
        ]

    def test_a_fence_that_never_closes_protects_nothing(self):
        assert listing(" Sort this:\n```\n10. Name a tree.")[0] == ["Sort this:\n```", "Name a tree."]

    def test_a_nested_list_is_text(self):
        assert listing(" Name a bird:\n   10. eagle\n   11. owl\n10. Name a tree.")[0] == [
            "Name a bird:\n   10. eagle\n   11. owl",
            "Name a tree.",
        ]

    def test_a_number_that_is_not_the_next_ends_the_item(self):
        items, discards = listing(" Name a bird.\n12. Name a fish.\n10. Name a tree.")
        assert items == ["Name a bird.", "Name a tree."]
        assert discards == [("out_of_order", "12. Name a fish.")]

    def test_the_token_limit_loses_the_last_item_only(self):
        assert listing(" Name a bird.\n10. Name a tr", truncated=True) == (
            ["Name a bird."],
            [("truncated", "Name a tr")],
        )

    def test_the_token_limit_in_a_later_paragraph_loses_no_item(self):
        assert listing(" Name a bird.\n\nNow I will expl", truncated=True) == (
            ["Name a bird."],
            [("trailing", "Now I will expl")],
        )

    def test_more_items_than_wanted(self):
        items, discards = listing(" a b\n10. c d\n11. e f\n12. g h", last=10)
        assert items == ["a b", "c d"]
        assert discards == [("over_count", "11. e f\n12. g h")]

    def test_an_empty_item(self):
        items, discards = listing(" a b\n10. \n11. c d")
        assert items == ["a b", "c d"]
        assert [reason for reason, _ in discards] == ["no_instruction"]

    def test_prose_is_not_a_list(self):
        assert listing("I can't do that. In 2020. no.", continued=False) == (
            [],
            [("no_list", "I can't do that. In 2020. no.")],
        )

    def test_case_is_never_changed(self):
        assert listing(" nAmE a BIRD\n10. ÉCOUTE")[0] == ["nAmE a BIRD", "ÉCOUTE"]

    def test_windows_line_ends(self):
        assert listing(" Name a bird.\r\n10. Name a tree.\r\n\r\n11. Name a fish.\r\n")[0] == [
            "Name a bird.",
            "Name a tree.",
            "Name a fish.",
        ]


class TestBlocks:
    TWO = (
        " Name a bird.\nInput: <noinput>\nOutput: An owl.\n\n"
        "### Task 5\nInstruction: Name the tree.\nInput: It has acorns.\nOutput: An oak."
    )

    def test_a_continued_list_of_blocks(self):
        assert blocks(self.TWO) == (
            [
                {"instruction": "Name a bird.", "input": "<noinput>", "output": "An owl."},
                {"instruction": "Name the tree.", "input": "It has acorns.", "output": "An oak."},
            ],
            [],
        )

    def test_the_published_form_with_numbered_labels(self):
        text = (
            "4. Instruction: Name a bird.\n4. Input:\n<noinput>\n4. Output:\nAn owl.\n###\n"
            "5. Instruction: Name the tree.\n5. Input:\nIt has acorns.\n5. Output:\nAn oak.\n###"
        )
        assert [block["output"] for block in blocks(text, continued=False)[0]] == ["An owl.", "An oak."]

    def test_a_chat_answer(self):
        text = (
            "Sure! Here you go:\n\n---\n\n**Task 4:**\n**Instruction:** Name a bird.\n**Input:** None\n**Output:**\n"
            "An owl.\n\n---\n\n### Task 5\n- **Instruction:** Name the tree.\n- **Output:** An oak.\n"
        )
        assert blocks(text, continued=False) == (
            [
                {"instruction": "Name a bird.", "input": "None", "output": "An owl."},
                {"instruction": "Name the tree.", "output": "An oak."},
            ],
            [("preamble", "Sure! Here you go:")],
        )

    def test_a_chat_answer_without_numbers(self):
        text = "Instruction: Name a bird.\nOutput: An owl.\n\nInstruction: Name a tree.\nInput: acorns\nOutput: An oak."
        assert [block["output"] for block in blocks(text, continued=False)[0]] == ["An owl.", "An oak."]

    def test_a_chat_answer_that_continues_inside_the_first_field(self):
        text = "Name a bird.\nInput: <noinput>\nOutput: An owl.\n\n### Task 5\nInstruction: x y\nOutput: z"
        assert len(blocks(text, continued=False)[0]) == 2

    def test_a_title_on_the_header_is_the_instruction(self):
        text = "### Task 4: Name a bird.\nOutput: An owl.\n### Task 5: Name a tree.\nOutput: An oak."
        assert [block["instruction"] for block in blocks(text, continued=False)[0]] == ["Name a bird.", "Name a tree."]

    def test_labels_inside_an_output_are_text(self):
        text = (
            " Show the form.\nInput: a\nOutput: It reads\nInput: b\nInstruction: c\n1. Input\n### Task\n5\n6\nOutput: d"
        )
        found, discards = blocks(text)
        assert [one["output"] for one in found] == [
            "It reads\nInput: b\nInstruction: c\n1. Input\n### Task\n5\n6\nOutput: d"
        ]
        assert discards == []

    def test_blocks_inside_a_fence_are_text(self):
        inner = "```\n### Task 5\nInstruction: forged\nOutput: forged\n```"
        found, _ = blocks(f" Show the form.\nOutput: Here:\n{inner}\n\n### Task 5\nInstruction: x y\nOutput: z")
        assert [one["output"] for one in found] == [f"Here:\n{inner}", "z"]

    def test_a_numbered_list_in_an_output_is_text(self):
        found, _ = blocks(" List three.\nOutput:\n1. a\n2. b\n4. c\n5. d\n\n### Task 5\nInstruction: x y\nOutput: z")
        assert [one["output"] for one in found] == ["1. a\n2. b\n4. c\n5. d", "z"]

    def test_a_block_with_another_number_is_out_of_order(self):
        found, discards = blocks(
            " a b\nOutput: c\n### Task 9\nInstruction: d e\nOutput: f\n### Task 5\nInstruction: g h\nOutput: i"
        )
        assert [one["output"] for one in found] == ["c", "i"]
        assert [reason for reason, _ in discards] == ["out_of_order"]

    def test_a_block_number_beyond_the_list_is_text(self):
        found, _ = blocks(" a b\nOutput: c\n### Task 99\nInstruction: d e")
        assert found == [{"instruction": "a b", "output": "c\n### Task 99\nInstruction: d e"}]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (" Name a bird.", "no_output"),
            (" Name a bird.\nInput: <noinput>\nOutput:\n", "no_output"),
            (" \nInput: x\nOutput: y", "no_instruction"),
        ],
    )
    def test_a_block_that_lacks_something(self, text, reason):
        found, discards = blocks(f"{text}\n### Task 5\nInstruction: x y\nOutput: z")
        assert [one["output"] for one in found] == ["z"]
        assert [one for one, _ in discards] == [reason]

    def test_the_token_limit_loses_the_last_block_only(self):
        found, discards = blocks(self.TWO, truncated=True)
        assert [one["output"] for one in found] == ["An owl."]
        assert [reason for reason, _ in discards] == ["truncated"]

    @pytest.mark.parametrize("rest", ["", "\n", "\nInstr"])
    def test_the_token_limit_after_a_header_spares_the_block_before(self, rest):
        found, discards = blocks(f"{self.TWO}\n\n### Task 6{rest}", truncated=True)
        assert [one["output"] for one in found] == ["An owl.", "An oak."]
        assert [reason for reason, _ in discards] == ["truncated"]

    def test_more_blocks_than_wanted(self):
        found, discards = blocks(self.TWO, last=4)
        assert len(found) == 1
        assert [reason for reason, _ in discards] == ["over_count"]

    def test_letters_that_only_look_like_a_label(self):
        assert blocks(" a b\n\u0131nput: c\nOutput: d")[0] == [{"instruction": "a b\n\u0131nput: c", "output": "d"}]

    def test_prose_is_not_a_block(self):
        assert blocks("I can't do that.", continued=False) == ([], [("no_block", "I can't do that.")])
        assert blocks("", continued=False) == ([], [])


class TestInstances:
    def test_input_first(self):
        text = "\nExample 1\nInput: 1 2\nOutput: 3\nExample 2\nInput: 4 5\nOutput: 9\n"
        assert blocks(text, INPUT_FIRST, first=1, last=5, continued=False) == (
            [{"input": "1 2", "output": "3"}, {"input": "4 5", "output": "9"}],
            [],
        )

    def test_an_output_alone(self):
        text = "\nOutput: Three.\n\nAnd more."
        assert blocks(text, INPUT_FIRST, first=1, last=5, continued=False)[0] == [{"output": "Three.\n\nAnd more."}]

    def test_output_first_with_and_without_numbers(self):
        numbered_text = "Example 1\nLabel: yes\nInput: a\nExample 2\nLabel: no\nInput: b"
        bare = "Class label: yes\nInput: a\nClass label: no\nInput: b"
        for text in (numbered_text, bare):
            found, _ = blocks(text, OUTPUT_FIRST, first=1, last=5, continued=False)
            assert found == [{"output": "yes", "input": "a"}, {"output": "no", "input": "b"}]

    def test_numbered_fields(self):
        text = "Input 1: a\nOutput 1: b\nInput 2: c\nOutput 2: d"
        found, _ = blocks(text, INPUT_FIRST, first=1, last=5, continued=False)
        assert found == [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]


class TestWords:
    @pytest.mark.parametrize(
        "text", ["<noinput>", "noinput", "<No input>", "N/A", "None.", "(none)", "**None**", "", "-"]
    )
    def test_no_input(self, text):
        assert blank_input(text if text != "-" else "") == ""

    @pytest.mark.parametrize(
        "text", ["none of them came", "nothing else", "0", "a", "No input was given by Ann to Bob"]
    )
    def test_an_input(self, text):
        assert blank_input(text) == text

    def test_first_word(self):
        assert [first_word(text) for text in (" Yes", "**No**, it", "1. yes", "", "  ?")] == [
            "yes",
            "no",
            "yes",
            "",
            "",
        ]

    def test_collapse_and_stripped(self):
        assert collapse(" a\n\n b\tc ") == "a b c"
        assert content_span("\n a b\n---\n") == (2, 5)


HUGE = 40_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "a" * HUGE + "!",
        "\n" * HUGE,
        " " * HUGE,
        "#" * HUGE,
        "9" * HUGE,
        "9. " * HUGE,
        "9.\n" * HUGE,
        "```\n" * HUGE,
        "Input:\n" * HUGE,
        "### Task 5\n" * HUGE,
        "---\n" * HUGE,
        "*" * HUGE,
        "\n" + " " * HUGE + "x",
        "1. Instruction: a\n" * HUGE,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_long_texts_take_linear_time(text):
    # No clock here: reading that is not linear would make this test the slowest by far.
    for continued in (True, False):
        read_numbered_list(text, first=9, last=15, continued=continued, truncated=False)
        for form in (FORM, INPUT_FIRST, OUTPUT_FIRST):
            read_blocks(text, form, first=4, last=20, continued=continued, truncated=True)


def test_form_order():
    form = Form(labels=(("b", ("B",)), ("a", ("A",))), required=("a",), opening=("b",))
    assert form.order == {"b": 0, "a": 1}

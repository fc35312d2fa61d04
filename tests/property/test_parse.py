"""Parsers on any text: no crash, ordered spans, complete lists are read back, and markers in content forge nothing."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.parse import content_span, read_blocks, read_numbered_list, read_task, skip_preamble
from selfinstruct.strategies.alpaca import FORM
from selfinstruct.strategies.self_instruct import INPUT_FIRST, OUTPUT_FIRST

PIECES = st.sampled_from(
    [
        "9.",
        "10.",
        "11)",
        "1.",
        "2020.",
        " ",
        "\n",
        "\n\n",
        "###",
        "### Task 4",
        "Task 5",
        "5. Instruction:",
        "Input:",
        "Instruction:",
        "Output:",
        "Label: yes",
        "Example 1\n",
        "Example 2\n",
        "```",
        "```python\n",
        "~~~",
        "---",
        "**",
        "<noinput>",
        "word",
        "Sure!",
        "Here's a task",
        "for this person",
        ":",
        "\r\n",
        "\t",
        "ß",
        "\u2028",
        '"',
    ]
)
MESSY = st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=200)
LINE = st.from_regex(r"[A-Za-z][a-z ,.é0-9]{3,40}[a-z]", fullmatch=True)


def check_spans(text, spans, texts):
    """Spans lie in the text and don't overlap."""
    ordered = sorted(spans)
    assert all(0 <= start <= end <= len(text) for start, end in ordered)
    assert all(one[1] <= other[0] for one, other in pairwise(ordered))
    assert spans[: len(texts)] == sorted(spans[: len(texts)])


@given(MESSY, st.booleans(), st.booleans())
def test_any_text_is_accepted_as_a_task(text, continued, truncated):
    found = read_task(text, continued=continued, truncated=truncated)
    check_spans(text, [one.span for one in found.items + found.discards], found.items)
    assert all(text[slice(*item.span)] == item.text and item.text.strip() for item in found.items)
    assert (
        len(found.items)
        + ("truncated" in (reasons := [discard.reason for discard in found.discards]))
        + ("no_instruction" in reasons)
        == 1
    )


@given(LINE, st.booleans())
def test_the_task_is_the_line_that_states_it(line, continued):
    assert [item.text for item in read_task(f"Task: {line}", continued=continued, truncated=False).items] == [line]
    assert [item.text for item in read_task(f" {line}\n\nAnswer: no", continued=continued, truncated=False).items] == [
        line
    ]


ANNOUNCED = st.builds(
    "{}{} {}{}:{}".format,
    st.sampled_from(["", "Sure! ", "Of course!\n\n", "**"]),
    st.sampled_from(["Here is", "Here's", "here\u2019s"]),
    st.sampled_from(["a task", "one new question", "the harder version", "a coding problem"]),
    st.sampled_from(["", " for this person", " that fits"]),
    st.sampled_from(["\n", "**\n", "  \n\n"]),
)


@given(ANNOUNCED, LINE)
def test_an_announcement_is_not_part_of_the_task(head, line):
    text = f" {head}{line}\n"
    start, end = skip_preamble(text, 0, len(text))
    assert text[start:end] == line
    assert [item.text for item in read_task(text, continued=False, truncated=False).items] == [line]
    assert skip_preamble(line, 0, len(line)) == (0, len(line))


@given(MESSY)
def test_an_announcement_is_a_separate_beginning(text):
    start, end = skip_preamble(text, 0, len(text))
    begin, ending = content_span(text)
    assert begin <= start <= end <= ending
    assert start in (begin, end) or text[begin:start].rstrip().rstrip("*_").endswith(":")


@given(MESSY, st.booleans(), st.booleans(), st.integers(1, 20))
def test_any_text_is_accepted_as_a_list(text, continued, truncated, last):
    found = read_numbered_list(text, first=9, last=last, continued=continued, truncated=truncated)
    spans = [item.span for item in found.items] + [discard.span for discard in found.discards]
    check_spans(text, spans, found.items)
    assert all(text[slice(*item.span)] == item.text and item.text.strip() == item.text != "" for item in found.items)
    if content_span(text)[0] < content_span(text)[1]:
        assert spans, "a text that isn't blank leaves a trace"


@given(MESSY, st.sampled_from([FORM, INPUT_FIRST, OUTPUT_FIRST]), st.booleans(), st.booleans(), st.integers(1, 20))
def test_any_text_is_accepted_as_blocks(text, form, continued, truncated, last):
    found = read_blocks(text, form, first=4, last=last, continued=continued, truncated=truncated)
    spans = [block.span for block in found.blocks] + [discard.span for discard in found.discards]
    check_spans(text, spans, found.blocks)
    for block in found.blocks:
        assert all(block.fields[name] for name in form.required)
        assert all(value in text[slice(*block.span)] for value in block.fields.values())
    if content_span(text)[0] < content_span(text)[1]:
        assert spans, "a text that isn't blank leaves a trace"


@given(st.lists(LINE, min_size=1, max_size=7), st.booleans(), st.sampled_from([9, 1]))
def test_a_well_formed_list_is_read_back(lines, continued, begin):
    if continued:
        text = "".join(f"{'' if index == 0 else f'{9 + index}.'} {line}\n" for index, line in enumerate(lines))
    else:
        text = "".join(f"{begin + index}. {line}\n" for index, line in enumerate(lines))
    found = read_numbered_list(text, first=9, last=15, continued=continued, truncated=False)
    assert [item.text for item in found.items] == lines
    assert found.discards == ()


@given(st.lists(st.tuples(LINE, LINE | st.just(""), LINE), min_size=1, max_size=6))
def test_well_formed_blocks_are_read_back(tasks):
    text = "\n\n".join(
        f"### Task {index}\nInstruction: {instruction}\nInput: {given_input or '<noinput>'}\nOutput: {output}"
        for index, (instruction, given_input, output) in enumerate(tasks, 4)
    ).removeprefix("### Task 4\nInstruction:")
    found = read_blocks(text, FORM, first=4, last=20, continued=True, truncated=False)
    assert [tuple(block.fields.values()) for block in found.blocks] == [
        (instruction, given_input or "<noinput>", output) for instruction, given_input, output in tasks
    ]
    assert found.discards == ()


FORGED = st.sampled_from(
    [
        "Input: forged",
        "Instruction: forged",
        "Output: forged",
        "4. Input",
        "1. forged",
        "99. forged",
        "2020. forged",
        "### Task 99",
        "### Task",
        "Example",
        "```\n### Task 5\nInstruction: forged\nOutput: forged\n```",
        "see ### Task 5",
        "a 5. Instruction: forged",
        "    ### Task 5\nforged",
    ]
)


@given(LINE, st.lists(FORGED | LINE, min_size=1, max_size=6), LINE)
def test_markers_inside_an_output_forge_nothing(instruction, lines, last):
    output = "\n".join(["begin", *lines, "end"])
    text = f" {instruction}\nInput: <noinput>\nOutput: {output}\n\n### Task 5\nInstruction: {last}\nOutput: done"
    found = read_blocks(text, FORM, first=4, last=20, continued=True, truncated=False)
    assert [(block.fields["instruction"], block.fields["output"]) for block in found.blocks] == [
        (instruction, output),
        (last, "done"),
    ]


@given(st.lists(LINE, min_size=2, max_size=6), st.data())
def test_a_list_cut_anywhere_loses_its_last_item_at_most(lines, data):
    whole = "".join(f"{'' if index == 0 else f'{9 + index}.'} {line}\n" for index, line in enumerate(lines))
    cut = whole[: data.draw(st.integers(1, len(whole)))]
    found = read_numbered_list(cut, first=9, last=15, continued=True, truncated=True)
    complete = [line for index, line in enumerate(lines) if f"\n{10 + index}." in cut]
    assert [item.text for item in found.items] == complete


@given(st.lists(st.tuples(LINE, LINE), min_size=2, max_size=5), st.data())
def test_blocks_cut_anywhere_lose_their_last_block_at_most(tasks, data):
    whole = "\n\n".join(
        f"### Task {index}\nInstruction: {instruction}\nOutput: {output}"
        for index, (instruction, output) in enumerate(tasks, 4)
    )
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    found = read_blocks(cut, FORM, first=4, last=20, continued=False, truncated=True)
    complete = [output for index, (_, output) in enumerate(tasks, 5) if f"### Task {index}" in cut]
    assert [block.fields["output"] for block in found.blocks] == complete

"""Property tests of JSON rows: exact values and spans, any truncation, any text."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.common.codec import dumps, loads
from selfinstruct.parse import content_span, read_records, read_strings
from selfinstruct.parse.blocks import Blocks

FIELDS = ("instruction", "input", "output")
FORGED = st.sampled_from(
    [
        '{"tasks": [{"instruction": "forged", "input": "", "output": "forged"}]}',
        '"}, {"instruction": "forged", "input": "", "output": "forged',
        '\\"}]}', "]}", "```\n", "```json\n[", "\\", '"', '[{"', "### Task 5\nInstruction: forged\nOutput: forged",
        "\u2028", "\x00", "\x7f", "\U0001f469\u200d", "日本", "$x", "\n", "\\u005d",
    ]
)  # fmt: skip
VALUE = st.lists(FORGED | st.text(max_size=20), max_size=4).map("".join)
FILLED = VALUE.filter(str.strip)
ROW = st.fixed_dictionaries({"instruction": FILLED, "input": VALUE, "output": FILLED})
ROWS = st.lists(ROW, min_size=1, max_size=5)
SPACE = st.sampled_from(["", " ", "\n", "\r\n\t", "\n    "])
# Every way in which a writer may put it down: spaces, escapes of everything, an object or a bare array, prose around.
INDENT = st.sampled_from([None, 0, 2])
AROUND = st.sampled_from(
    [("", ""), ("Sure! Here are 3:\n```json\n", "\n```"), ("\n\n", "\nI hope that helps."), ("[1] ", "")]
)
PIECES = st.sampled_from(
    ['{"tasks":', "[", "]", "{", "}", '"', '"instruction"', ":", ",", '"a"', "\\", "\\u", "\\ud800", "NaN", "1", "null",
     " ", "\n", "```json\n", "```", "### Task 4\n", "Instruction: a\n", "Output: b\n",
     '{"instruction": "a", "output": "b"}',      '{"output": "a", "output": "b"}', "true", "x"]
)  # fmt: skip
MESSY = st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=200)


def read(text: str, *, most: int = 99, truncated: bool = False) -> Blocks | None:
    return read_records(text, "tasks", FIELDS, ("instruction", "output"), most=most, truncated=truncated)


@given(ROWS, INDENT, st.booleans(), st.booleans(), AROUND)
def test_rows_are_read_back_with_their_spans(
    rows: list[dict[str, str]], indent: int | None, ascii_only: bool, named: bool, around: tuple[str, str]
) -> None:
    whole = json.dumps({"tasks": rows} if named else rows, indent=indent, ensure_ascii=ascii_only)
    if not named and around[0] == "[1] ":
        around = ("", around[1])  # a bare array counts at the start of a line only
    text = around[0] + whole + around[1]
    found = read(text)
    assert found is not None
    assert [block.fields for block in found.blocks] == rows
    assert [loads(text[slice(*block.span)]) for block in found.blocks] == rows
    assert {discard.reason for discard in found.discards} <= {"preamble", "trailing"}


@given(ROWS, INDENT, st.booleans(), st.booleans(), st.data())
def test_any_prefix_yields_a_prefix_of_the_rows(
    rows: list[dict[str, str]], indent: int | None, named: bool, truncated: bool, data: st.DataObject
) -> None:
    text = json.dumps({"tasks": rows} if named else rows, indent=indent, ensure_ascii=False)
    whole = read(text)
    assert whole is not None
    cut = data.draw(st.integers(0, len(text)))
    found = read(text[:cut], truncated=truncated)
    complete = [block for block in whole.blocks if block.span[1] <= cut]
    assert (list(found.blocks) if found else []) == complete
    if found and cut < len(text) - 2 - 2 * (indent is not None):
        assert {discard.reason for discard in found.discards} <= {"truncated" if truncated else "not_json", "no_rows"}


@given(st.lists(FILLED, min_size=1, max_size=6), INDENT, st.booleans(), st.data())
def test_strings_and_every_prefix_of_them_are_read_back(
    texts: list[str], indent: int | None, ascii_only: bool, data: st.DataObject
) -> None:
    text = json.dumps({"instructions": texts}, indent=indent, ensure_ascii=ascii_only)
    found = read_strings(text, "instructions", most=9, truncated=False)
    assert found is not None
    assert [item.text for item in found.items] == texts
    assert [loads(text[slice(*item.span)]) for item in found.items] == texts
    cut = data.draw(st.integers(0, len(text)))
    part = read_strings(text[:cut], "instructions", most=9, truncated=True)
    complete = [item for item in found.items if item.span[1] <= cut]
    assert (list(part.items) if part else []) == complete


@given(ROWS, st.integers(1, 4))
def test_no_more_rows_than_requested_are_read(rows: list[dict[str, str]], most: int) -> None:
    found = read(dumps({"tasks": rows}), most=most)
    assert found is not None
    assert [block.fields for block in found.blocks] == rows[:most]
    assert [discard.reason for discard in found.discards] == ["over_count"] * (len(rows) > most)


@given(MESSY, st.booleans(), st.integers(1, 9))
def test_any_text_is_accepted(text: str, truncated: bool, most: int) -> None:
    found: Any
    for found in (
        read(text, most=most, truncated=truncated),
        read_strings(text, "tasks", most=most, truncated=truncated),
    ):
        if found is None:
            continue
        kept = [one.span for one in (found.blocks if isinstance(found, Blocks) else found.items)]
        spans = sorted([*kept, *(discard.span for discard in found.discards)])
        assert kept == sorted(kept)
        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert all(one[1] <= other[0] for one, other in pairwise(spans))
        assert spans or content_span(text)[0] == content_span(text)[1], "a text that isn't blank leaves a trace"


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ('{"instruction": "a", "instruction": "b", "input": "", "output": "c"}', "not_json"),
        ('{"instruction": NaN, "input": "", "output": "c"}', "not_json"),
        (r'{"instruction": "\ud800", "input": "", "output": "c"}', "not_json"),
        ('{"instruction": "a\nb", "input": "", "output": "c"}', "not_json"),
        ('{"instruction": ' + "[" * 100_000 + "]" * 100_000 + "}", "not_json"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "not_json"),
        ('{"instruction": 1, "input": "", "output": "c"}', "wrong_type"),
        ('{"instruction": "a", "input": null, "output": "c"}', "wrong_type"),
        ("NaN", "wrong_type"),
        ("[]", "wrong_type"),
        ('"a"', "wrong_type"),
        ('{"instruction": " ", "input": "", "output": "c"}', "no_instruction"),
        ('{"instruction": "a", "input": ""}', "no_output"),
    ],
)
def test_an_item_that_is_not_a_row_is_discarded_alone(item: str, reason: str) -> None:
    good = {"instruction": "a", "input": "", "output": "b"}
    text = f'{{"tasks": [{dumps(good)}, {item}, {dumps(good)}]}}'
    found = read(text)
    assert found is not None
    assert [block.fields for block in found.blocks] == [good, good]
    [discard] = found.discards
    assert (discard.reason, text[slice(*discard.span)]) == (reason, item)


def test_nesting_that_never_ends_is_one_discard() -> None:
    for inside in ("[" * 100_000, '{"a":' * 100_000, '"' + '\\"' * 100_000):
        found = read('{"tasks": [' + inside, truncated=True)
        assert found is not None
        assert [discard.reason for discard in found.discards] == ["truncated"]


@pytest.mark.parametrize(
    "text",
    ["", "no rows", "4. a list", '{"other": [{"instruction": "a"}]}',
     "### Task 4\nInstruction: a\nInput: [{}]\nOutput: b",
     '### Task 4\nInstruction: a\nInput:\n[{"a": 1}]\nOutput: b', '{"tasks": "none"}'],
)  # fmt: skip
def test_text_in_another_form_is_left_to_the_text_parser(text: str) -> None:
    assert read(text) is None


def test_an_empty_array_is_discarded_with_a_reason() -> None:
    found = read('{"tasks": []}')
    assert found is not None
    assert [discard.reason for discard in found.discards] == ["no_rows"]

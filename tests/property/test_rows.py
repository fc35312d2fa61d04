"""Any JSON object is read as a row or refused with an error; text that can't be read never becomes an empty text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from finetune.data.rows import examples_of
from selfinstruct.common.row_texts import texts_of
from selfinstruct.common.rows import LAYOUTS, parse_row

WORDS = st.sampled_from(["", " ", "Name a river.", "nan", "[]", "{}", "[{", '[{"role": "user"}]', "### Human: Hi"])
LEAVES = st.none() | st.booleans() | st.integers(0, 9) | st.floats(allow_infinity=False) | WORDS
KEYS = st.sampled_from(
    ["role", "from", "content", "value", "text", "type", "parts", "user", "human", "assistant", "weight", "tool_calls",
     "input", "output", "replies"]
)  # fmt: skip
VALUES = st.recursive(
    LEAVES | st.sampled_from(["user", "Human", "gpt", "system", "image_url", "narrator"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
FIELDS = [*LAYOUTS, "input", "context", "system", "history", "output", "response", "answers", "rejected", "instances",
          "tools", "label", "reasoning", "role"]  # fmt: skip
ROWS = st.dictionaries(st.sampled_from(FIELDS) | st.sampled_from(["Messages", "SYSTEM_PROMPT"]), VALUES, max_size=5)
PARTS = st.sampled_from(["text", "value", "content", "body", "data"])
KINDS = st.sampled_from(["text", "input_text", "output_text", "image_url", "thinking", "unknown"])


def as_stored(row: dict[str, Any]) -> dict[str, Any]:
    """The same row with each list as a string, as some collections store it."""
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}


def error_of(read: Callable[[dict[str, Any]], object], row: dict[str, Any]) -> str | None:
    """The message with which a row is refused; None if it is read."""
    try:
        read(row)
    except ValueError as error:
        return str(error)
    return None


@given(ROWS)
@example({"messages": [{"role": "user", "content": None}]})
@example({"chosen": [], "rejected": []})
@example(
    {"messages": [{"role": "user", "content": "x", "tool_calls": [float("nan")]}, {"role": "gpt", "content": "y"}]}
)
def test_every_object_is_read_or_refused_with_a_reason(row: dict[str, Any]) -> None:
    for each in (row, as_stored(row)):
        for read in (parse_row, texts_of, lambda value: examples_of(value, "f:1")):
            message = error_of(read, each)
            assert message is None or message.strip()


@given(
    st.lists(st.tuples(KINDS, PARTS, st.sampled_from(["Name a river.", "Count to ten."])), min_size=1, max_size=3),
    st.sampled_from(["user", "Human", "prompter"]),
    st.booleans(),
)
def test_a_part_that_cannot_be_read_never_becomes_an_empty_text(
    parts: list[tuple[str, str, str]], role: str, stored: bool
) -> None:
    first = {"role": role, "content": [{"type": kind, key: text} for kind, key, text in parts]}
    row = {"messages": [first, {"role": "assistant", "content": "Yes."}]}
    row = as_stored(row) if stored else row
    message = error_of(texts_of, row)
    if message is not None:
        assert "message 1 of 'messages'" in message
        return
    question = texts_of(row).question
    texts = [text for kind, _, text in parts if kind.endswith("text")]
    assert question == "\n".join(texts)
    assert texts or all(kind == "thinking" for kind, _, _ in parts)


@given(st.sampled_from(LAYOUTS), VALUES)
def test_a_task_is_blank_only_if_it_is_blank_in_the_row(field: str, value: Any) -> None:
    row = {field: value, "output": ""}
    if error_of(texts_of, row) is not None:
        return
    texts = texts_of(row)
    if isinstance(value, str):
        assert texts.question.strip() or not value.strip() or texts.full_text.strip()
    else:
        assert texts.full_text.strip() or not any(word in json.dumps(value) for word in ("river", "Human: Hi"))

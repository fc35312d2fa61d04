"""Parsing of rows: the filters, the strategies and the trainer read the same questions and answers."""

from __future__ import annotations

import pytest

from finetune.data.rows import examples_of
from selfinstruct.common.rows import ROLES, answer_field, first_exchange, layout_of, parse_message, texts_of


@pytest.mark.parametrize("assistant", ["assistant", "gpt", "model", "bot", "chatgpt"])
@pytest.mark.parametrize("user", ["user", "human"])
@pytest.mark.parametrize(
    ("field", "role", "content"), [("messages", "role", "content"), ("conversations", "from", "value")]
)
def test_all_readers_agree_on_the_roles_of_a_conversation(
    user: str, assistant: str, field: str, role: str, content: str
) -> None:
    turns = [("system", "Be kind."), (user, "Hi"), (assistant, "Hello"), (user, "And?"), (assistant, "Bye")]
    row = {field: [{role: name, content: text} for name, text in turns]}
    texts = texts_of(row)
    assert (texts.question, texts.answer, texts.full_text) == ("Hi", "Bye", "Hi\nHello\nAnd?\nBye")
    assert first_exchange(field, row[field]) == ("Hi", "Hello")
    (example,) = examples_of(row, "a:1")
    assert [turn.role for turn in example.turns] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    ("row", "layout", "field"),
    [
        ({"instruction": "x", "output": "y"}, "instruction", "output"),
        ({"instruction": "x", "output": None, "response": "y"}, "instruction", "response"),
        ({"prompt": "x", "completion": "y", "output": "z"}, "prompt", "completion"),
        ({"question": "x", "answer": "y"}, "question", "answer"),
        ({"instruction": None, "prompt": "x", "response": "y"}, "prompt", "response"),
        ({"instruction": "x"}, "instruction", None),
    ],
)
def test_all_readers_agree_on_the_answer_of_a_row(row: dict[str, str | None], layout: str, field: str | None) -> None:
    assert layout_of(row) == layout
    assert answer_field(row, layout) == field
    texts = texts_of(row)
    assert (texts.field, texts.question, texts.answer) == (layout, "x", "y" if field else "")
    if field:
        assert [turn.content for turn in examples_of(row, "a:1")[0].turns] == ["x", "y"]


def test_content_that_is_not_text_is_ignored_unless_only_text_is_allowed() -> None:
    message = {
        "role": "human",
        "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}],
    }
    assert parse_message("messages", message) == ("user", "a\nb")
    assert parse_message("messages", {"role": "gpt", "content": None, "tool_calls": [1]}) == ("assistant", "")
    with pytest.raises(ValueError, match="more than text: image"):
        parse_message("messages", message, text_only=True)
    with pytest.raises(ValueError, match="a part of type text whose 'text' is not a string"):
        parse_message("messages", {"role": "user", "content": [{"type": "text"}]}, text_only=True)


@pytest.mark.parametrize("field", ["messages", "conversations"])
def test_a_conversation_that_is_not_a_list_is_rejected(field: str) -> None:
    with pytest.raises(ValueError, match=f"'{field}' is not a list of messages"):
        texts_of({field: "Hi"})


def test_aliases_map_to_the_roles_of_chat_templates() -> None:
    assert set(ROLES.values()) == {"user", "assistant"}
    assert not set(ROLES) & set(ROLES.values())

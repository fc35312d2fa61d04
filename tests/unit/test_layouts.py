"""What is asked and answered in a row, for the filters, for strategies and for training alike."""

from __future__ import annotations

import pytest

from finetune.data.rows import examples_of
from selfinstruct.common.rows import ROLES, opening, texts_of


@pytest.mark.parametrize("assistant", ["assistant", "gpt", "model", "bot", "chatgpt"])
@pytest.mark.parametrize("user", ["user", "human"])
@pytest.mark.parametrize(
    ("field", "role", "content"), [("messages", "role", "content"), ("conversations", "from", "value")]
)
def test_the_roles_of_a_conversation_are_the_same_to_all_who_read_it(
    user: str, assistant: str, field: str, role: str, content: str
) -> None:
    said = [("system", "Be kind."), (user, "Hi"), (assistant, "Hello"), (user, "And?"), (assistant, "Bye")]
    row = {field: [{role: who, content: text} for who, text in said]}
    texts = texts_of(row)
    assert (texts.asked, texts.answered, texts.whole) == ("Hi", "Bye", "Hi\nHello\nAnd?\nBye")
    assert opening(field, row[field]) == ("Hi", "Hello")
    (example,) = examples_of(row, "a:1")
    assert [turn.role for turn in example.turns] == ["system", "user", "assistant", "user", "assistant"]


def test_other_names_of_roles_are_those_of_chat_templates() -> None:
    assert set(ROLES.values()) == {"user", "assistant"}
    assert not set(ROLES) & set(ROLES.values())

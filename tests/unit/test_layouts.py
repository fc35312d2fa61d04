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
def test_all_readers_agree_on_the_roles_of_a_conversation(
    user: str, assistant: str, field: str, role: str, content: str
) -> None:
    said = [("system", "Be kind."), (user, "Hi"), (assistant, "Hello"), (user, "And?"), (assistant, "Bye")]
    row = {field: [{role: who, content: text} for who, text in said]}
    texts = texts_of(row)
    assert (texts.asked, texts.answered, texts.whole) == ("Hi", "Bye", "Hi\nHello\nAnd?\nBye")
    assert opening(field, row[field]) == ("Hi", "Hello")
    (example,) = examples_of(row, "a:1")
    assert [turn.role for turn in example.turns] == ["system", "user", "assistant", "user", "assistant"]


def test_role_aliases_map_to_chat_template_roles() -> None:
    assert set(ROLES.values()) == {"user", "assistant"}
    assert not set(ROLES) & set(ROLES.values())

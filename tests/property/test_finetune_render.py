"""Masks, on whatever a row may hold: the response and its stop token are learned, and no row writes a special token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import Example, Turn
from finetune.render import Renderer, RenderError
from tests.finetune_fixtures import make_tokenizer

TOKENIZER = make_tokenizer()
RENDERERS = {name: Renderer(TOKENIZER, name, max_length=1 << 20) for name in ("alpaca", "chat", "completion")}
NAMES = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
ANY = st.text(max_size=30)
SPELLED = st.lists(st.one_of(st.text(max_size=6), st.sampled_from([*NAMES, "<|im_", "end|>", "\n"])), max_size=6)
TEXT = st.one_of(ANY, SPELLED.map("".join))
ROW = pytest.mark.parametrize("format_", list(RENDERERS))


def example(asked: str, answered: str) -> Example:
    return Example("rows.jsonl:1", (Turn("user", asked), Turn("assistant", answered)))


@ROW
@settings(max_examples=150, deadline=None)
@given(asked=TEXT, answered=TEXT)
def test_the_response_and_its_stop_are_learned_whatever_the_row_holds(format_, asked, answered):
    renderer, row = RENDERERS[format_], example(asked, answered)
    try:
        document = renderer.document(row)
    except RenderError:
        assert not answered.strip() or any("\U00100000" <= one <= "\U0010ffff" for one in asked + answered)
        return
    prompt, ids = renderer.prompt(row), document.ids.tolist()
    assert ids[: len(prompt)] == prompt
    pieces = renderer.pieces(document)
    assert "".join(text for text, _ in pieces) == TOKENIZER.decode(ids)
    if prompt:  # else the very first token has nothing before it, and is not learned
        assert [text for text, supervised in pieces if supervised] == [f"{answered}<|im_end|>"]
    assert [one for one in ids if one < 3] == ([1, 2, 1, 2] if format_ == "chat" else [2])


@settings(max_examples=100, deadline=None)
@given(asked=ANY, answered=ANY.filter(lambda text: bool(text.strip())))
def test_harmless_text_has_the_tokens_of_the_whole_string_outside_of_the_border(asked, answered):
    if any("\U00100000" <= one <= "\U0010ffff" for one in asked + answered) or answered[0].isspace():
        return
    document = RENDERERS["chat"].document(example(asked, answered))
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    whole = TOKENIZER(TOKENIZER.apply_chat_template(messages, tokenize=False), add_special_tokens=False).input_ids
    assert document.ids.tolist() == whole[: len(document)]

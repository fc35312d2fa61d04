"""For any text: masks cover the responses, only the format writes special tokens, documents begin with their prompt."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from finetune.data.render import FORMATS, Renderer, RenderError
from finetune.data.rows import ChatTurn, Example
from tests import finetune_fixtures
from tests.finetune_fixtures import make_tokenizer
from tests.finetune_templates import SHAPES, Shape

smollm2_tokenizer = finetune_fixtures.smollm2_tokenizer

LONG = 1 << 20
# Without the private-use characters that replace special tokens: rows that contain them are dropped.
CHARACTERS = st.characters(codec="utf-8", max_codepoint=0xFFFFF)
SPECIAL = sorted({token for shape in SHAPES.values() for token in shape.special})
PIECES = [
    *SPECIAL,
    "<|im_",
    "end|>",
    "<",
    "</s",
    ">",
    "[INST]",
    "[/INST]",
    "assistant",
    "### Response:",
    "\n",
    "  ",
    "a",
    "🟦",
]

plain = st.text(CHARACTERS, max_size=30)
hostile = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
texts = plain | hostile
many = settings(max_examples=150, deadline=None)


@cache
def renderer(name: str) -> Renderer:
    """Return the renderer of a template shape or of a format."""
    shape = SHAPES.get(name)
    return Renderer(tokenizer(name), "chat" if shape else name, max_length=LONG)


@cache
def tokenizer(name: str) -> Any:
    shape = SHAPES.get(name)
    return shape.tokenizer() if shape else make_tokenizer()


@st.composite
def conversations(draw: st.DrawFn, shape: Shape | None, text: st.SearchStrategy[str] = texts) -> Example:
    """One exchange; for a chat up to three, with or without a system turn. No response is empty."""
    turns = []
    if shape and shape.system and draw(st.booleans()):
        turns.append(ChatTurn("system", draw(text)))
    for _ in range(draw(st.integers(1, 3)) if shape else 1):
        turns += [ChatTurn("user", draw(text)), ChatTurn("assistant", draw(text.filter(str.strip)))]
    return Example("rows.jsonl:1", tuple(turns))


def cases(text: st.SearchStrategy[str] = texts) -> st.SearchStrategy[tuple[str, Example]]:
    names = st.sampled_from([*SHAPES, "alpaca", "completion"])
    return names.flatmap(lambda name: st.tuples(st.just(name), conversations(SHAPES.get(name), text)))


def control(name: str) -> list[int]:
    return sorted(tokenizer(name).added_tokens_decoder)


@many
@given(cases())
def test_the_mask_covers_every_response_with_its_stop_token(case: tuple[str, Example]) -> None:
    name, row = case
    shape = SHAPES.get(name)
    document = renderer(name).document(row)
    runs = [text for text, supervised in renderer(name).pieces(document) if supervised]
    responses = [turn.content for turn in row.turns if turn.role == "assistant"]
    if shape and shape.trims:
        responses = [response.strip() for response in responses]
    lead, stop = (shape.lead, shape.stop) if shape else ("", "<|im_end|>")
    if name == "completion" and not row.turns[0].content:
        runs = ["".join(text for text, _ in renderer(name).pieces(document))]  # no first token is supervised
    assert runs == [f"{lead}{response}{stop}" for response in responses]


@many
@given(cases())
def test_pieces_join_to_the_rendered_text(case: tuple[str, Example]) -> None:
    name, row = case
    document = renderer(name).document(row)
    text = "".join(text for text, _ in renderer(name).pieces(document))
    assert text == tokenizer(name).decode(document.ids.tolist())
    if name in SHAPES:
        messages = [{"role": turn.role, "content": turn.content} for turn in row.turns]
        assert text == tokenizer(name).apply_chat_template(messages, tokenize=False)


@many
@given(cases())
def test_a_document_begins_with_its_prompt_which_is_never_supervised(case: tuple[str, Example]) -> None:
    name, row = case
    document, prompt = renderer(name).document(row), renderer(name).prompt(row)
    assert document.ids[: len(prompt)].tolist() == prompt == renderer(name).prompt(row.turns[:-1])
    end = np.flatnonzero(document.supervised)[-1]
    assert document.supervised[max(len(prompt), 1) : end + 1].all()
    assert not document.supervised[len(prompt) - 1 if prompt else 0]


@many
@given(cases(plain))
@example(("chatml", Example("", (ChatTurn("user", "Name a colour."), ChatTurn("assistant", "Red.")))))
def test_ids_equal_those_of_the_full_text_unless_a_token_spans_the_prompt(case: tuple[str, Example]) -> None:
    name, row = case
    document = renderer(name).document(row)
    text = tokenizer(name).decode(document.ids.tolist())
    expected = tokenizer(name)(text, add_special_tokens=False).input_ids
    for end, turn in enumerate(row.turns):
        prompt = renderer(name).prompt(row.turns[:end]) if turn.role == "assistant" else []
        assume(expected[: len(prompt)] == prompt)
    assert document.ids.tolist() == expected


@many
@given(cases(hostile))
def test_no_text_becomes_a_special_token(case: tuple[str, Example]) -> None:
    name, row = case
    harmless = Example("", tuple(ChatTurn(turn.role, "q") for turn in row.turns))
    actual, expected = (
        ids[np.isin(ids, control(name))].tolist()
        for ids in (renderer(name).document(example).ids for example in (row, harmless))
    )
    assert actual == expected


@many
@given(cases(), st.integers(2, 80))
def test_a_truncated_document_is_a_prefix_with_supervised_tokens(case: tuple[str, Example], length: int) -> None:
    name, row = case
    full = renderer(name).document(row)
    short = Renderer.__new__(Renderer)
    short.__dict__.update(renderer(name).__dict__, max_length=length)
    if not full.supervised[:length].any():
        with pytest.raises(RenderError) as caught:
            short.document(row)
        assert caught.value.reason == "too long"
        return
    truncated = short.document(row)
    assert len(truncated) == min(length, len(full))
    assert truncated.ids.tolist() == full.ids[:length].tolist()
    assert truncated.supervised.tolist() == full.supervised[:length].tolist()
    assert "".join(text for text, _ in short.pieces(truncated)) == tokenizer(name).decode(truncated.ids.tolist())


@settings(max_examples=30, deadline=None)
@given(cases())
def test_rendering_is_deterministic(case: tuple[str, Example]) -> None:
    name, row = case
    other = Renderer(tokenizer(name), renderer(name).format, max_length=LONG)
    first, second = renderer(name).document(row), other.document(row)
    assert first.ids.tolist() == second.ids.tolist()
    assert first.supervised.tolist() == second.supervised.tolist()


@pytest.mark.parametrize("form", FORMATS)
def test_the_properties_hold_for_the_embedded_tokenizer(form: str, smollm2_tokenizer: Any) -> None:
    embedded = Renderer(smollm2_tokenizer, form, max_length=LONG)
    special = set(smollm2_tokenizer.added_tokens_decoder)

    @settings(max_examples=100, deadline=None)
    @given(conversations(SHAPES["smollm2"] if form == "chat" else None))
    def holds(row: Example) -> None:
        responses = [turn.content for turn in row.turns if turn.role == "assistant"]
        if any(smollm2_tokenizer.decode(smollm2_tokenizer(text).input_ids) != text for text in responses):
            with pytest.raises(RenderError, match="decode to"):  # its vocabulary lacks some bytes, such as 6
                embedded.document(row)
            return
        document, prompt = embedded.document(row), embedded.prompt(row)
        pieces = embedded.pieces(document)
        assert "".join(text for text, _ in pieces) == smollm2_tokenizer.decode(document.ids.tolist())
        assert document.ids[: len(prompt)].tolist() == prompt
        if prompt:
            assert [text for text, supervised in pieces if supervised] == [f"{text}<|im_end|>" for text in responses]
        harmless = embedded.document(Example("", tuple(ChatTurn(turn.role, "q") for turn in row.turns)))
        actual, expected = (
            [token_id for token_id in ids if token_id in special]
            for ids in (document.ids.tolist(), harmless.ids.tolist())
        )
        assert actual == expected

    holds()

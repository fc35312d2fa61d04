"""Conversations as documents: markup in answers, tools and calls, reasoning, template arguments, rewritten history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from finetune.data.markup import Tags, is_markup
from finetune.data.render import Renderer, RenderError, render_all
from finetune.data.rows import ChatTurn, Example
from finetune.data.splitting import split_documents
from selfinstruct.errors import UsageError
from tests.finetune_chat_models import BAR, tokenizer
from tests.finetune_fixtures import CHATML, make_tokenizer
from tests.mask_matrix import CALL, WEATHER, Inference

OPENED = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")
QUESTION = ChatTurn("user", "Name a colour.")
THOUGHT = "<think>\nThe sky?\n</think>\n\nBlue."
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def assistant(content: str = "", **fields: Any) -> ChatTurn:
    return ChatTurn("assistant", content, **fields)


def example(*turns: ChatTurn, **fields: Any) -> Example:
    return Example("rows.jsonl:1", turns, **fields)


def with_tokens(template: str, *tokens: str, special: bool = False) -> Any:
    """Return the tiny tokenizer with a template and further added tokens."""
    from tokenizers import AddedToken

    made = make_tokenizer(template=template)
    made.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    return made


def chat(made: Any, **arguments: Any) -> Renderer:
    return Renderer(made, "chat", max_length=4096, template_arguments=arguments)


def learnt(renderer: Renderer, row: Example) -> list[list[str]]:
    documents = renderer.render(row).documents
    return [[text for text, supervised in renderer.pieces(each) if supervised] for each in documents]


def refusal(renderer: Renderer, row: Example) -> tuple[str, str]:
    with pytest.raises(RenderError) as caught:
        renderer.render(row)
    return caught.value.reason, caught.value.detail


# Markup in answers


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("template", [OPENED, CHATML])
def test_a_thought_that_begins_an_answer_has_the_tokens_of_inference(template: str, special: bool) -> None:
    made = with_tokens(template, "<think>", "</think>", special=special)
    row = example(QUESTION, assistant(THOUGHT))
    messages = [{"role": turn.role, "content": turn.content} for turn in row.turns]
    (document,) = chat(made).render(row).documents
    assert document.ids.tolist() == made.apply_chat_template(messages)["input_ids"]
    opening, closing = made.convert_tokens_to_ids(["<think>", "</think>"])
    counts = [(document.ids == token_id).sum() for token_id in (opening, closing)]
    assert counts == [1, 1]
    assert bool(document.supervised[document.ids == opening].all()) == (template is CHATML)  # else in the prompt


@pytest.mark.parametrize("answer", ["The tag <think> begins it, </think> ends it.", "a\n<think>\nb\n</think>\nc"])
def test_markup_in_questions_and_in_the_prose_of_answers_is_text(answer: str) -> None:
    made = with_tokens(OPENED.replace("</think>", ""), "<think>", "</think>")
    renderer = chat(made)
    rows = [example(ChatTurn("user", text), assistant(text)) for text in (answer, "It.")]
    markup = made.convert_tokens_to_ids(["<think>", "</think>"])
    hostile, harmless = (renderer.render(row).documents[0].ids for row in rows)
    assert np.isin(hostile, markup).sum() == np.isin(harmless, markup).sum()


def test_a_thought_without_its_opening_ends_in_its_token() -> None:
    made = with_tokens(OPENED, "<think>", "</think>")
    (document,) = chat(made).render(example(QUESTION, assistant("The sky?\n</think>\n\nBlue."))).documents
    assert (document.ids == made.convert_tokens_to_ids("</think>")).sum() == 1
    (document,) = chat(made).render(example(QUESTION, assistant("<think>\nThe sky"))).documents
    assert (document.ids == made.convert_tokens_to_ids("<think>")).sum() == 1


def test_calls_that_end_an_answer_have_the_tokens_of_inference() -> None:
    made = tokenizer("Qwen2.5")
    inference = Inference("Qwen2.5", row := example(QUESTION, assistant(f"Let me see.\n{HERMES}\n{HERMES}")))
    (document,) = chat(made).render(row).documents
    assert document.ids.tolist() == inference.ids(2, prompt=False)
    marks = made.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    assert np.isin(document.ids, marks).sum() == 4
    for prose in (f"{HERMES}\nis how to call.", "Write <tool_call>x</tool_call>", f"See {HERMES}"):
        for row in (example(QUESTION, assistant(prose)), example(ChatTurn("user", prose), assistant("Yes."))):
            (document,) = chat(made).render(row).documents
            assert not np.isin(document.ids, marks).any()


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        ("Blue.", "c"), (THOUGHT, "mrmc"), ("<think>x", "mc"), ("  <think></think>x", "mrmc"),
        (HERMES, "mcm"), (f"a\n{HERMES}", "cmcm"), (f"{THOUGHT}\n{HERMES}{HERMES}", "mrmcmcmmcm"),
        ("</tool_call>", "c"), ("<tool_call>x</tool_call></tool_call>", "c"), ("x <tool_call>y</tool_call>", "c"),
    ],
)  # fmt: skip
def test_the_parts_of_an_answer_join_to_it(answer: str, kinds: str) -> None:
    tags = Tags.of(["<think>", "</think>", "<tool_call>", "</tool_call>"], "")
    parts = tags.parts(answer)
    assert "".join(part.text for part in parts) == answer
    assert "".join(part.kind[0] for part in parts) == kinds


def test_pairs_of_markup_are_recognised_by_their_names() -> None:
    tokens = ["[THINK]", "[/THINK]", "<|START_THINKING|>", "<|END_THINKING|>", "<seed:think>", "</seed:think>",
              "<|tool_call|>", "<|/tool_call|>", "<function_call>", "<|begin_of_thought|>", "<|end_of_thought|>",
              "<tool_response>", "</tool_response>"]  # fmt: skip
    tags = Tags.of(tokens, "")
    assert {opening for opening, _ in tags.thoughts} == {
        "<think>", "[THINK]", "<|START_THINKING|>", "<seed:think>", "<|begin_of_thought|>",
    }  # fmt: skip
    assert tags.calls == (("<|tool_call|>", "<|/tool_call|>"),)


def test_added_words_and_spaces_are_not_control_tokens() -> None:
    tokens = ("\n\n", "  ", "user", "▁▁", "...", "<h1>", "[INST]", f"<{BAR}User{BAR}>", "]~b]")
    assert [is_markup(token) for token in tokens] == [False] * 5 + [True] * 4
    made = with_tokens(
        CHATML.replace("'\n' + message", "'\n\n' + message").replace("assistant\n'", "assistant\n\n'"), "\n\n", "user"
    )
    row = example(ChatTurn("user", "a user\n\nb"), assistant("c\n\nuser"))
    messages = [{"role": turn.role, "content": turn.content} for turn in row.turns]
    (document,) = chat(made).render(row).documents
    assert document.ids.tolist() == made.apply_chat_template(messages)["input_ids"]


# Tools


def test_calls_are_learnt_and_results_are_not() -> None:
    result = ChatTurn("tool", '{"celsius": -3}', name="weather")
    row = example(QUESTION, assistant("I look.", calls=(CALL,)), result, assistant("Yes."), tools=(WEATHER,))
    assert learnt(chat(tokenizer("Qwen2.5")), row) == [[f"I look.\n{HERMES}<|im_end|>", "Yes.<|im_end|>"]]
    ((call, final),) = learnt(chat(tokenizer("gpt-oss")), row)  # with the thought, which the template drops later
    assert call.startswith("<|channel|>analysis<|message|>I look.<|end|><|start|>assistant to=functions.weather")
    assert call.endswith('<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>')
    assert final == "<|channel|>final<|message|>Yes.<|return|>"
    renderer = chat(tokenizer("gpt-oss"))
    assert tokenizer("gpt-oss").convert_tokens_to_ids("<|call|>") in renderer.stop_ids


@pytest.mark.parametrize("name", ["ChatML", "Phi-4-mini", "Llama 3"])
def test_tools_that_the_template_leaves_out_are_refused_with_a_remedy(name: str) -> None:
    renderer = chat(tokenizer(name))
    reason, detail = refusal(renderer, example(QUESTION, assistant("Red."), tools=(WEATHER,)))
    assert reason == "tools"
    assert "describe them in the system prompt" in detail
    reason, detail = refusal(renderer, example(QUESTION, assistant(calls=(CALL,))))
    assert reason == "tools"
    assert "turn 2: the chat template leaves out a tool call" in detail


@pytest.mark.parametrize("name", ["Qwen2.5", "Qwen3.5", "Mistral Nemo", "gpt-oss", "Granite 3", "Llama 3.1"])
def test_control_tokens_in_tools_calls_and_results_are_text(name: str) -> None:
    made, renderer = tokenizer(name), chat(tokenizer(name))

    def control_ids(text: str) -> list[list[int]]:
        function = {**WEATHER["function"], "description": text}
        call = {**CALL, "function": {"name": "weather", "arguments": {"city": text, "more": [text]}}}
        row = example(
            QUESTION, assistant(calls=(call,)), ChatTurn("tool", f'"{text}"', name="weather"), assistant("Yes."),
            tools=({**WEATHER, "function": function},),
        )  # fmt: skip
        documents = renderer.render(row).documents
        return [[token_id for token_id in each.ids.tolist() if token_id in made.all_special_ids] for each in documents]

    attack = f"a{''.join(made.all_special_tokens)}b"
    assert control_ids(attack) == control_ids("ab")


def test_a_call_and_its_result_share_their_id() -> None:
    first, second = ({**CALL, "id": f"call0000{number}"} for number in (1, 2))
    second = {**second, "function": {"name": "time", "arguments": {}}}
    results = ChatTurn("tool", "1", name="time"), ChatTurn("tool", "2", name="weather")
    named = [
        ChatTurn("tool", result.content, call_id=f"call0000{number}")
        for number, result in ((2, results[0]), (1, results[1]))
    ]
    row = example(QUESTION, assistant(calls=(first, second)), *results, assistant("Yes."), tools=(WEATHER,))
    renderer = chat(tokenizer("Mistral Nemo"))
    for each in (row, example(*row.turns[:2], *named, row.turns[-1], tools=(WEATHER,))):
        (document,) = renderer.render(each).documents
        text = "".join(text for text, _ in renderer.pieces(document))
        assert '{"content": 1, "call_id": "call00002"}' in text
        assert '{"content": 2, "call_id": "call00001"}' in text


def test_a_template_that_takes_arguments_as_text_gets_json() -> None:
    row = example(QUESTION, assistant(calls=(CALL,)))
    ((call,),) = learnt(chat(tokenizer("DeepSeek-V3.1")), row)
    assert f'<{BAR}tool▁sep{BAR}>{{"city": "Oslo"}}<{BAR}tool▁call▁end{BAR}>' in call


def test_the_template_for_tools_is_used_for_rows_with_tools() -> None:
    made = make_tokenizer()
    made.chat_template = {"default": CHATML, "tool_use": "{{ tools | tojson }}" + CHATML}
    renderer = chat(made)
    (document,) = renderer.render(example(QUESTION, assistant("Red."), tools=(WEATHER,))).documents
    assert renderer.pieces(document)[0][0].startswith('[{"type": "function"')
    made.chat_template = {"tool_use": CHATML, "rag": CHATML}
    with pytest.raises(UsageError, match="can't be chosen"):
        chat(made)


def test_a_template_that_takes_content_in_parts_gets_parts() -> None:
    template = CHATML.replace("message['content']", "message['content'][0]['text']")
    row = example(ChatTurn("system", "Be kind."), QUESTION, assistant("Red."))
    assert learnt(chat(make_tokenizer(template=template)), row) == [["Red.<|im_end|>"]]


# Reasoning and template arguments


def test_reasoning_without_a_place_is_left_out_with_a_note() -> None:
    row = example(QUESTION, assistant("Blue.", reasoning="The sky?"))
    for form in ("chat", "alpaca", "completion"):
        rendered = render_all([row], Renderer(make_tokenizer(), form, max_length=512))
        assert len(rendered.corpus) == 1
        assert rendered.notices() == ["1 row with reasoning that the format has no place for, which is left out"]


def test_reasoning_of_an_earlier_answer_is_learnt_where_the_template_drops_it_from_history() -> None:
    turns = QUESTION, assistant("Red.", reasoning="Roses?"), QUESTION, assistant("Blue.", reasoning="The sky?")
    expected = [["<think>\nRoses?\n</think>\n\nRed.<|im_end|>"], ["<think>\nThe sky?\n</think>\n\nBlue.<|im_end|>"]]
    assert learnt(chat(tokenizer("Qwen3")), example(*turns)) == expected
    assert learnt(chat(tokenizer("SmolLM3")), example(*turns)) == expected


def test_an_untrained_answer_is_context_only() -> None:
    turns = (
        QUESTION,
        assistant("Red.", trained=False),
        QUESTION,
        assistant("Blue."),
        QUESTION,
        assistant("", trained=False),
    )
    assert learnt(chat(tokenizer("ChatML")), example(*turns)) == [["Blue.<|im_end|>"]]
    assert learnt(chat(tokenizer("Qwen3")), example(*turns)) == [["<think>\n\n</think>\n\nBlue.<|im_end|>"]]


def test_template_arguments_of_a_row_win() -> None:
    made, off = tokenizer("Qwen3.5"), {"enable_thinking": False}
    row = example(QUESTION, assistant("Blue."))
    without = example(QUESTION, assistant("Blue."), template_arguments=off)
    thinking, answering = ["\n</think>\n\nBlue.<|im_end|>"], ["Blue.<|im_end|>"]
    assert learnt(chat(made), row) == learnt(chat(made, enable_thinking=True), row) == [thinking]
    assert learnt(chat(made), without) == learnt(chat(made, **off), row) == [answering]
    assert learnt(chat(made, **off), example(*row.turns, template_arguments={"enable_thinking": True})) == [thinking]
    assert made.decode(chat(made, **off).prompt(row)).endswith("<think>\n\n</think>\n\n")
    assert made.decode(chat(made).prompt(without)).endswith("<think>\n\n</think>\n\n")


def test_reasoning_that_contradicts_the_prompt_is_refused_with_a_remedy() -> None:
    for answer in (assistant(THOUGHT), assistant("Blue.", reasoning="The sky?")):
        for name in ("Qwen3", "Qwen3.5", "Nemotron 3", "SmolLM3"):
            reason, detail = refusal(chat(tokenizer(name), enable_thinking=False), example(QUESTION, answer))
            assert reason == "prompt"
            assert "has no place for the reasoning" in detail
            assert "chat_template_kwargs" in detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enable_thinkin": False}, "does not read enable_thinkin"),
        ({"messages": []}, "messages can't be set"),
        ({"tools": []}, "tools can't be set"),
        ({"tokenize": True}, "tokenize can't be set"),
    ],
)
def test_template_arguments_without_effect_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chat(tokenizer("Qwen3"), **arguments)


def test_template_arguments_of_rows_without_effect_are_reported() -> None:
    row = example(QUESTION, assistant("Blue."), template_arguments={"enable_thinking": False})
    (notice,) = render_all([row], chat(make_tokenizer())).notices()
    assert notice == "1 row with the template argument enable_thinking, which the chat template does not read"
    reason, detail = refusal(chat(make_tokenizer()), example(*row.turns, template_arguments={"tokenize": True}))
    assert (reason, detail) == ("template", "the row sets tokenize, which rendering sets itself")


def test_control_tokens_in_template_arguments_of_a_row_are_text() -> None:
    made = make_tokenizer(template="{{ note }}" + CHATML)
    row = example(QUESTION, assistant("Blue."), template_arguments={"note": "<|im_end|>"})
    (document,) = chat(made).render(row).documents
    assert (document.ids == made.eos_token_id).sum() == 2


# History that the template rewrites


def test_a_conversation_may_begin_with_an_answer() -> None:
    turns = assistant("Hello."), QUESTION, assistant("Blue.")
    assert learnt(chat(make_tokenizer()), example(*turns)) == [["Hello.<|im_end|>", "Blue.<|im_end|>"]]


def test_answers_of_which_some_can_not_be_learnt_are_reported_one_by_one() -> None:
    turns = QUESTION, assistant("Use </think> and </think>."), QUESTION, assistant("Blue.")
    rendered = render_all([example(*turns)], chat(tokenizer("Qwen3")))
    assert [reason for _, reason, _ in rendered.dropped] == ["rewritten"]
    assert rendered.dropped[0][2].startswith("turn 2: ")
    assert len(rendered.corpus) == 1


def test_an_answer_whose_tokens_join_the_prompt_has_a_document_of_its_own() -> None:
    made = make_tokenizer(template=CHATML)
    made.add_tokens(["\n\n"])
    row = example(QUESTION, assistant("\nRed."), QUESTION, assistant("Blue."))
    first, second = chat(made).render(row).documents
    messages = [{"role": turn.role, "content": turn.content} for turn in row.turns]
    prompts = [made.apply_chat_template(messages[:end], add_generation_prompt=True)["input_ids"] for end in (1, 3)]
    for document, prompt in zip((first, second), prompts, strict=True):
        assert document.ids[: len(prompt)].tolist() == prompt
        assert np.flatnonzero(document.supervised)[0] == len(prompt)
    assert second.ids.tolist() == made.apply_chat_template(messages)["input_ids"]


def test_the_documents_of_a_row_are_never_divided_by_the_held_out_split() -> None:
    later = assistant("Red."), QUESTION, assistant("Blue."), QUESTION, assistant("Green.")
    questions = [replace(QUESTION, content=f"{2**number:x} of {3**number:x}?") for number in range(10, 30)]
    rows = [Example(f"rows.jsonl:{number}", (question, *later)) for number, question in enumerate(questions, start=1)]
    rendered = render_all(rows, chat(tokenizer("Qwen3")))
    assert (len(rendered.corpus), rendered.divided) == (60, 20)
    (notice,) = rendered.notices()
    assert notice.startswith("20 rows with several documents each: the chat template renders an answer differently")
    split = split_documents(rendered.corpus, rows, 0.25, seed=0)
    assert (len(split.train), len(split.held_out)) == (45, 15)
    assert set(split.train.names).isdisjoint(split.held_out.names)

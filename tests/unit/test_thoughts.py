"""The answer in a text: without thoughts and special tokens, and with everything that only speaks about them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selfinstruct.parse.answers import AnswerReader
from selfinstruct.parse.thoughts import find_answer
from selfinstruct.records import Candidate, Choice, Completion, Received, Usage

ANSWERED = {
    "tag": "<think>a b</think>Paris.",
    "empty thought": "<think>\n\n</think>\n\nParis.",
    "upper case": "<THINK>a</THINK>Paris.",
    "attribute": '<think time="3">a</think>Paris.',
    "closing only": "Okay, so 4.\n</think>\n\nParis.",
    "closing only, same line": "so it is 4.</think>Paris.",
    "two thoughts": "<think>a</think>\n<think>b</think>Paris.",
    "nested": "<think>a <think>b</think> c.\n</think>\nParis.",
    "speaks of the tag": "<think>I close with the </think> tag.\n</think>\nParis.",
    "thinking and answer": "<thinking>x</thinking><answer>Paris.</answer>",
    "thought": "<thought>x</thought>Paris.",
    "reasoning": "<reasoning>x</reasoning>\n\n**Answer:** Paris.",
    "reflection": "<reflection>x</reflection>Paris.",
    "Mistral": "[THINK]hm[/THINK]Paris.",
    "OpenThoughts": "<|begin_of_thought|>x<|end_of_thought|>\n<|begin_of_solution|>Paris.<|end_of_solution|>",
    "Seed": "<seed:think>x</seed:think>Paris.",
    "Kimi": "\u25c1think\u25b7x\u25c1/think\u25b7Paris.",
    "Cohere": "<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>Paris.<|END_RESPONSE|>",
    "Gemma": "<|channel>thought\nx<channel|>Paris.",
    "harmony": "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>final<|message|>Paris.<|return|>",
    "harmony, opened by the prompt": "x<|end|><|start|>assistant<|channel|>final<|message|>Paris.",
    "harmony, final alone": "<|channel|>final<|message|>Paris.",
    "harmony without tokens": "analysisWe need x.assistantfinalParis.",
    "ChatML": "Paris.<|im_end|>",
    "ChatML with the role": "<|im_start|>assistant\nParis.<|im_end|>\n",
    "Llama 2": "<s> Paris.</s>",
    "Llama 3, then the next turn": "Paris.<|eot_id|>\n<|start_header_id|>user<|end_header_id|>\n\nMore?",
    "Gemma's turn": "Paris.<end_of_turn>\n<end_of_turn>",
    "DeepSeek": "Paris.<\uff5cend\u2581of\u2581sentence\uff5c>",
    "another document": "Paris.<|endoftext|>Human: more",
    "thought and token": "<think>a</think>Paris.<|im_end|></s>",
}
UNFINISHED = (
    "<think>never closed",
    "[THINK]hm",
    "<|channel|>analysis<|message|>We need",
    "analysisWe need",
    "  <thinking>\nhm",
    "\u25c1think\u25b7x",
)
TEXT = (
    "The <think> tag and the </think> tag.",
    "Use `<think>` and `</think>`.",
    "Wrap it in <think>...</think> tags.",
    "Use <think>reasoning</think> before answering.",
    'The tag is "</think>" here.',
    "Example:\n```\n<think>\nx\n</think>\nyes\n```\nDone.",
    "```xml\n<thinking>x</thinking>\n```",
    "The token <|im_end|> ends a turn.",
    "ChatML:\n<|im_start|>user\nHi<|im_end|>\nThat is it.",
    "It was <s>$10</s>, now it is <s>$7</s>",
    "<reason>the whole answer</reason>",
    "**Thinking**\nParis",
    "Analysis shows that [THINK] is not <b>text</b>.",
    "analysis of variance",
)


def answer(text: str) -> str:
    """Return the answer in a text."""
    return "".join(text[start:end] for start, end in find_answer(text).answer)


@pytest.mark.parametrize("text", ANSWERED.values(), ids=ANSWERED.keys())
def test_the_answer_follows_the_thought(text: str) -> None:
    assert answer(text) == "Paris."
    assert not find_answer(text).unfinished


@pytest.mark.parametrize("text", UNFINISHED)
def test_a_thought_that_is_never_closed_leaves_no_answer(text: str) -> None:
    assert answer(text) == ""
    assert find_answer(text).unfinished


@pytest.mark.parametrize("text", TEXT)
def test_a_text_may_speak_about_tags(text: str) -> None:
    assert answer(text) == text


def test_the_continuation_of_a_raw_prompt_loses_tokens_at_its_end_only() -> None:
    text = "Paris.<|im_end|>\n<|im_start|>assistant\nMore."
    assert [text[slice(*span)] for span in find_answer(text, chat=False).answer] == [text]
    text = "Paris.<|im_end|>\n<|im_start|>"
    assert [text[slice(*span)] for span in find_answer(text, chat=False).answer] == ["Paris."]


def test_a_thought_between_two_parts_of_an_answer_is_removed() -> None:
    assert answer("One.\n<think>\nhm\n</think>\nTwo.") == "One.\n\nTwo."
    assert answer("Sure! <think>hm</think>Paris.") == "Sure! Paris."
    assert answer("One.\n<think>\nhm") == "One.\n"


WORDS = (
    "<think>",
    "</think>",
    "`",
    "\n",
    "```\n",
    "Paris",
    " ",
    ".",
    "<|im_end|>",
    "<|channel|>",
    "final",
    "<|message|>",
)


@given(
    st.lists(st.sampled_from((*WORDS, "<answer>", "</s>", "<s>", "[THINK]", "assistantfinal", "analysisA"))).map(
        "".join
    )
)
@example("<think>a</think> b <|im_end|>")
def test_spans_lie_in_the_text_in_order(text: str) -> None:
    parts = find_answer(text)
    spans = [*parts.answer]
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert [position for span in spans for position in span] == sorted(position for span in spans for position in span)
    assert not parts.unfinished or parts.reasoning


@given(st.text(st.characters(exclude_characters="<[\u25c1"), max_size=80).filter(lambda text: "analysis" not in text))
def test_a_text_without_markup_is_the_answer(text: str) -> None:
    assert answer(text) == text


def test_positions_refer_to_the_recorded_text() -> None:
    text = "<think>hm</think>\nOne.\n<think>\nhm\n</think>\nTwo.<|im_end|>"
    read = AnswerReader().read(Completion((Choice(text, "stop"),), Usage(), "m"))
    shown = read.completion.text
    spans = [(shown.index(word), shown.index(word) + 4) for word in ("One.", "Two.")]
    restored = read.restore(Received(tuple(Candidate("x", span=span) for span in spans)))
    assert [text[slice(*candidate.span)] for candidate in restored.candidates] == ["One.", "Two."]
    assert read.completion.choices[0].reasoning == "hm\n\nhm"


def test_an_answer_of_which_nothing_was_read_is_named() -> None:
    for choice, reason in (
        (Choice("", "stop"), "empty"),
        (Choice("", "STOP", "only a thought"), "ended_in_reasoning"),
        (Choice("<think>hm", "length"), "ended_in_reasoning"),
        (Choice("half", "length"), "truncated"),
        (Choice("half", "content_filter"), "ended_content_filter"),
    ):
        read = AnswerReader().read(Completion((choice,), Usage(), "m"))
        assert [discard.reason for discard in read.restore(Received()).discards] == [reason]


def test_runs_of_the_first_semantics_read_completions_unaltered() -> None:
    completion = Completion((Choice("<think>hm</think>Paris.", "model_length"),), Usage(), "m")
    read = AnswerReader(semantics=1).read(completion)
    assert (read.completion.text, read.completion.truncated) == (completion.text, False)

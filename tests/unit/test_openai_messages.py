"""The choices of servers that speak OpenAI's API in dialects of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from selfinstruct.backends.openai.answers import read_answer
from selfinstruct.backends.openai.refusals import ServerInfo
from selfinstruct.errors import BackendError, RequestError, TransientError
from selfinstruct.records import Completion

SERVER = ServerInfo("http://server/v1", "m", "", False)


def read(message: dict[str, Any], usage: dict[str, Any] | None = None, **choice: Any) -> Completion:
    """Return the completion of a chat answer with one choice."""
    listed = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", **choice}]
    return read_answer(SERVER, json.dumps({"choices": listed, "usage": usage}).encode(), chat=True)


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True}
CONTENTS: tuple[tuple[Any, str, str], ...] = (
    ("Paris", "Paris", ""),
    (None, "", ""),
    ([{"type": "text", "text": None}], "", ""),
    ([{"type": "text", "text": "Pa"}, {"type": "text", "text": None}, {"type": "text", "text": "ris"}], "Paris", ""),
    (["Pa", "ris"], "Paris", ""),
    (["Pa", {"type": "output_text", "text": "ris"}], "Paris", ""),
    ({"type": "text", "text": "Paris"}, "Paris", ""),
    ([{"type": "text", "text": {"value": "Paris", "annotations": []}}], "Paris", ""),
    ([THINKING, {"type": "text", "text": "Paris"}], "Paris", "hm"),
    ([THINKING], "", "hm"),
    ([{"type": "thinking", "thinking": "hm", "signature": "x"}, "Paris"], "Paris", "hm"),
    ([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "Paris"}], "Paris", "hm"),
    ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, "Paris"], "Paris", "hm"),
    ([{"type": "image_url", "image_url": {"url": "x"}}, None, 7, "Paris"], "Paris", ""),
    ([], "", ""),
)


@pytest.mark.parametrize(("content", "text", "reasoning"), CONTENTS)
def test_content_is_text_or_parts(content: Any, text: str, reasoning: str) -> None:
    choice = read({"content": content}).choices[0]
    assert (choice.text, choice.reasoning, choice.finish_reason) == (text, reasoning, "stop")


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning": None, "reasoning_content": "hm"},
        {"reasoning": {"content": "hm"}},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}, {"type": "reasoning.encrypted", "data": "x"}]},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]},
    ],
)
def test_reasoning_is_read_from_its_field(fields: dict[str, Any]) -> None:
    completion = read({"content": "Paris", **fields})
    assert (completion.text, completion.choices[0].reasoning) == ("Paris", "hm")
    assert Completion.from_json(json.loads(json.dumps(completion.to_json()))) == completion


CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "choice", "ending"),
    [
        ({"content": None, "tool_calls": [CALL]}, {}, "tool_calls"),
        ({"content": "I look it up.", "tool_calls": [CALL]}, {}, "tool_calls"),
        ({"content": "", "function_call": {"name": "search"}}, {}, "tool_calls"),
        ({"content": None, "refusal": "I can't help with that."}, {}, "refusal"),
        ({"content": "", "refusal": "I can't help with that."}, {}, "refusal"),
        ({"content": "Paris", "tool_calls": [], "refusal": None}, {}, "stop"),
        ({"content": "Paris"}, {"finish_reason": None}, "unknown"),
        ({"content": "Paris"}, {"finish_reason": None, "stop_reason": "end_turn"}, "end_turn"),
        ({"content": "Paris"}, {"finish_reason": {"type": "stop", "matched": 2}}, "stop"),
    ],
)
def test_a_tool_call_or_a_refusal_is_no_answer(message: dict[str, Any], choice: dict[str, Any], ending: str) -> None:
    assert read(message, **choice).choices[0].finish_reason == ending


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 502, "message": "provider lost"}, TransientError),
        ({"code": "503", "message": "provider lost"}, TransientError),
        ({"message": "provider lost"}, TransientError),
        ("provider lost", TransientError),
        ({"code": 429, "message": "slow down"}, TransientError),
        ({"code": "rate_limit_exceeded", "message": "slow down"}, TransientError),
        ({"code": 400, "message": "content_filter"}, RequestError),
        ({"code": 402, "message": "no credit"}, BackendError),
    ],
)
def test_an_error_in_a_choice_is_a_failed_attempt(error: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"provider lost|slow down|content_filter|no credit"):
        read({"content": "half a sen"}, error=error, finish_reason="error")
    with pytest.raises(kind):
        read_answer(
            SERVER, json.dumps({"error": error, "choices": [{"message": {"content": "half"}}]}).encode(), chat=True
        )


@pytest.mark.parametrize("reason", ["abort", "insufficient_system_resource"])
def test_an_abandoned_answer_is_a_failed_attempt(reason: str) -> None:
    with pytest.raises(TransientError, match=reason):
        read({"content": "half a sen"}, finish_reason=reason)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 7}}, (9, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 9, "output_tokens_details": {"reasoning_tokens": 7}}, (9, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 9, "reasoning_tokens": 7}, (9, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 14}, (9, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}, (9, 0)),
        ({"prompt_tokens": 5, "completion_tokens": 9, "completion_tokens_details": None}, (9, 0)),
        ({"prompt_tokens": 5, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 99}}, (9, 9)),
    ],
)
def test_reasoning_tokens_are_part_of_the_completion(usage: dict[str, Any], counts: tuple[int, int]) -> None:
    found = read({"content": "Paris"}, usage).usage
    assert (found.completion_tokens, found.reasoning_tokens) == counts

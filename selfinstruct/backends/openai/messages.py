"""Read one choice of an OpenAI-compatible server: its text, its reasoning and how it ended.

Servers return a message's content as a string, as one part, or as a list of parts and strings, and reasoning in fields
of several names or in parts of its own (Mistral nests lists of parts in them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from selfinstruct.records.endings import NOT_NAMED

__all__ = ["finish_reason", "message_text", "reasoning_text"]

_REASONING_FIELDS = (
    "reasoning_content",  # DeepSeek, vLLM, SGLang, llama-server, DashScope, LiteLLM
    "reasoning",  # OpenRouter, Ollama, Groq, newer vLLM
    "thinking",
    "reasoning_text",
    "thoughts",
    "reasoning_details",
    "thinking_blocks",
)
_REASONING_PARTS = frozenset(
    {"thinking", "reasoning", "reasoning_text", "reasoning_content", "thought", "summary_text"}
)
_TEXT_KEYS = ("text", "value", "content", "output_text")
_REASONING_KEYS = ("thinking", "reasoning", "reasoning_content", "reasoning_text", "thought", "summary", *_TEXT_KEYS)
_MAX_DEPTH = 8  # of nested parts


def message_text(content: object) -> str | None:
    """Return the text of a message's content, without its parts of reasoning; None if it has another type."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping | list):
        parts = content if isinstance(content, list) else [content]
        return "".join(_strings([part for part in parts if not _is_reasoning(part)], _TEXT_KEYS))
    return None


def reasoning_text(message: Mapping[str, Any]) -> str:
    """Return the reasoning of a message: from the first field that holds any, otherwise from its content's parts."""
    for name in _REASONING_FIELDS:
        if text := "".join(_strings(message.get(name), _REASONING_KEYS)).strip():
            return text
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    return "".join(_strings([part for part in parts if _is_reasoning(part)], _REASONING_KEYS)).strip()


def finish_reason(choice: Mapping[str, Any], message: Mapping[str, Any]) -> str:
    """Return how a choice ended, in the server's own words; ``unknown`` if the server does not say.

    A message that calls a tool or refuses is no answer, although some servers end it with ``stop``.
    """
    if any(message.get(name) for name in ("tool_calls", "function_call")):
        return "tool_calls"
    if message.get("refusal"):
        return "refusal"
    for name in ("finish_reason", "stop_reason", "done_reason", "finishReason"):
        value = choice.get(name)
        if isinstance(value, Mapping):  # SGLang: {"type": "stop", "matched": 2}
            value = value.get("type")
        if isinstance(value, str) and value:
            return value
    return NOT_NAMED


def _is_reasoning(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _REASONING_PARTS


def _strings(value: object, keys: Sequence[str], depth: int = _MAX_DEPTH) -> Iterator[str]:
    """Yield the strings of nested parts, each part by the first of ``keys`` that holds any."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _strings(item, keys, depth - 1)
    elif isinstance(value, Mapping) and depth:
        for key in keys:
            if isinstance(value.get(key), str | list | Mapping) and value[key]:
                yield from _strings(value[key], keys, depth - 1)
                return

"""Read the answer of an OpenAI-compatible server: the completion in a body with status 200.

Pure functions of the body, without network or client library. ``refusals`` reads the bodies of other statuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from selfinstruct.backends.openai.messages import finish_reason, message_text, reasoning_text
from selfinstruct.backends.openai.refusals import (
    ServerInfo,
    decoded,
    excerpt,
    is_error,
    read_error_answer,
    read_refusal,
)
from selfinstruct.errors import RequestError, SelfInstructError, TransientError
from selfinstruct.records import Choice, Completion, Usage
from selfinstruct.records.endings import is_lost, is_withheld

__all__ = ["read_answer"]

_MAX_COUNT = 2**31  # no request takes this many tokens; a larger count is invalid


def read_answer(server: ServerInfo, body: bytes, *, chat: bool) -> Completion:
    """Return the completion in the body of a response with status 200.

    Args:
        chat: True for the chat endpoint, False for the plain one.

    Raises:
        TransientError: The body is not JSON or lacks a required field, or the server gave up an answer.
        RequestError: The server's content filter withheld the text.
        BackendError: The body or one of its choices is an error (some gateways send errors with status 200), and the
            server is at fault. Errors that may pass, or are the request's own, have the types above.
        All of them carry the tokens that the body counts, if it does (``SelfInstructError.cost``).
    """
    value = decoded(body)
    if value is None:
        raise TransientError(_not_json(server, body))
    if not isinstance(value, Mapping):
        raise TransientError(f"{server.url} answered with JSON that is not an object: {excerpt(server, body)}")
    listed = value.get("choices")
    if value.get("error") or (not listed and is_error(value)):
        raise read_error_answer(server, body)
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        what = f"{server.url} answered without any choice (is the base URL right? it usually ends in /v1)"
        raise TransientError(f"{what}: {excerpt(server, body)}")
    usage, model = _usage(value.get("usage")), value.get("model")
    try:
        choices = _choices(server, listed, chat, body)
    except SelfInstructError as failure:
        failure.cost = (usage.prompt_tokens, usage.completion_tokens) if usage.counted else None
        raise
    return Completion(choices, usage, _clean(model) if isinstance(model, str) else server.model)


def _choices(server: ServerInfo, listed: Sequence[Any], chat: bool, body: bytes) -> tuple[Choice, ...]:
    choices = tuple(_choice(server, item, chat, body) for item in listed)
    if all(is_withheld(choice.finish_reason) and not choice.text for choice in choices):
        what = f"{server.url} withheld the text: its content filter stopped the request"
        raise RequestError("content_filter", what, certain=True)
    return choices


def _choice(server: ServerInfo, item: Any, chat: bool, body: bytes) -> Choice:
    if not isinstance(item, Mapping):
        raise TransientError(f"{server.url} answered with a choice that is not an object: {excerpt(server, body)}")
    message = item.get("message") if chat else item
    if error := item.get("error") or (isinstance(message, Mapping) and message.get("error")):  # lost midway
        raise read_refusal(server, _status(error), {}, json.dumps({"error": error}).encode())
    if not isinstance(message, Mapping):
        raise TransientError(f"{server.url} answered with a choice without a message: {excerpt(server, body)}")
    reason, reasoning = finish_reason(item, message), reasoning_text(message)
    if is_lost(reason):
        raise TransientError(f"{server.url} gave up an answer (finish_reason {reason})")
    # Chat content is null or absent if the model refused or spent all its tokens on reasoning: an empty answer.
    text = message_text(message.get("content")) if chat else message.get("text")
    if text == "" and reason == "refusal":
        text = message_text(message.get("refusal"))
    if text is None and (is_withheld(reason) or reasoning):
        text = ""
    if not isinstance(text, str):
        raise TransientError(f"{server.url} answered with a choice without text: {excerpt(server, body)}")
    return Choice(_clean(text), _clean(reason), _clean(reasoning))


def _status(error: object) -> int:
    """Return the HTTP status that an error object stands for: its code, or 500 without one."""
    fields = error if isinstance(error, Mapping) else {}
    for name in ("code", "status", "status_code"):
        code = fields.get(name)
        if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
            code = int(code)
        if isinstance(code, int) and 400 <= code < 600:
            return code
    words = " ".join(str(fields.get(name)) for name in ("code", "type"))
    if "rate_limit" in words:
        return 429
    return 400 if "content" in words or "moderation" in words else 500


def _usage(value: Any) -> Usage:
    """Return the token counts; zero if the server does not report them.

    Some servers (xAI, Gemini) leave reasoning out of the completion's tokens and count it in the total alone.
    """
    if not isinstance(value, Mapping):
        return Usage()
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    reasoning = _detail(value, ("completion_tokens_details", "output_tokens_details"), "reasoning_tokens")
    reasoning = reasoning or _count(value.get("reasoning_tokens"))
    uncounted = _count(value.get("total_tokens")) - prompt - completion
    if prompt and uncounted > 0:
        completion, reasoning = completion + uncounted, reasoning or uncounted
    cached = _detail(value, ("prompt_tokens_details",), "cached_tokens")
    return Usage(prompt, completion, cached, min(reasoning, completion))


def _detail(value: Mapping[str, Any], groups: Sequence[str], name: str) -> int:
    counts = (_count(details.get(name)) for group in groups if isinstance(details := value.get(group), Mapping))
    return next((count for count in counts if count), 0)


def _count(value: Any) -> int:
    """Return a plausible number of tokens, else 0: sums of counts must fit in SQLite's 64 bits."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_COUNT else 0


def _clean(text: str) -> str:
    """Return the text with each lone surrogate, which UTF-8 cannot encode, replaced by U+FFFD.

    A server that cuts an emoji at the token limit sends half of it, and a retry with the same seed would do so again.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _not_json(server: ServerInfo, body: bytes) -> str:
    if body.lstrip()[:1] == b"<":
        return f"{server.url} answered with a web page, not JSON (is the base URL right? it usually ends in /v1)"
    if not body.strip():
        return f"{server.url} answered with an empty body"
    return f"{server.url} answered with broken JSON ({len(body)} bytes): {excerpt(server, body)}"

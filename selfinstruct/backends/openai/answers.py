"""Read the answer of an OpenAI-compatible server: the completion in a body with status 200.

Pure functions of the body, without network or client library. ``refusals`` reads the bodies of other statuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from selfinstruct.backends.openai.refusals import ServerInfo, decoded, excerpt, read_refusal
from selfinstruct.errors import RequestError, TransientError
from selfinstruct.records import Choice, Completion, Usage

__all__ = ["read_answer"]

_MAX_COUNT = 2**31  # no request takes this many tokens; a larger count is invalid


def read_answer(server: ServerInfo, body: bytes, *, chat: bool, now: datetime | None = None) -> Completion:
    """Return the completion in the body of a response with status 200.

    Args:
        chat: True for the chat endpoint, False for the plain one.
        now: For tests; see ``retry_after_s``.

    Raises:
        TransientError: The body is not JSON or lacks a required field.
        RequestError: The server's content filter withheld the text.
        BackendError: The body is an error (some gateways send errors with status 200), and the server is at fault.
    """
    value = decoded(body)
    if value is None:
        raise TransientError(_not_json(server, body))
    if not isinstance(value, Mapping):
        raise TransientError(f"{server.url} answered with JSON that is not an object: {excerpt(server, body)}")
    listed = value.get("choices")
    if not listed and value.get("error"):
        code = value["error"].get("code") if isinstance(value["error"], Mapping) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise read_refusal(server, status, {}, body, now)
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise TransientError(f"{server.url} answered without any choice: {excerpt(server, body)}")
    choices = tuple(_choice(server, item, chat, body) for item in listed)
    if all(choice.finish_reason == "content_filter" and not choice.text for choice in choices):
        what = f"{server.url} withheld the text: its content filter stopped the request"
        raise RequestError("content_filter", what, certain=True)
    model = value.get("model")
    return Completion(choices, _usage(value.get("usage")), _clean(model) if isinstance(model, str) else server.model)


def _choice(server: ServerInfo, item: Any, chat: bool, body: bytes) -> Choice:
    if not isinstance(item, Mapping):
        raise TransientError(f"{server.url} answered with a choice that is not an object: {excerpt(server, body)}")
    reason = item.get("finish_reason")
    text: Any = item.get("text")
    if chat:
        message = item.get("message")
        if not isinstance(message, Mapping):
            raise TransientError(f"{server.url} answered with a choice without a message: {excerpt(server, body)}")
        # Content is null or absent if the model refused or spent all its tokens on reasoning: an empty answer.
        text = message.get("content")
        if text is None:
            text = message.get("refusal") or ""
        elif isinstance(text, Sequence) and not isinstance(text, str):
            text = "".join(str(part.get("text", "")) for part in text if isinstance(part, Mapping))
    elif text is None and reason == "content_filter":
        text = ""
    if not isinstance(text, str):
        raise TransientError(f"{server.url} answered with a choice without text: {excerpt(server, body)}")
    return Choice(_clean(text), _clean(reason) if isinstance(reason, str) else "unknown")


def _usage(value: Any) -> Usage:
    """Return the token counts; zero if the server does not report them."""
    if not isinstance(value, Mapping):
        return Usage()
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    return Usage(_count(value.get("prompt_tokens")), _count(value.get("completion_tokens")), _count(cached))


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

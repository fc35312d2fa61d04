"""Reading what an OpenAI-compatible server answered: a completion, or whose fault it is that there is none.

Pure functions over status, headers and body: no network, no client library. The rule they keep is that a request's own
fault ends that request, the server's or the account's fault stops the run, and what time may heal is worth a retry.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from selfinstruct.errors import BackendError, RequestError, SelfInstructError, TransientError
from selfinstruct.records import Choice, Completion, Usage

__all__ = ["ServerInfo", "read_answer", "read_refusal", "retry_after_s"]

_EXCERPT = 300  # characters of a server's own words that a message repeats
_MAX_COUNT = 2**31  # no request takes so many tokens: a server that says so does not count
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"})
_SETTING = frozenset({"unsupported_parameter", "unsupported_value", "model_not_found", "invalid_api_key"})
_CONTEXT = re.compile(
    r"context[ _](?:length|size|window)|maximum context|exceed_context|too many (?:input )?tokens"
    r"|prompt is too long|reduce the length|must (?:be|have) less than \d+ tokens|`?inputs`? tokens",
    re.IGNORECASE,
)
_SCHEMA = re.compile(
    r"response_?format|json_?schema|structured[_ ]outputs?|guided_json|\bschema\b|\bgrammar\b", re.IGNORECASE
)
_FILTER = re.compile(r"content[_ ](?:filter|policy|management)|ResponsibleAIPolicy|moderation", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server as messages name it. Holds no credential.

    Attributes:
        url: Base URL without its user and password.
        model: Name of the model that was asked for.
        key_env: Name of the environment variable that the key is read from, or "".
        has_key: True when that variable was set.
        hide: Takes secrets out of a text of the server's, before any of it is repeated.
    """

    url: str
    model: str
    key_env: str
    has_key: bool
    hide: Callable[[str], str] = field(default=str, repr=False, compare=False)


def read_answer(peer: ServerInfo, body: bytes, *, chat: bool, now: datetime | None = None) -> Completion:
    """The completion in the body of a 200.

    Args:
        chat: True for the chat endpoint, False for the plain one.
        now: For tests; see ``retry_after_s``.

    Raises:
        TransientError: The body is not JSON, or a field that must be there is not.
        RequestError: The server's filter withheld the text.
        BackendError: The body is an error after all (some gateways answer 200), and it is the server's.
    """
    value = _decoded(body)
    if value is None:
        raise TransientError(_not_json(peer, body))
    if not isinstance(value, Mapping):
        raise TransientError(f"{peer.url} answered JSON, but no object: {_excerpt(peer, body)}")
    found = value.get("choices")
    if not found and value.get("error"):
        code = value["error"].get("code") if isinstance(value["error"], Mapping) else None
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        raise read_refusal(peer, status, {}, body, now)
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise TransientError(f"{peer.url} answered without any choice: {_excerpt(peer, body)}")
    choices = tuple(_choice(peer, item, chat, body) for item in found)
    if all(choice.finish_reason == "content_filter" and not choice.text for choice in choices):
        raise RequestError("content_filter", f"{peer.url} withheld the text: its content filter stopped the request")
    model = value.get("model")
    return Completion(choices, _usage(value.get("usage")), _clean(model) if isinstance(model, str) else peer.model)


def _choice(peer: ServerInfo, item: Any, chat: bool, body: bytes) -> Choice:
    if not isinstance(item, Mapping):
        raise TransientError(f"{peer.url} answered a choice that is no object: {_excerpt(peer, body)}")
    reason = item.get("finish_reason")
    text: Any = item.get("text")
    if chat:
        message = item.get("message")
        if not isinstance(message, Mapping):
            raise TransientError(f"{peer.url} answered a choice without a message: {_excerpt(peer, body)}")
        # Content is null or absent where a model refused, or spent all its tokens on reasoning: an empty answer.
        text = message.get("content")
        if text is None:
            text = message.get("refusal") or ""
        elif isinstance(text, Sequence) and not isinstance(text, str):
            text = "".join(str(part.get("text", "")) for part in text if isinstance(part, Mapping))
    elif text is None and reason == "content_filter":
        text = ""
    if not isinstance(text, str):
        raise TransientError(f"{peer.url} answered a choice without text: {_excerpt(peer, body)}")
    return Choice(_clean(text), _clean(reason) if isinstance(reason, str) else "unknown")


def _usage(value: Any) -> Usage:
    """Token counts; zero where the server does not count."""
    if not isinstance(value, Mapping):
        return Usage()
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
    return Usage(_count(value.get("prompt_tokens")), _count(value.get("completion_tokens")), _count(cached))


def _count(value: Any) -> int:
    """A plausible number of tokens, else 0: sums of them must stay within SQLite's 64 bits."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_COUNT else 0


def _clean(text: str) -> str:
    """The text with each lone surrogate, which no UTF-8 file can hold, as U+FFFD.

    A server that cuts an emoji at the token limit sends half of it; a retry with the same seed would do it again.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def read_refusal(
    peer: ServerInfo,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime | None = None,
    *,
    schema: bool = False,
) -> SelfInstructError:
    """The error for a status other than 200: a RequestError, a TransientError or a BackendError.

    Args:
        headers: Response headers with lower-case names.
        now: For tests; see ``retry_after_s``.
        schema: The request asked for JSON by schema.
    """
    codes, said = _own_words(peer, body)
    what = f"{peer.url} answered {status}{_phrase(status)}" + (f": {said}" if said else "")
    wait = retry_after_s(headers, now)
    if codes & _QUOTA or status == 402:
        return BackendError(f"{what}. The account has no credit or quota left: raise it, then resume")
    if status == 429:
        return TransientError(what, retry_after=wait, throttled=True)
    if schema and status in (400, 404, 415, 422, 501) and _SCHEMA.search(f"{' '.join(sorted(codes))} {said}"):
        return BackendError(
            f"{what}. It was asked for JSON by schema: set structured to false in the strategy's section "
            "(--set alpaca.structured=false), or choose a model that can do it"
        )
    if status in (408, 409) or status >= 500:
        return TransientError(what, retry_after=wait)
    if code := _own_fault(status, codes, said):
        return RequestError(code, what)
    if status == 400 and "api key" in said.lower():  # Google's gateway says so with a 400
        status = 401
    return BackendError(f"{what}. {_remedy(peer, status)}")


def _own_fault(status: int, codes: set[str], said: str) -> str:
    """The code of a request's own fault, "" when the fault is not its own.

    A 400 about a parameter or the key would meet every request alike: that is a setting's fault.
    """
    words = " ".join(sorted(codes))
    if _FILTER.search(words) or (status == 400 and _FILTER.search(said)):
        return "content_filter"
    if status not in (400, 413, 422) or codes & _SETTING or "api key" in said.lower():
        return ""
    return "context_length" if _CONTEXT.search(f"{words} {said}") else "bad_request"


def _remedy(peer: ServerInfo, status: int) -> str:
    if status == 401:
        if not peer.has_key:
            put = f"Set {peer.key_env} to a valid key, or name" if peer.key_env else "Name"
            return f"{put} the environment variable that holds its key (--api-key-env)"
        return f"The key in {peer.key_env} was refused: put a valid one there"
    if status == 403:
        return f"The key in {peer.key_env} may not use {peer.model!r} here: check the account's permissions"
    if status in (404, 405):
        return f"Check the model's name ({peer.model!r}) and the base URL (it usually ends in /v1)"
    if status in (400, 422):
        return f"The settings for {peer.model!r} don't suit this server: change them (see `omit` and `extra_body`)"
    return "Check the base URL and the account"


def _own_words(peer: ServerInfo, body: bytes) -> tuple[set[str], str]:
    """Codes and message of an error body, in any of the shapes that servers use."""
    value = _decoded(body)
    if value is None:
        return set(), _excerpt(peer, body)
    found = value[0] if isinstance(value, list) and value else value  # Google's gateway wraps the object in a list
    error = found.get("error", found) if isinstance(found, Mapping) else found
    if not isinstance(error, Mapping):
        return set(), _excerpt(peer, str(error).encode("utf-8", "replace"))
    inner = error.get("innererror")
    places = [error, inner if isinstance(inner, Mapping) else {}]
    codes = {text for place in places for key in ("code", "type") if isinstance(text := place.get(key), str)}
    said = error.get("message") or error.get("detail") or ""
    return codes, _excerpt(peer, (said if isinstance(said, str) else json.dumps(said)).encode("utf-8", "replace"))


def _decoded(body: bytes) -> Any:
    """The JSON value, or None. Lenient: what else a server adds (a NaN among its timings) is no reason to lose a text.

    Returns instead of raising, for the parser's error would carry the whole body into every traceback.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _phrase(status: int) -> str:
    try:
        return f" ({HTTPStatus(status).phrase})"
    except ValueError:
        return ""


def _not_json(peer: ServerInfo, body: bytes) -> str:
    if body.lstrip()[:1] == b"<":
        return f"{peer.url} answered with a web page, not JSON (is the base URL right? it usually ends in /v1)"
    if not body.strip():
        return f"{peer.url} answered with an empty body"
    return f"{peer.url} answered with broken JSON ({len(body)} bytes): {_excerpt(peer, body)}"


def _excerpt(peer: ServerInfo, body: bytes) -> str:
    """The beginning of a body on one printable line.

    Secrets are hidden before anything is cut off: half a key would no longer be found.
    """
    text = peer.hide(body.decode("utf-8", "replace"))[: 4 * _EXCERPT]
    if text.lstrip().startswith("<"):
        text = re.sub(r"<[^>]*>?", " ", text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _EXCERPT else line[:_EXCERPT] + "…"


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a server asked to wait, or None.

    Reads ``retry-after-ms``, then ``retry-after`` as seconds or as an HTTP date (RFC 9110, 10.2.3). A date in the past
    is 0; anything unreadable is None.

    Args:
        headers: With lower-case names.
        now: The present, for tests; None reads the clock.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _seconds(text)
    if seconds is not None or text is None:
        return seconds
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the year 10**20 is written in a date as well as any other
        return None
    if until.tzinfo is None:  # "-0000": a date without a zone is in UTC
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(0.0, value) if math.isfinite(value) else None

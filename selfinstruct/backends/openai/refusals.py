"""Read a refusal of an OpenAI-compatible server: the error that names the party at fault.

Pure functions of status, headers and body, without network or client library. A fault of the request ends that request,
a fault of the server or the account stops the run, and a fault that may pass is retried.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from selfinstruct.errors import BackendError, RequestError, SelfInstructError, TransientError

__all__ = ["ServerInfo", "decoded", "excerpt", "read_refusal", "retry_after_s"]

_EXCERPT = 300  # characters of a server's message that an error repeats
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"})
_SETTING = frozenset({"unsupported_parameter", "unsupported_value", "model_not_found", "invalid_api_key"})
_CONTEXT_LENGTH = re.compile(
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
    """A server as error messages describe it. Holds no credential.

    Attributes:
        url: Base URL without user and password.
        model: Name of the requested model.
        key_env: Environment variable that holds the key; "" if the server needs none.
        has_key: Whether that variable was set.
        hide: Removes secrets from a server's text before any of it is repeated.
    """

    url: str
    model: str
    key_env: str
    has_key: bool
    hide: Callable[[str], str] = field(default=str, repr=False, compare=False)


def read_refusal(
    server: ServerInfo,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime | None = None,
    *,
    schema: bool = False,
) -> SelfInstructError:
    """Return the error for a status other than 200: a RequestError, a TransientError or a BackendError.

    Args:
        headers: Response headers with lower-case names.
        now: For tests; see ``retry_after_s``.
        schema: Whether the request carried a JSON schema.
    """
    codes, message = _error_details(server, body)
    what = f"{server.url} answered {status}{_phrase(status)}" + (f": {message}" if message else "")
    wait = retry_after_s(headers, now)
    if codes & _QUOTA or status == 402:
        return BackendError(f"{what}. The account has no credit or quota left: raise it, then resume")
    if status == 429:
        return TransientError(what, retry_after=wait, throttled=True)
    if schema and status in (400, 404, 415, 422, 501) and _SCHEMA.search(f"{' '.join(sorted(codes))} {message}"):
        return BackendError(
            f"{what}. The request carried a JSON schema: set structured to false in the strategy's section "
            "(--set alpaca.structured=false), or choose a model that supports schemas"
        )
    if status in (408, 409) or status >= 500:
        return TransientError(what, retry_after=wait)
    if code := _request_fault(status, codes, message):
        return RequestError(code, f"{what}. {_remedy(server, status)}" if code == "forbidden" else what)
    if status == 400 and "api key" in message.lower():  # Google's gateway answers a wrong key with 400
        status = 401
    return BackendError(f"{what}. {_remedy(server, status)}")


def _request_fault(status: int, codes: set[str], message: str) -> str:
    """Return the code of a fault of the request itself; "" if something else is at fault.

    A 400 about a parameter or the key would hit every request, so a setting is at fault.
    """
    words = " ".join(sorted(codes))
    if _FILTER.search(words) or (status in (400, 403, 451) and _FILTER.search(message)):
        return "content_filter"
    if status in (403, 451):  # of this prompt or of the account: how other requests fare decides
        return "forbidden"
    if status not in (400, 413, 422) or codes & _SETTING or "api key" in message.lower():
        return ""
    return "context_length" if _CONTEXT_LENGTH.search(f"{words} {message}") else "bad_request"


def _remedy(server: ServerInfo, status: int) -> str:
    if status == 401:
        if not server.has_key:
            advice = f"Set {server.key_env} to a valid key, or name" if server.key_env else "Name"
            return f"{advice} the environment variable that holds its key (--api-key-env)"
        return f"The key in {server.key_env} was refused: set it to a valid one"
    if status == 403:
        return _forbidden(server)
    if status in (404, 405):
        return f"Check the model's name ({server.model!r}) and the base URL (it usually ends in /v1)"
    if status in (400, 422):
        return f"This server refuses the settings for {server.model!r}: change them (see `omit` and `extra_body`)"
    return "Check the base URL and the account"


def _forbidden(server: ServerInfo) -> str:
    key, advice = "A request without a key", "name a key's variable with --api-key-env"
    if server.has_key:
        key, advice = "The key", "check the account's permissions"
    if server.key_env:
        key, advice = (f"{key} in {server.key_env}", advice) if server.has_key else (key, f"set {server.key_env}")
    return f"{key} may not use {server.model!r} here: {advice}"


def _error_details(server: ServerInfo, body: bytes) -> tuple[set[str], str]:
    """Return the codes and the message of an error body, in any of the shapes that servers use."""
    value = decoded(body)
    if value is None:
        return set(), excerpt(server, body)
    envelope = value[0] if isinstance(value, list) and value else value  # Google's gateway sends a list of one
    error = envelope.get("error", envelope) if isinstance(envelope, Mapping) else envelope
    if not isinstance(error, Mapping):
        return set(), excerpt(server, str(error).encode("utf-8", "replace"))
    inner = error.get("innererror")
    objects = [error, inner if isinstance(inner, Mapping) else {}]
    codes = {code for fields in objects for key in ("code", "type") if isinstance(code := fields.get(key), str)}
    message = error.get("message") or error.get("detail") or ""
    text = message if isinstance(message, str) else json.dumps(message)
    return codes, excerpt(server, text.encode("utf-8", "replace"))


def decoded(body: bytes) -> Any:
    """Return the JSON value, or None if the body is not JSON.

    Python's parser is lenient, so that a NaN among a server's timings does not lose a text. The parser's error is
    dropped because it would carry the body into every traceback.
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


def excerpt(server: ServerInfo, body: bytes) -> str:
    """Return the beginning of a body as one printable line.

    Secrets are hidden before the text is cut: half a key would not be recognised.
    """
    text = server.hide(body.decode("utf-8", "replace"))[: 4 * _EXCERPT]
    if text.lstrip().startswith("<"):
        text = re.sub(r"<[^>]*>?", " ", text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _EXCERPT else line[:_EXCERPT] + "…"


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that a server asked to wait, or None.

    Reads ``retry-after-ms``, then ``retry-after`` as seconds or as an HTTP date (RFC 9110, 10.2.3). A date in the past
    gives 0; an unreadable value gives None.

    Args:
        headers: Response headers with lower-case names.
        now: The current time, for tests; None reads the clock.
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
    except (ValueError, OverflowError):  # a date may name the year 10**20
        return None
    if until.tzinfo is None:  # "-0000" marks a date in UTC without a zone
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(0.0, value) if math.isfinite(value) else None

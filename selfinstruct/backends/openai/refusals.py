"""Read a refusal of an OpenAI-compatible server: the error that names the party at fault.

Pure functions of status, headers and body, without network or client library. A fault of the request ends that request,
a fault of the server or the account stops the run, and a fault that may pass is retried.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from selfinstruct.backends.openai.addresses import is_azure
from selfinstruct.backends.openai.dialect import LIMITS, accepted_value, refused_field
from selfinstruct.backends.openai.error_body import ErrorBody, ServerInfo, decoded, excerpt, is_error, read_error
from selfinstruct.backends.openai.quota import find_shortage, is_rate_limit, requested_wait_s
from selfinstruct.errors import BackendError, RefusedOption, RequestError, SelfInstructError, TransientError

__all__ = ["ServerInfo", "decoded", "excerpt", "is_error", "read_error_answer", "read_refusal", "retry_after_s"]

_SETTING = frozenset({"unsupported_parameter", "unsupported_value", "model_not_found", "invalid_api_key"})
_SCHEMA_FIELDS = frozenset({"response_format", "structured_outputs", "guided_json", "json_schema"})
_REASONING_FIELDS = frozenset({"reasoning_effort", "reasoning", "thinking", "enable_thinking", "chat_template_kwargs"})
_STAGE_OPTIONS = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
_STRUCTURED = RefusedOption("structured", "false")
_CONTEXT_LENGTH = re.compile(
    r"context[ _](?:length|size|window)|maximum context|exceed_context|too many (?:input )?tokens"
    r"|prompt is too long|reduce the length|must (?:be|have) less than \d+ tokens|`?inputs`? tokens",
    re.IGNORECASE,
)
_SCHEMA = re.compile(
    r"response_?format|json_?schema|structured[_ ]outputs?|guided_json|\bschema\b|\bgrammar\b", re.IGNORECASE
)
_FILTER = re.compile(r"content[_ ](?:filter|policy|management)|ResponsibleAIPolicy|moderation", re.IGNORECASE)
_FLAGGED = re.compile(
    r"\b(?:input|prompt|message|content|request|text)s? (?:\w+ ){0,3}(?:flagged|blocked|filtered|rejected by)"
    r"|inappropriate content|data_?inspection|sensitive (?:content|words?)|unsafe|harmful|exists risk|safety",
    re.IGNORECASE,
)
_NO_ENDPOINT = re.compile(
    r"unexpected endpoint|(?:unknown|invalid|unsupported|no such|no) (?:request )?(?:endpoint|path|route|url)"
    r"|(?:endpoint|path|route|url|page|resource) (?:\w+ )?(?:was )?not found|could not route|cannot post|\b404\b"
    r"|^not found\W*$",
    re.IGNORECASE,
)
_API_VERSION = re.compile(r"api[ -]?version", re.IGNORECASE)
_STATUS = re.compile(r"[45]\d\d")
_BASE_URL = "Check the base URL (it usually ends in /v1)"


def read_refusal(
    server: ServerInfo,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime | None = None,
    *,
    schema: bool = False,
    sent: Mapping[str, Any] | None = None,
) -> SelfInstructError:
    """Return the error for a status other than 200: a RequestError, a TransientError or a BackendError.

    Args:
        headers: Response headers with lower-case names.
        now: For tests; see ``retry_after_s``.
        schema: Whether the request carried a JSON schema.
        sent: The body of the request, so that the error can name the setting of a refused field.
    """
    error = read_error(server, body)
    message = _without_stop(error.message)
    what = f"{server.url} answered {status}{_phrase(status)}" + (f": {message}" if message else "")
    wait = retry_after_s(headers, now)
    failure = _refusal(server, status, error, what, wait, schema=schema, sent=sent or {})
    failure.cost = (0, 0) if _is_unbilled(status, failure) else None
    return failure


def _without_stop(message: str) -> str:
    """Return a message without its full stop, since advice follows after one."""
    return message if message.endswith("..") else message.removesuffix(".")


def _is_unbilled(status: int, failure: SelfInstructError) -> bool:
    """Return whether a refusal came before any work.

    A timeout (408, 499) may come after it, and so may a 400 of a content filter or for the length of a prompt:
    https://learn.microsoft.com/azure/foundry/openai/how-to/manage-costs
    """
    is_read = isinstance(failure, RequestError) and failure.code in ("content_filter", "context_length")
    return 400 <= status < 499 and status != 408 and not (is_read and status == 400)


def read_error_answer(server: ServerInfo, body: bytes) -> SelfInstructError:
    """Return the error for a body with status 200 that holds no completion but an error.

    Some gateways send all errors with status 200. The error's own code counts as the status, if it has one. An error
    without a code may pass, unless it says that there is no such endpoint.
    """
    error = read_error(server, body)
    what = f"{server.url} answered with an error and no choice: {_without_stop(error.message)}"
    status = next((int(code) for code in sorted(error.codes) if _STATUS.fullmatch(code)), 0)
    if status:
        return _refusal(server, status, error, f"{what} (code {status})", None, schema=False, sent={})
    if _NO_ENDPOINT.search(error.message):
        return BackendError(f"{what}. {_BASE_URL}")
    is_prompt = _FILTER.search(error.words) is not None
    status = 429 if is_rate_limit(error) else 400 if is_prompt else 500
    failure = _refusal(server, status, error, what, None, schema=False, sent={})
    if isinstance(failure, TransientError) and not failure.throttled:
        return failure.reworded(f"{what}. {_BASE_URL}")
    return failure


def _refusal(
    server: ServerInfo,
    status: int,
    error: ErrorBody,
    what: str,
    wait: float | None,
    *,
    schema: bool,
    sent: Mapping[str, Any],
) -> SelfInstructError:
    if wait is None and status in (429, 503):
        wait = requested_wait_s(error)
    if shortage := find_shortage(status, error, wait):
        return BackendError(f"{what}. {shortage.value}")
    shown = f"{' '.join(sorted(error.codes))} {error.message}"
    if schema and status in (400, 404, 415, 422, 501) and _SCHEMA.search(shown):
        what += ". The request carried a JSON schema"
        return _of_option(
            BackendError(
                f"{what}: set structured to false in the strategy's section, or choose a model that supports schemas"
            ),
            _STRUCTURED,
        )
    if status in (408, 409, 429) or status >= 500:
        return TransientError(what, retry_after=wait, throttled=status == 429)
    return _final_refusal(server, status, error, what, sent)


def _final_refusal(
    server: ServerInfo, status: int, error: ErrorBody, what: str, sent: Mapping[str, Any]
) -> SelfInstructError:
    """Return the error for a refusal that another attempt would not change."""
    code = _request_fault(status, error)
    if status in (400, 422) and code in ("", "bad_request") and (name := refused_field(error, sent)):
        text = f"{what}. {_field_remedy(name, sent[name])}"
        # How many tokens a server allows may depend on the length of the prompt, so other requests decide.
        failure = RequestError("bad_request", text) if name in LIMITS else BackendError(text)
        return _of_option(failure, _option(name, error, sent[name]))
    if code:
        return RequestError(code, f"{what}. {_forbidden(server)}" if code == "forbidden" else what)
    if status == 400 and "api key" in error.message.lower():  # Google's gateway answers a wrong key with 400
        status = 401
    return BackendError(f"{what}. {_remedy(server, status, error)}")


def _request_fault(status: int, error: ErrorBody) -> str:
    """Return the code of a fault of the request itself; "" if something else is at fault.

    A 400 about a parameter or the key would hit every request, so a setting is at fault.
    """
    words = " ".join(sorted(error.codes))
    if _FILTER.search(words) or (status in (400, 403, 451) and _FILTER.search(error.message)):
        return "content_filter"
    if status in (403, 451):  # of this prompt or of the account: how other requests fare decides
        return "content_filter" if _FLAGGED.search(error.text) else "forbidden"
    is_setting = error.codes & _SETTING or _API_VERSION.search(error.message) or "api key" in error.message.lower()
    if status not in (400, 413, 422) or is_setting:
        return ""
    return "context_length" if _CONTEXT_LENGTH.search(f"{words} {error.message}") else "bad_request"


def _option(name: str, error: ErrorBody, value: object) -> RefusedOption | None:
    """Return the option that decides a field of a request, with a value that the server accepts; None for no option."""
    if name in _SCHEMA_FIELDS:
        return _STRUCTURED
    if name in LIMITS:
        return RefusedOption("max_tokens", accepted_value(error, "max_tokens", value))
    return RefusedOption(name, accepted_value(error, name, value)) if name in _STAGE_OPTIONS else None


def _of_option(failure: SelfInstructError, option: RefusedOption | None) -> SelfInstructError:
    failure.refused_option = option
    return failure


def _field_remedy(name: str, value: object) -> str:
    """Return which setting to change if a server refuses a field of the request."""
    if name in LIMITS:
        return (
            f"It refuses {name} = {value}: lower max_tokens of the stage, or set max_tokens_name "
            f"to {LIMITS[name]} if it has that name for the limit"
        )
    if name == "n":
        return f"It refuses n = {value}, the number of choices of one request: lower quality.best_of"
    if name in _SCHEMA_FIELDS:
        return f"It refuses {name}: set structured to false in the strategy's section"
    if name in (*_STAGE_OPTIONS, "stop", "seed"):
        shown = "" if name == "stop" else f" = {value}"
        return f"It refuses {name}{shown}: change {name} of the stage, or leave it out (omit: [{name}])"
    if name in _REASONING_FIELDS:
        return f"It refuses {name}: leave out thinking or reasoning_effort (or the field in extra_body), which set it"
    return f"It refuses {name}: change it in extra_body, or remove it there"


def _remedy(server: ServerInfo, status: int, error: ErrorBody) -> str:
    if status == 401:
        return _key_remedy(server)
    if status == 403:
        return _forbidden(server)
    if _API_VERSION.search(error.text):
        return "Write the version of the API at the end of the base URL: …?api-version=2024-10-21"
    if status in (404, 405):
        return _address_remedy(server)
    if status in (400, 422):
        return f"This server refuses the settings for {server.model!r}: change them (see `omit` and `extra_body`)"
    return "Check the base URL and the account"


def _key_remedy(server: ServerInfo) -> str:
    if server.has_key:
        return f"The key in {server.key_env} was refused: set it to a valid one"
    advice = f"Set {server.key_env} to a valid key, or name" if server.key_env else "Name"
    return f"{advice} the environment variable that holds its key (--api-key-env)"


def _forbidden(server: ServerInfo) -> str:
    key, advice = "A request without a key", "name a key's variable with --api-key-env"
    if server.has_key:
        key, advice = "The key", "check the account's permissions"
    if server.key_env:
        key, advice = (f"{key} in {server.key_env}", advice) if server.has_key else (key, f"set {server.key_env}")
    return f"{key} may not use {server.model!r} here: {advice}"


def _address_remedy(server: ServerInfo) -> str:
    if not is_azure(server.url):
        return f"Check the model's name ({server.model!r}) and the base URL (it usually ends in /v1)"
    return (
        f"Check the name of the deployment ({server.model!r}) and the base URL: https://RESOURCE.openai.azure.com/"
        "openai/v1, or …/openai/deployments/NAME?api-version=2024-10-21"
    )


def _phrase(status: int) -> str:
    try:
        return f" ({HTTPStatus(status).phrase})"
    except ValueError:
        return ""


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

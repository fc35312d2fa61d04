"""Read the body of a server's error, in any of the shapes that servers use.

Pure functions of bytes, without network or client library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ErrorBody", "ServerInfo", "decoded", "excerpt", "is_error", "read_error"]

_EXCERPT = 300  # characters of a server's message that an error repeats
_MAX_TEXT = 4000  # characters of all texts of a body that are searched for words
_MAX_CODE = 100  # characters of a code, a field or a kind of error
_MAX_DEPTH = 12
_ENVELOPES = ("error", "base_resp", "errors")
_MESSAGES = ("message", "detail", "msg", "status_msg", "error_msg", "error_message")
_ECHOES = frozenset({"input", "ctx", "url", "messages", "prompt", "request", "headers", "flagged_input"})
"""Fields of an error that repeat the request or link to a manual: they do not name a cause."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server as error messages describe it. Holds no credential.

    Attributes:
        url: Base URL without user, password and query.
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


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error as a server describes it.

    Attributes:
        codes: Its codes and types, numbers as text.
        message: The beginning of its message, as one printable line without secrets.
        text: All texts of the body except repetitions of the request. May hold secrets: for searching only.
        param: The field of the request that it names; "" for none.
        details: Errors of a validator (pydantic's), as pairs of kind and location.
    """

    codes: frozenset[str] = frozenset()
    message: str = ""
    text: str = ""
    param: str = ""
    details: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def words(self) -> str:
        """Codes and texts, to be searched for words."""
        return f"{' '.join(sorted(self.codes))} {self.text}"


def read_error(server: ServerInfo, body: bytes) -> ErrorBody:
    """Return the error in a body, which need not be JSON."""
    value = decoded(body)
    if value is None:
        return ErrorBody(
            message=excerpt(server, body), text=body[: 4 * _MAX_TEXT].decode("utf-8", "replace")[:_MAX_TEXT]
        )
    envelope = value[0] if isinstance(value, list) and value else value  # Google's gateway sends a list of one
    error = _error_in(envelope) if isinstance(envelope, Mapping) else envelope
    text = " | ".join(_texts(value, _MAX_DEPTH))[:_MAX_TEXT]
    details = tuple(_details(value, _MAX_DEPTH))
    if isinstance(error, list) and error and isinstance(error[0], Mapping):
        error = error[0]
    if not isinstance(error, Mapping):
        codes = _codes(envelope) if isinstance(envelope, Mapping) else set()
        return ErrorBody(frozenset(codes), _line(server, str(error)), text, "", details)
    inner, metadata = error.get("innererror"), error.get("metadata")
    codes = _codes(error) | (_codes(inner) if isinstance(inner, Mapping) else set())
    message = next((error[name] for name in _MESSAGES if error.get(name)), "")
    shown = message if isinstance(message, str) else json.dumps(message)
    if isinstance(metadata, Mapping) and isinstance(raw := metadata.get("raw"), str):
        shown = f"{shown}: {raw}"  # a gateway repeats the error of the provider
    param = error.get("param")
    return ErrorBody(
        frozenset(codes), _line(server, shown), text, param[:_MAX_CODE] if isinstance(param, str) else "", details
    )


def is_error(value: Mapping[str, Any]) -> bool:
    """Return whether a JSON object without choices is an error, in an envelope or without one."""
    return _error_in(value) is not value or any(isinstance(value.get(name), str) for name in _MESSAGES)


def _error_in(value: Mapping[str, Any]) -> Any:
    """Return the error in an envelope; the value itself if it has no envelope."""
    return next((inner for name in _ENVELOPES if (inner := value.get(name))), value)


def _codes(error: Mapping[str, Any]) -> set[str]:
    values = (error.get(key) for key in ("code", "type", "status", "status_code"))
    return {str(value)[:_MAX_CODE] for value in values if isinstance(value, str | int) and not isinstance(value, bool)}


def _line(server: ServerInfo, text: str) -> str:
    return excerpt(server, text.encode("utf-8", "replace"))


def _texts(value: Any, depth: int, key: str = "") -> Iterator[str]:
    """Yield every text in a JSON value after its key; a text that is JSON itself is read too."""
    if depth == 0:
        return
    if isinstance(value, str):
        inner = _nested(value)
        if inner is None:
            yield f"{key}: {value[:_MAX_TEXT]}" if key else value[:_MAX_TEXT]
        else:
            yield from _texts(inner, depth - 1)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if name not in _ECHOES:
                yield from _texts(part, depth - 1, name)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, depth - 1, key)


def _details(value: Any, depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield kind and location of every error of a validator in a JSON value."""
    if depth == 0:
        return
    if isinstance(value, str) and (inner := _nested(value)) is not None:
        yield from _details(inner, depth - 1)
    elif isinstance(value, Mapping):
        location = value.get("loc")
        if isinstance(location, list):
            kind = " ".join(str(value.get(key, ""))[:_MAX_CODE] for key in ("type", "msg"))
            yield kind, tuple(str(part)[:_MAX_CODE] for part in location[:_MAX_DEPTH])
        for part in value.values():
            yield from _details(part, depth - 1)
    elif isinstance(value, list):
        for part in value:
            yield from _details(part, depth - 1)


def _nested(text: str) -> Any:
    """Return the JSON object or list that a text holds; None if it holds none."""
    value = decoded(text.encode("utf-8", "replace")) if text.lstrip()[:1] in ("{", "[") else None
    return value if isinstance(value, dict | list) else None


def decoded(body: bytes) -> Any:
    """Return the JSON value, or None if the body is not JSON.

    Python's parser is lenient, so that a NaN among a server's timings does not lose a text. The parser's error is
    dropped because it would carry the body into every traceback.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def excerpt(server: ServerInfo, body: bytes) -> str:
    """Return the beginning of a body as one printable line.

    Secrets are hidden before the text is cut: half a key would not be recognised.
    """
    text = server.hide(body.decode("utf-8", "replace"))[: 4 * _EXCERPT]
    if text.lstrip().startswith("<"):
        text = re.sub(r"<[^>]*>?", " ", text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _EXCERPT else line[:_EXCERPT] + "…"

"""Read why a server refused a whole batch, from the batch itself and from its error file.

Pure functions, without network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["LineError", "error_text", "line_errors", "listed_errors", "refusal_message"]

LineError = tuple[str, int, bytes]
"""The custom id of a request, and the status and body of its error, as the server would answer a single request."""

_INVALID = 400  # status of an error that has none


def listed_errors(names: Sequence[str], state: Mapping[str, Any]) -> Iterator[LineError]:
    """Yield the errors that a refused batch lists; the first request stands for the batch as a whole.

    Args:
        names: Custom ids of the batch, in the order of its lines.
        state: The batch as the server describes it.
    """
    for error in _errors(state):
        line = error.get("line")
        index = line - 1 if isinstance(line, int) and 0 < line <= len(names) else 0
        yield names[index], _INVALID, _body(error)


def line_errors(names: Collection[str], line: Mapping[str, Any]) -> Iterator[LineError]:
    """Yield the error in a line of an error file, if it is about one of the requests."""
    name, response, error = line.get("custom_id"), line.get("response"), line.get("error")
    if not isinstance(name, str) or name not in names:
        return
    status = response.get("status_code") if isinstance(response, Mapping) else None
    if isinstance(response, Mapping) and isinstance(status, int) and status != 200:
        yield name, status, json.dumps(response.get("body")).encode()
    elif isinstance(error, Mapping):
        yield name, _INVALID, _body(error)


def refusal_message(batch: str, state: Mapping[str, Any], concurrency: int, hide: Callable[[str], str]) -> str:
    """Return why a batch was refused, and what to do.

    Args:
        batch: The server's id of the batch.
        state: The batch as the server describes it.
        concurrency: Most requests that are submitted at once.
        hide: Removes the key from a text.
    """
    listed = _errors(state)
    reasons = "; ".join(error_text(error, hide) for error in listed[:3]) or "it does not say why"
    remedy = "Correct that"
    if any(error.get("code") == "token_limit_exceeded" for error in listed):
        remedy = "Wait until the account's other batches are done, or submit less at once "
        remedy += f"(--concurrency, now {concurrency})"
    return hide(f"batch {batch} was refused: {reasons}. {remedy}, then run the same command to continue")


def error_text(error: Mapping[str, Any], hide: Callable[[str], str]) -> str:
    """Return the server's description of an error. A key in it is hidden before the text is cut."""
    text = ": ".join(str(error[name]) for name in ("code", "message") if error.get(name))
    line = f" (line {error['line']})" if error.get("line") else ""
    text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(hide(text).split())[:300] + line


def _errors(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    errors = state.get("errors")
    data = errors.get("data") if isinstance(errors, Mapping) else errors
    return [error for error in data if isinstance(error, Mapping)] if isinstance(data, list) else []


def _body(error: Mapping[str, Any]) -> bytes:
    return json.dumps({"error": dict(error)}).encode()

"""Requests in the form in which the ledger stores them: template names and variables instead of rendered text.

Long texts are stored once, by digest, and shared: variables of templates and strings anywhere in a context.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from selfinstruct.common.codec import Json, digest
from selfinstruct.ledger.schema import LONG_TEXT
from selfinstruct.prompts import Prompts
from selfinstruct.records import Request, Sampling

__all__ = ["pack", "unpack"]


def pack(request: Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the stored form of a request.

    Long strings of the context are replaced by null, and ``context_texts`` lists the path and the digest of each. A
    reference inside the context would be ambiguous, since a context may hold any JSON.

    Returns:
        The JSON form, without the number of the request, and the long texts that it refers to, by digest.
    """
    texts: dict[str, bytes] = {}

    def store(text: str) -> str:
        body = text.encode("utf-8")
        texts[name := digest(body)] = body
        return name

    def variable(text: str) -> Any:
        return {"text": store(text)} if _is_long(text) else text

    turns = [
        {
            "role": turn.role,
            "template": turn.template,
            "variables": {name: variable(text) for name, text in turn.variables.items()},
        }
        for turn in request.turns
    ]
    sampling: dict[str, Any] = request.sampling.to_json()
    if "schema" in sampling:  # the same for every request of a stage, so stored by digest at any length
        sampling["schema"] = {"text": store(sampling["schema"])}
    context = request.stored_context
    value = {
        "stage": request.stage,
        "turns": turns,
        "sampling": sampling,
        "context": _without_long_strings(context),
        "parent": request.parent,
    }
    if references := [[*path, store(text)] for path, text in _long_strings(context)]:
        value["context_texts"] = references
    return value, texts


def unpack(value: Mapping[str, Any], number: int, prompts: Prompts, text: Callable[[str], str]) -> Request:
    """Return a request from its stored form, with its text rendered again.

    Args:
        value: What ``pack`` returned; older ledgers store the whole context in it.
        number: The number of the request.
        prompts: The templates.
        text: Returns a long text by its digest.
    """
    turns = tuple(
        prompts.turn(
            turn["role"],
            turn["template"],
            {
                name: stored if isinstance(stored, str) else text(stored["text"])
                for name, stored in turn["variables"].items()
            },
        )
        for turn in value["turns"]
    )
    sampling = dict(value["sampling"])
    if "schema" in sampling:
        sampling["schema"] = text(sampling["schema"]["text"])
    context = value["context"]
    if references := value.get("context_texts"):
        context = copy.deepcopy(context)
        for *path, key, name in references:
            parent = context
            for step in path:
                parent = parent[step]
            parent[key] = text(name)
    return Request.from_stored(value["stage"], turns, Sampling.from_json(sampling), context, value["parent"], number)


def _is_long(text: str) -> bool:
    return len(text.encode("utf-8")) > LONG_TEXT


def _long_strings(value: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the path and the text of each long string in a JSON value."""
    if isinstance(value, str):
        if _is_long(value):
            yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _long_strings(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _long_strings(item, (*path, index))


def _without_long_strings(value: Json) -> Any:
    """Return a copy of a JSON value with null in place of each long string."""
    if isinstance(value, str):
        return None if _is_long(value) else value
    if isinstance(value, Mapping):
        return {key: _without_long_strings(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_long_strings(item) for item in value]
    return value

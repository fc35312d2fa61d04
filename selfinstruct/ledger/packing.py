"""Requests in the form in which the ledger stores them: template names and variables instead of rendered text.

Long texts are stored once, by digest, and shared: variables of templates and strings anywhere in a context.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
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
    references: list[list[str | int]] = []
    value = {
        "stage": request.stage,
        "turns": turns,
        "sampling": sampling,
        "context": _without_long_strings(request.stored_context, (), references, store),
        "parent": request.parent,
    }
    if references:
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


_SHORT = LONG_TEXT // 4  # a text of so few characters is never long, since a character takes four bytes at most


def _is_long(text: str) -> bool:
    return len(text) > _SHORT and len(text.encode("utf-8")) > LONG_TEXT


def _without_long_strings(
    value: Json, path: tuple[str | int, ...], references: list[list[str | int]], store: Callable[[str], str]
) -> Any:
    """Return a JSON value with null in place of each long string; append the path and the digest of each string."""
    if isinstance(value, str):
        if not _is_long(value):
            return value
        references.append([*path, store(value)])
        return None
    if isinstance(value, Mapping):
        items = value.items()
        return {key: _without_long_strings(item, (*path, key), references, store) for key, item in items}
    if isinstance(value, list | tuple):
        # Most lists hold short strings only, of which a context may have dozens.
        if all(type(item) is str and len(item) <= _SHORT for item in value):
            return value
        return [_without_long_strings(item, (*path, index), references, store) for index, item in enumerate(value)]
    return value

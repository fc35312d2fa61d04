"""A request as it is stored: the names of its templates and their variables, not the text that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfinstruct.common.codec import digest
from selfinstruct.ledger.schema import LONG_TEXT
from selfinstruct.prompts import Prompts
from selfinstruct.records import Request, Sampling

__all__ = ["pack", "unpack"]


def pack(request: Request) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON form of a request but for its number, and the long texts that it names by digest."""
    texts: dict[str, bytes] = {}

    def variable(value: str) -> Any:
        body = value.encode("utf-8")
        if len(body) <= LONG_TEXT:
            return value
        texts[name := digest(body)] = body
        return {"text": name}

    turns = [
        {
            "role": turn.role,
            "template": turn.template,
            "variables": {name: variable(text) for name, text in turn.variables.items()},
        }
        for turn in request.turns
    ]
    sampling: dict[str, Any] = request.sampling.to_json()
    if "schema" in sampling:  # the same for every request of a stage, so kept apart whatever its length
        body = sampling["schema"].encode("utf-8")
        texts[name := digest(body)] = body
        sampling["schema"] = {"text": name}
    value = {
        "stage": request.stage,
        "turns": turns,
        "sampling": sampling,
        "context": request.stored_context,
        "parent": request.parent,
    }
    return value, texts


def unpack(value: Mapping[str, Any], number: int, prompts: Prompts, text: Callable[[str], str]) -> Request:
    """The request again, its text rendered from the templates; ``text`` finds a long text by its digest."""
    turns = tuple(
        prompts.turn(
            turn["role"],
            turn["template"],
            {name: one if isinstance(one, str) else text(one["text"]) for name, one in turn["variables"].items()},
        )
        for turn in value["turns"]
    )
    sampling = dict(value["sampling"])
    if "schema" in sampling:
        sampling["schema"] = text(sampling["schema"]["text"])
    return Request.from_stored(
        value["stage"], turns, Sampling.from_json(sampling), value["context"], value["parent"], number
    )

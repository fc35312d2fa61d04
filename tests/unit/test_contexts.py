"""The codec between context dataclasses and the JSON of requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pytest

from selfinstruct.common.codec import Json, dumps, loads
from selfinstruct.errors import LedgerError
from selfinstruct.records import Request, Sampling
from selfinstruct.strategies.shared.contexts import context_json, read_context, stored_as


class Pair(NamedTuple):
    id: str
    text: str


@dataclass(frozen=True)
class Inner:
    name: str
    verifier: Mapping[str, Json]


@dataclass(frozen=True)
class Context:
    texts: tuple[str, ...] = stored_as("said")
    count: int = stored_as("count")
    share: float = stored_as("share")
    audited: bool = stored_as("audited")
    role: Literal["user", "assistant"] = stored_as("role")
    scale: tuple[int, int] = stored_as("scale")
    current: Pair = stored_as("current")  # noqa: RUF009  (a field)
    inner: tuple[Inner, ...] = stored_as("inner")
    verifier: Mapping[str, Json] | None = None
    task: str | None = None


CONTEXT = Context(
    ("a", ""), 3, 0.5, True, "user", (1, 5), Pair("s1", "Name it."), (Inner("words", {"kind": "words", "max": 5}),)
)
STORED: dict[str, Any] = {
    "said": ["a", ""],
    "count": 3,
    "share": 0.5,
    "audited": True,
    "role": "user",
    "scale": [1, 5],
    "current": ["s1", "Name it."],
    "inner": [{"name": "words", "verifier": {"kind": "words", "max": 5}}],
}


def request(context: Mapping[str, Json]) -> Request:
    return Request("compare", (), Sampling(5), context, number=4)


def test_a_context_is_stored_as_json_without_fields_that_are_none() -> None:
    assert context_json(CONTEXT) == STORED
    assert context_json(Inner("words", {})) == {"name": "words", "verifier": {}}


def test_a_stored_context_is_read_back() -> None:
    stored = loads(dumps(STORED))
    assert read_context(Context, request(stored)) == CONTEXT
    with_optional = {**stored, "task": "3.0", "verifier": {"kind": "number"}}
    context = read_context(Context, request(with_optional))
    assert (context.task, context.verifier) == ("3.0", {"kind": "number"})
    assert read_context(Context, request({**stored, "more": 1})) == CONTEXT, "further keys are ignored"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("said", "ab"),
        ("said", ["a", 1]),
        ("count", "3"),
        ("count", True),
        ("audited", 1),
        ("role", "system"),
        ("scale", [1, 2, 3]),
        ("current", ["s1"]),
        ("inner", [{"name": "words"}]),
        ("verifier", ["number"]),
        ("task", 3),
    ],
)
def test_a_context_of_another_form_is_refused(key: str, value: Any) -> None:
    with pytest.raises(LedgerError, match=r"request 4 \(compare\): its context is not a Context"):
        read_context(Context, request({**STORED, key: value}))


@pytest.mark.parametrize("key", STORED)
def test_a_missing_field_is_refused(key: str) -> None:
    with pytest.raises(LedgerError, match="its context is not a Context"):
        read_context(Context, request({name: value for name, value in STORED.items() if name != key}))

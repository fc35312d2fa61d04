"""Any answer of a server becomes a completion or one of our errors, with text that any file can hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.backends.openai.answers import read_answer
from selfinstruct.backends.openai.refusals import ServerInfo, read_refusal, retry_after_s
from selfinstruct.common.codec import canonical, loads
from selfinstruct.errors import SelfInstructError
from selfinstruct.records import Completion
from tests.abuse.test_input import BAD

PEER = ServerInfo("http://h/v1", "m", "KEY", True)
# Halves of surrogate pairs too, which JSON's escapes can hold.
TEXT = st.text(max_size=20) | st.lists(st.sampled_from([*"\ud800\ud83d\ude00\udfffa\n"]), max_size=5).map("".join)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
FIELDS = st.sampled_from(
    [
        "choices",
        "text",
        "message",
        "content",
        "refusal",
        "finish_reason",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "prompt_tokens_details",
        "cached_tokens",
        "model",
        "error",
        "code",
        "type",
        "innererror",
        "detail",
    ]
)
ANSWERS = st.recursive(
    SCALARS | VALUES,
    lambda inner: st.dictionaries(FIELDS, inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=30,
)


COUNTS = SCALARS | st.integers(-(2**70), 2**70)
WHOLE = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {
                    "text": TEXT,
                    "message": st.fixed_dictionaries({"content": TEXT | st.none()}),
                    "finish_reason": SCALARS,
                }
            ),
            min_size=1,
            max_size=3,
        ),
        "model": SCALARS,
        "usage": st.fixed_dictionaries({"prompt_tokens": COUNTS, "completion_tokens": COUNTS}),
    }
)


def _read(body: bytes, status: int) -> None:
    for chat in (False, True):
        said = ""
        try:
            found = read_answer(PEER, body, chat=chat)
        except SelfInstructError as error:
            said = str(error)
        else:
            assert Completion.from_json(loads(canonical(found.to_json()))) == found, "the ledger can hold it"
        assert len(said) < 1000
        assert said.isprintable()
    assert isinstance(read_refusal(PEER, status, {}, body), SelfInstructError)


@settings(deadline=None, max_examples=300)
@given(ANSWERS | st.fixed_dictionaries({"choices": st.lists(ANSWERS, max_size=2)}), st.integers(100, 999))
def test_any_json_answer_is_handled(value: Any, status: int) -> None:
    body = json.dumps(value).encode()
    _read(body, status)


@settings(deadline=None, max_examples=200)
@given(WHOLE)
def test_any_text_of_a_completion_can_be_stored(value: Any) -> None:
    found = read_answer(PEER, json.dumps(value).encode(), chat=False)
    assert len(found.choices) == len(value["choices"])
    _read(json.dumps(value).encode(), 200)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(100, 999))
def test_any_bytes_are_handled(body: bytes, status: int) -> None:
    _read(body, status)


@pytest.mark.parametrize("kind", BAD)
def test_invalid_json_in_an_answer_is_handled(kind: str) -> None:
    _read(b'{"choices": [{"text": "x", "message": {"content": "x"}}], "extra": ' + BAD[kind] + b"}", 500)


@settings(deadline=None)
@given(st.text() | st.integers().map(str) | st.floats().map(str))
def test_retry_after_is_a_number_or_none(text: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        wait = retry_after_s({name: text})
        assert wait is None or 0 <= wait < float("inf")


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 01 Jan 99999 00:00:00 GMT",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 99999999999999999999 Jan 2026 00:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 2026 99999999999999999999:00:00 GMT",
        "Mon, 01 Jan " + "9" * 5000 + " 00:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "9" * 5000,
        "1e999",
        "-1e999",
        "nan",
        "0x10",
        "",
    ],
)
def test_an_invalid_retry_after_is_ignored(text: str) -> None:
    wait = retry_after_s({"retry-after": text})
    assert wait is None or 0 <= wait < float("inf")

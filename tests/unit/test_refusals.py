"""What the refusals of many servers ask for, in the servers' own words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from selfinstruct.backends.openai.dialect import Demand, Dialect, accepted_value, read_demand
from selfinstruct.backends.openai.error_body import ServerInfo, read_error
from selfinstruct.backends.openai.refusals import read_error_answer, read_refusal
from selfinstruct.errors import BackendError, RequestError, TransientError
from tests.cli import ROOT

INFO = ServerInfo("http://h/v1", "m", "KEY", True)
SENT: dict[str, Any] = {
    "model": "m", "messages": [], "max_tokens": 9, "temperature": 0.7, "top_p": 1.0, "frequency_penalty": 0.5,
    "presence_penalty": 0.5, "stop": ["x"], "seed": 5, "n": 2,
}  # fmt: skip


def error(message: str, **fields: Any) -> dict[str, Any]:
    """Return an error object of the usual shape."""
    return {"error": {"message": message, **fields}}


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _recorded(key: str) -> list[tuple[int, bytes, Any]]:
    """Return the recorded refusals with an expectation of this kind: status, body and expectation."""
    records = [json.loads(line) for line in (ROOT / "tests" / "refusals.jsonl").read_text("utf-8").splitlines()]
    return [
        (record["status"], _bytes(record["body"]) if "body" in record else record["text"].encode(), record[key])
        for record in records
        if key in record
    ]


@pytest.mark.parametrize(("status", "body", "expected"), _recorded("asks"))
def test_what_a_refusal_asks_to_change(status: int, body: bytes, expected: Any) -> None:
    demand = read_demand(status, read_error(INFO, body), SENT)
    if expected is None:
        assert demand is None
    else:
        wanted = Demand(stream=True) if expected == "stream" else Demand(frozenset(expected))
        assert demand == wanted


def test_a_setting_of_the_user_is_not_changed() -> None:
    body = read_error(INFO, _bytes(error("Unsupported parameter: 'seed'", param="seed")))
    assert read_demand(400, body, SENT, fixed={"seed"}) is None
    assert read_demand(429, body, SENT) is None, "a rate limit is about no parameter"


def test_a_dialect_renames_the_limit_of_chat_requests_only() -> None:
    dialect = Dialect(frozenset({"max_tokens", "top_p"}), stream=True)
    chat = dialect.apply(SENT)
    assert chat["max_completion_tokens"] == 9
    assert not chat.keys() & {"max_tokens", "top_p"}
    assert (chat["stream"], chat["stream_options"]) == (True, {"include_usage": True})
    assert dialect.apply({"prompt": "Once", "max_tokens": 9, "top_p": 1.0})["max_tokens"] == 9
    back = dialect.adapted(Demand(frozenset({"max_completion_tokens"})))
    assert "max_tokens" in back.apply(SENT)


@pytest.mark.parametrize(("status", "body", "expected"), _recorded("means"))
def test_an_empty_account_is_no_rate_limit(status: int, body: bytes, expected: str) -> None:
    assert _kind(read_refusal(INFO, status, {}, body)) == expected


def _kind(failure: Exception) -> str:
    """Return a short description of an error: its type, and what it says about waiting or the account."""
    if isinstance(failure, TransientError):
        wait = "" if failure.retry_after is None else f":{failure.retry_after:g}"
        return f"T{'t' if failure.throttled else ''}{wait}"
    if isinstance(failure, RequestError):
        return f"R:{failure.code}"
    return "B:credit" if "no credit" in str(failure) else "B:period" if "this period" in str(failure) else "B"


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "B", "Check the base URL"),
        ({"timestamp": 1, "status": 404, "error": "Not Found", "path": "/chat/completions"}, "B", "base URL"),
        ({"detail": "Not Found"}, "B", "base URL"),
        (error("overloaded"), "T", "Check the base URL"),
        (error("余额不足", code="1113"), "B:credit", "raise it"),
        (error("slow down", code="429"), "Tt", "429"),
        (error("Insufficient credits", code=402), "B:credit", "raise it"),
        (
            {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}, "choices": None},
            "B:credit",
            "raise",
        ),
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit exceeded(RPM)"}}, "Tt", "rate limit"),
        ({"code": 401, "msg": "token is expired", "success": False}, "B", "was refused"),
    ],
)
def test_an_error_with_status_200(body: Any, kind: str, says: str) -> None:
    failure = read_error_answer(INFO, _bytes(body))
    assert _kind(failure) == kind
    assert says in str(failure)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (error("Range of temperature should be [0.0, 2.0)"), "temperature = 0.7: change temperature of the stage"),
        (error("max_tokens is too large: 9. At most 4 are supported.", param="max_tokens"), "set max_tokens_name"),
        (error("n must be 1"), "lower quality.best_of"),
        (error("API version not supported"), "?api-version="),
    ],
)
def test_a_refused_value_names_the_setting(body: Any, says: str) -> None:
    failure = read_refusal(INFO, 400, {}, _bytes(body), sent=SENT)
    assert isinstance(failure, BackendError | RequestError)
    assert says in str(failure)


@pytest.mark.parametrize(
    ("message", "accepted"),
    [
        ("temperature must be <= 1", "1"),
        ("Expected a value <= 1.5, but got 1.7 instead (model gpt-4.1)", "1.5"),
        ("temperature must be between 0 and 1", "1"),
        ("range 0-1.2", "1.2"),
        ("temperature: Input should be less than or equal to 1, input 1.7", "1"),
        ("temperature must be in [0.0, 1.0)", ""),
        ("temperature must be strictly less than 1", ""),
        ("temperature is not supported by model 4", ""),
        ("temperature exceeds the maximum", ""),
    ],
)
def test_the_nearest_value_that_a_server_accepts(message: str, accepted: str) -> None:
    assert accepted_value(read_error(INFO, _bytes(error(message))), "temperature", 1.7) == accepted

"""The openai backend against a real server on loopback: requests, answers, and the party at fault in each failure."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import subprocess
import sys
import traceback
import zlib
from datetime import UTC, date, datetime
from typing import Any

import pytest

from selfinstruct.backends import backend_names, backend_spec, open_backend
from selfinstruct.backends.openai.answers import read_answer
from selfinstruct.backends.openai.backend import OpenAIBackend, OpenAIOptions
from selfinstruct.backends.openai.keys import redacted, without_key
from selfinstruct.backends.openai.refusals import ServerInfo, read_refusal, retry_after_s
from selfinstruct.backends.openai.server import Server
from selfinstruct.common.codec import canonical
from selfinstruct.common.config import build, to_plain
from selfinstruct.errors import BackendError, ConfigError, RequestError, SelfInstructError, TransientError
from selfinstruct.records import Completion, PromptMessage, Request, Sampling, Usage
from tests.loopback import Fault, Loopback, Reply

CANARY = "sk-canary-7f3a91c4e5"
INFO = ServerInfo("http://h/v1", "m", "OPENAI_API_KEY", True)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)


def raw(text: str = "Once", **sampling: Any) -> Request:
    return Request("s", (PromptMessage("prompt", "t", {}, text),), Sampling(**{"max_tokens": 9, **sampling}))


def chat(text: str = "Hello", **sampling: Any) -> Request:
    turns = (PromptMessage("system", "t", {}, "Be brief."), PromptMessage("user", "t", {}, text))
    return Request("s", turns, Sampling(**{"max_tokens": 9, **sampling}))


async def _complete(options: OpenAIOptions, request: Request) -> Completion:
    backend = OpenAIBackend(options)
    await backend.start()
    try:
        return await backend.complete(request)
    finally:
        await backend.close()


def complete(server: Loopback, request: Request, **options: Any) -> Completion:
    return asyncio.run(_complete(OpenAIOptions(**{"base_url": server.url, "model": "m", **options}), request))


def failure(fault: Fault, request: Request | None = None, **options: Any) -> SelfInstructError:
    """Return the error caused by one fault, after checking that exactly one attempt arrived."""
    with Loopback(faults={1: fault}) as server:
        with pytest.raises(SelfInstructError) as caught:
            complete(server, request or raw(), **options)
        assert len(server.arrived) == 1, "a backend makes one attempt"
    return caught.value


# Requests


def test_a_raw_prompt_goes_to_the_completions_endpoint() -> None:
    with Loopback(lambda body: body["prompt"] + " upon") as server:
        completion = complete(server, raw("Once"))
        assert completion.text == "Once upon"
        assert completion.model == "m"
        assert completion.usage == Usage(1, 2, 0)
        [arrived] = server.arrived
    assert arrived.path == "/v1/completions"
    assert arrived.body == {"model": "m", "prompt": "Once", "max_tokens": 9, "temperature": 0.7, "top_p": 1.0}
    assert arrived.headers["authorization"] == "Bearer none"


def test_messages_go_to_the_chat_endpoint_with_all_sampling_that_differs_from_the_defaults() -> None:
    sampling = {"temperature": 0.0, "top_p": 0.5, "frequency_penalty": 0.25, "presence_penalty": -1.0}
    request = chat("Hello", **sampling, stop=("\n15.", "END"), n=2, seed=7)
    with Loopback(lambda body: ["one", Reply("two", "length")]) as server:
        completion = complete(server, request)
        [arrived] = server.arrived
    assert [(choice.text, choice.finish_reason) for choice in completion.choices] == [
        ("one", "stop"),
        ("two", "length"),
    ]
    assert arrived.path == "/v1/chat/completions"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    expected = {"model": "m", "messages": messages, "max_tokens": 9, "n": 2, "seed": 7, "stop": ["\n15.", "END"]}
    assert arrived.body == {**expected, **sampling}


def test_max_tokens_name_omit_and_extra_body_change_the_body() -> None:
    with Loopback() as server:
        options = {"max_tokens_name": "max_completion_tokens", "omit": ("temperature", "top_p")}
        complete(server, chat(seed=1), **options, extra_body={"top_k": 5, "seed": 2})
        [arrived] = server.arrived
    assert arrived.body.keys() == {"model", "messages", "max_completion_tokens", "seed", "top_k"}
    assert arrived.body["seed"] == 2, "extra_body wins"


def test_openai_receives_its_own_name_for_the_token_limit() -> None:
    options = OpenAIOptions(model="m")
    server = Server(options, options.addresses[0])
    assert "max_completion_tokens" in server.body(chat())
    assert "max_tokens" in server.body(raw())


def test_only_the_key_in_the_named_variable_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer other")
    monkeypatch.setenv("MY_KEY", " local-key\n")
    with Loopback() as server:
        complete(server, raw(), api_key_env="MY_KEY")
        complete(server, raw(), api_key_env="UNSET_KEY")
        complete(server, raw())
        mine, none, other = server.arrived
    assert mine.headers["authorization"] == "Bearer local-key"
    assert none.headers["authorization"] == other.headers["authorization"] == "Bearer none"
    assert "org-mine" not in str(mine.headers)
    assert "proj-mine" not in str(mine.headers)


def test_a_proxy_in_the_environment_is_not_used_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Loopback() as server:
        assert complete(server, raw()).text == "ok"


def test_redirects_are_followed_up_to_a_limit() -> None:
    with Loopback(faults={1: Fault(307, {"location": "/v1/completions"})}) as server:
        assert complete(server, raw("a")).text == "ok"
        first, second = server.arrived
    assert first.body == second.body
    with Loopback(faults=lambda number, body: Fault(308, {"location": "/v1/completions"})) as server:
        with pytest.raises(BackendError, match="answered 308"):
            complete(server, raw())
        assert len(server.arrived) == 6
    with Loopback() as other, Loopback(faults={1: Fault(307, {"location": f"{other.url}/completions"})}) as server:
        assert complete(server, raw(), api_key_env="UNSET_KEY").text == "ok"
        assert "authorization" not in other.arrived[0].headers, "a key is sent to no other server"


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    body = b'{"choices": [{"text": "0123456789", "finish_reason": "stop"}]}'
    monkeypatch.setattr("selfinstruct.backends.openai.server._MAX_BYTES", len(body))
    for coding, packed in (("identity", body), ("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        fault = Fault(200, {"content-encoding": coding}, packed)
        with Loopback(faults={1: fault}) as server:
            assert complete(server, raw()).text == "0123456789"
    for coding, packed in (("identity", body + b" "), ("gzip", gzip.compress(body + b" "))):
        error = failure(Fault(status, {"content-encoding": coding}, packed))
        assert isinstance(error, TransientError)
        assert "answered with more than" in str(error)
        assert error.__context__ is None


def test_many_requests_at_once_share_one_client() -> None:
    async def go(url: str) -> list[str]:
        backend = OpenAIBackend(OpenAIOptions(base_url=url, model="m"))
        await backend.start()
        try:
            return [
                completion.text
                for completion in await asyncio.gather(*(backend.complete(raw(str(k))) for k in range(40)))
            ]
        finally:
            await backend.close()

    with Loopback(lambda body: f"<{body['prompt']}>") as server:
        assert asyncio.run(go(server.url)) == [f"<{k}>" for k in range(40)]
        assert len(server.arrived) == 40


# Answers


def test_text_is_returned_unchanged() -> None:
    text = ' {"a": 1}\r\n\t\u2028 \u0000 é 漢 🙂\n'
    with Loopback(lambda body: text) as server:
        assert complete(server, raw()).text == text
        assert complete(server, chat()).text == text


def test_half_an_emoji_at_the_token_limit_becomes_a_replacement_character() -> None:
    body = b'{"choices": [{"text": "ok \\ud83d", "finish_reason": "length"}], "timings": NaN}'
    completion = read_answer(INFO, body, chat=False)
    assert completion.text == "ok \ufffd"
    assert Completion.from_json(completion.to_json()) == completion
    pair = read_answer(INFO, b'{"choices": [{"text": "\\ud83d\\ude42", "finish_reason": "stop"}]}', chat=False)
    assert pair.text == "🙂"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "a"}, "a"),
        ({"content": None, "reasoning_content": "hm"}, ""),
        ({"role": "assistant"}, ""),
        ({"content": None, "refusal": "I won't."}, "I won't."),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
    ],
)
def test_shapes_of_a_chat_message(message: dict[str, Any], text: str) -> None:
    with Loopback(lambda body: {"choices": [{"message": message, "finish_reason": "length"}]}) as server:
        completion = complete(server, chat())
    assert completion.text == text
    assert completion.truncated
    assert completion.usage == Usage(), "a server that doesn't count leaves zeros"
    assert completion.model == "m"


def test_a_null_finish_reason_and_odd_usage() -> None:
    body = {
        "choices": [{"text": "a", "finish_reason": None}],
        "usage": {"prompt_tokens": True, "completion_tokens": -1},
    }
    with Loopback(lambda _: body) as server:
        completion = complete(server, raw())
    assert completion.choices[0].finish_reason == "unknown"
    assert completion.usage == Usage()


@pytest.mark.parametrize("count", [-1, 2**31, 2**63, 10**30, 7.0, 7.5, "7", None, True, [7]])
def test_an_invalid_count_of_tokens_is_read_as_zero(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": count}}
    body = json.dumps({"choices": [{"text": "a"}], "usage": usage}).encode()
    assert read_answer(INFO, body, chat=False).usage == Usage()


def test_a_large_count_of_tokens_is_accepted() -> None:
    body = json.dumps({"choices": [{"text": "a"}], "usage": {"prompt_tokens": 2**31 - 1}}).encode()
    assert read_answer(INFO, body, chat=False).usage == Usage(2**31 - 1, 0, 0)


def test_half_an_emoji_in_model_name_or_finish_reason_is_replaced() -> None:
    body = b'{"model": "m\\udc00", "choices": [{"text": "a", "finish_reason": "end \\ud83d"}]}'
    completion = read_answer(INFO, body, chat=False)
    assert (completion.model, completion.choices[0].finish_reason) == ("m\ufffd", "end \ufffd")
    canonical(completion.to_json())


# Faults

CONTEXT = {
    "error": {"message": "This model's maximum context length is 4096 tokens", "code": "context_length_exceeded"}
}
POLICY = {"error": {"message": "filtered", "code": "content_filter"}}
AZURE = {"error": {"message": "no", "code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(400), "bad_request"),
        (Fault(422, body={"detail": [{"msg": "stop: too many"}]}), "bad_request"),
        (Fault(413, body="<html>Request Entity Too Large</html>"), "bad_request"),
        (Fault(400, body=CONTEXT), "context_length"),
        (Fault(400, body={"object": "error", "message": "maximum context length is 2048 tokens"}), "context_length"),
        (
            Fault(400, body={"error": {"type": "exceed_context_size_error", "message": "x", "code": 400}}),
            "context_length",
        ),
        (Fault(400, body=POLICY), "content_filter"),
        (Fault(403, body=POLICY), "content_filter"),
        (Fault(403, body={"error": {"message": "flagged by moderation"}}), "content_filter"),
        (Fault(403), "forbidden"),
        (Fault(451, body={"error": {"message": "unavailable"}}), "forbidden"),
        (Fault(400, body=AZURE), "content_filter"),
        (Fault(200, body={"choices": [{"text": "", "finish_reason": "content_filter"}]}), "content_filter"),
        (Fault(200, body={"choices": [{"text": None, "finish_reason": "content_filter"}]}), "content_filter"),
        (Fault(200, body={"error": {"code": 400, "message": "bad"}}), "bad_request"),
    ],
)
def test_faults_of_the_request(fault: Fault, code: str) -> None:
    error = failure(fault)
    assert isinstance(error, RequestError)
    assert error.code == code
    assert "127.0.0.1" in str(error)


def test_filtered_text_that_has_content_is_kept() -> None:
    with Loopback(lambda body: Reply("half a senten", "content_filter")) as server:
        assert complete(server, raw()).choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(401), "Name the environment variable that holds its key"),
        (Fault(404), "Check the model's name ('m') and the base URL (it usually ends in /v1)"),
        (Fault(404, body="<html><title>nginx</title>"), "nginx"),
        (Fault(405), "base URL"),
        (Fault(402), "no credit or quota"),
        (Fault(418), "I'm a Teapot"),
        (Fault(429, body={"error": {"message": "You exceeded", "code": "insufficient_quota"}}), "quota left"),
        (Fault(400, body={"error": {"message": "hard limit", "code": "billing_hard_limit_reached"}}), "quota left"),
        (Fault(400, body={"error": {"message": "the role", "code": "unsupported_value"}}), "`omit`"),
        (Fault(400, body=[{"error": {"message": "API key not valid", "code": 400}}]), "Name the environment variable"),
        (Fault(200, body={"error": {"code": 401, "message": "who?"}}), "who?"),
    ],
)
def test_faults_of_the_server_or_the_account(fault: Fault, says: str) -> None:
    error = failure(fault)
    assert isinstance(error, BackendError)
    assert not isinstance(error, TransientError)
    assert says in str(error)


def test_a_refused_key_is_identified_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    assert "The key in MY_KEY was refused" in str(failure(Fault(401), api_key_env="MY_KEY"))
    assert "The key in MY_KEY may not use 'm'" in str(failure(Fault(403), api_key_env="MY_KEY"))
    monkeypatch.delenv("MY_KEY")
    expected = "A request without a key may not use 'm' here: set MY_KEY"
    assert expected in str(failure(Fault(403), api_key_env="MY_KEY"))


def test_a_403_without_a_key_names_no_variable() -> None:
    assert "A request without a key may not use 'm' here: name a key's variable" in str(failure(Fault(403)))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(408), "408"),
        (Fault(409), "409"),
        (Fault(500), "500"),
        (Fault(502, body="<html>Bad gateway</html>"), "Bad gateway"),
        (Fault(529, body=""), "529"),
        (Fault(200, body='{"choices": [{"te'), "broken JSON"),
        (Fault(200, body="<!doctype html><p>hi"), "web page"),
        (Fault(200, body=""), "empty body"),
        (Fault(200, body=b"\xff\xfe\x00"), "broken JSON"),
        (Fault(200, body="[" * 100_000), "broken JSON"),
        (Fault(200, body="[1]"), "not an object"),
        (Fault(200, body={}), "without any choice"),
        (Fault(200, body={"choices": []}), "without any choice"),
        (Fault(200, body={"choices": "none"}), "without any choice"),
        (Fault(200, body={"choices": [3]}), "not an object"),
        (Fault(200, body={"choices": [{"finish_reason": "stop"}]}), "without text"),
        (Fault(200, body={"choices": [{"text": 5}]}), "without text"),
        (Fault(200, body={"error": {"message": "overloaded"}}), "overloaded"),
        (Fault(200, body={"error": "model is loading"}), "model is loading"),
        (Fault(200, headers={"content-encoding": "gzip"}, body="no gzip"), "DecodingError"),
        (Fault(how="reset"), "no answer from"),
        (Fault(body={"choices": [{"text": "x" * 5000}]}, how="half"), "no answer from"),
    ],
)
def test_faults_that_may_pass(fault: Fault, says: str) -> None:
    error = failure(fault)
    assert isinstance(error, TransientError)
    assert says in str(error)
    assert not error.throttled


def test_a_chat_answer_without_a_message_is_transient() -> None:
    error = failure(Fault(200, body={"choices": [{"text": "raw"}]}), chat())
    assert isinstance(error, TransientError)
    assert "without a message" in str(error)


@pytest.mark.parametrize("how", ["hang", "trickle"])
def test_the_time_limit_covers_the_whole_request(how: Any) -> None:
    error = failure(Fault(how=how), timeout_s=0.2)
    assert isinstance(error, TransientError)
    assert "within 0.2 s" in str(error)


def test_a_port_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with pytest.raises(TransientError, match=r"no answer from http://127.0.0.1:\d+/v1: ConnectError"):
        asyncio.run(_complete(OpenAIOptions(base_url=url, model="m"), raw()))


NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Sat, 31 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 31 Jan 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after": "Sat, 31 Jan 2026 11:59:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds


def test_a_429_throttles_and_carries_the_wait() -> None:
    error = failure(Fault(429, headers={"Retry-After": "12"}))
    assert isinstance(error, TransientError)
    assert (error.throttled, error.retry_after) == (True, 12.0)
    error = failure(Fault(503, headers={"Retry-After-Ms": "1500"}))
    assert isinstance(error, TransientError)
    assert (error.throttled, error.retry_after) == (False, 1.5)


def test_every_status_has_an_error_and_no_message_is_long() -> None:
    for status in range(201, 600):
        error = read_refusal(INFO, status, {}, b"x" * 100_000)
        assert isinstance(error, RequestError | BackendError)
        assert len(str(error)) < 700


# Checks before the first request


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (OpenAIOptions(base_url="http://localhost:1/v1"), "--model NAME"),
        (OpenAIOptions(model="m"), "environment variable OPENAI_API_KEY"),
        (OpenAIOptions(model="m", base_url="localhost:8000"), "http://localhost:8000/v1"),
        (OpenAIOptions(model="m", base_url="ftp://host/v1"), "'ftp://host/v1' is not valid"),
        (OpenAIOptions(model="m", base_url="http://host:port/v1"), "is not valid"),
        (OpenAIOptions(model="m", base_url="http://[::1/v1"), "is not valid"),
        (OpenAIOptions(model="m", base_url=""), "environment variable OPENAI_API_KEY"),
    ],
)
def test_unusable_options_are_refused(options: OpenAIOptions, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        asyncio.run(_complete(options, raw()))
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "kë", "\x00x"[1:] + "\x7f"])
def test_a_key_that_cannot_be_sent_in_a_header_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ConfigError, match="the key in MY_KEY") as caught:
        asyncio.run(_complete(OpenAIOptions(base_url="http://h/v1", model="m", api_key_env="MY_KEY"), raw()))
    assert key not in str(caught.value)


def test_options_come_from_a_configuration() -> None:
    options = build(OpenAIOptions, {"model": "m", "omit": ["top_p"], "extra_body": {"a": {"b": [1]}}}, "openai")
    assert options == OpenAIOptions(model="m", omit=("top_p",), extra_body={"a": {"b": [1]}})
    for wrong in ({"concurrency": 0}, {"timeout_s": 0.0}):
        with pytest.raises(ConfigError):
            build(OpenAIOptions, wrong, "openai")


FIXED = ["max_tokens", "max_completion_tokens", "n", "best_of", "stream", "prompt", "messages", "model"]


@pytest.mark.parametrize("name", FIXED)
def test_fields_on_which_the_budget_depends_cannot_be_replaced_or_omitted(name: str) -> None:
    for wrong in ({"extra_body": {name: 1}}, {"omit": ["top_p", name]}):
        with pytest.raises(ConfigError, match=f"'{name}'"):
            build(OpenAIOptions, wrong, "openai")


def test_a_token_limit_of_another_name_cannot_be_replaced_or_omitted() -> None:
    for wrong in ({"extra_body": {"max_new": 1}}, {"omit": ["max_new"]}):
        with pytest.raises(ConfigError, match="'max_new'"):
            build(OpenAIOptions, {"max_tokens_name": "max_new", **wrong}, "openai")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (date(2026, 1, 1), "a must be plain JSON, not date"),
        (b"x", "a must be plain JSON, not bytes"),
        ({1, 2}, "a must be plain JSON, not set"),
        (float("nan"), "a must be plain JSON, not float"),
        ({"b": [1, {"c": float("inf")}]}, r"a\.b\.1\.c must be plain JSON"),
        ({"b": {3: 4}}, r"a\.b must have text as its keys"),
    ],
)
def test_extra_body_is_plain_json(value: Any, message: str) -> None:
    fine = {"fine": [1, 1.5, "x", True, None, {"y": []}]}
    assert OpenAIOptions(extra_body=fine).extra_body == fine
    with pytest.raises(ValueError, match=rf"^extra_body\.{message}"):
        OpenAIOptions(extra_body={**fine, "a": value})


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="nested too deeply"):
        OpenAIOptions(extra_body={"a": loop})


@pytest.mark.parametrize("start", ["sk-", "0", "a b", "a=", "\n", ""])
def test_a_key_instead_of_a_variables_name_is_refused_and_not_repeated(start: str) -> None:
    secret = "hunter" + "2" if start else ""
    with pytest.raises(ConfigError, match="must be the name of an environment variable") as caught:
        build(OpenAIOptions, {"api_key_env": start + secret}, "openai")
    assert not secret or secret not in chain(caught.value)
    assert OpenAIOptions(api_key_env="_My_KEY2").key_variable("http://h/v1") == "_My_KEY2"


@pytest.mark.parametrize(
    "mark", ["?api-key=", "#", "/?", "?x=", "?api-version=2024-10-21&sig=", "?token=", "?a=b&", "?api-version="]
)
def test_an_address_that_may_hold_a_key_is_refused_and_not_repeated(mark: str) -> None:
    secret = "hunter" + "2"
    with pytest.raises(ConfigError, match=r"can't hold a fragment|seems to hold a key|must be like") as caught:
        build(OpenAIOptions, {"base_url": f"http://h/v1{mark}{secret}"}, "openai")
    assert secret not in chain(caught.value)


def test_one_address_or_several() -> None:
    for base_url, addresses in {
        None: ("https://api.openai.com/v1",),
        "http://a/v1": ("http://a/v1",),
        ("http://a/v1", "http://b/v1"): ("http://a/v1", "http://b/v1"),
    }.items():
        value = list(base_url) if isinstance(base_url, tuple) else base_url
        options = build(OpenAIOptions, {"base_url": value}, "openai")
        assert options.addresses == addresses
        assert to_plain(options)["base_url"] == value, "recorded unchanged"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "openai: base_url must name at least one address, and each once"),
        (["http://h/v1", "http://h/v1/"], "openai: base_url must name at least one address, and each once"),
        (["http://h/v1", "http://u:p@g/v1"], "openai: base_url can't hold a user and password"),
        ({"a": 1}, "openai.base_url: input should be a valid string"),
        (["http://h/v1", 3], "openai.base_url: input should be a valid string"),
    ],
)
def test_invalid_addresses_are_refused(value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(OpenAIOptions, {"base_url": value}, "openai")
    assert str(caught.value).startswith(says)
    assert caught.value.key in ("openai", "openai.base_url")


def test_the_registry() -> None:
    assert isinstance(open_backend("openai", OpenAIOptions()), OpenAIBackend)
    assert backend_names() == ("llamacpp", "openai", "openai-batch", "replay", "transformers", "vllm")
    assert backend_spec("openai").options is OpenAIOptions
    with pytest.raises(ConfigError, match=r"unknown backend 'opnai' \(did you mean 'openai'\?\)"):
        open_backend("opnai", OpenAIOptions())
    with pytest.raises(TypeError, match="OpenAIOptions"):
        open_backend("openai", object())


def test_importing_the_backends_loads_nothing_heavy() -> None:
    code = "import sys, selfinstruct.backends; print({'openai', 'xllamacpp', 'numpy', 'httpx2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_backend_that_was_not_started() -> None:
    with pytest.raises(BackendError, match="not started"):
        asyncio.run(OpenAIBackend(OpenAIOptions()).complete(raw()))
    asyncio.run(OpenAIBackend(OpenAIOptions()).close())


# The key


def chain(error: BaseException) -> str:
    """Return everything a traceback could show of an error, its causes and its contexts, suppressed ones included."""
    seen, text, waiting = set(), "", [error]
    while waiting:
        current = waiting.pop()
        if id(current) not in seen:
            seen.add(id(current))
            text += "".join(traceback.format_exception(current, chain=False)) + repr(current) + repr(vars(current))
            waiting += [other for other in (current.__cause__, current.__context__) if other is not None]
    return text


ECHO = {"error": {"message": f"Incorrect API key provided: {CANARY} (Bearer {CANARY})"}}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(401, body=ECHO),
        Fault(400, body=ECHO),
        Fault(429, body=ECHO),
        Fault(500, body=f"<html>{CANARY}</html>"),
        Fault(200, body=f"not JSON {CANARY}"),
        Fault(200, body={"error": {"message": CANARY}}),
        Fault(200, body={"choices": [], "key": CANARY}),
        Fault(how="reset"),
        Fault(how="hang"),
        Fault(body=ECHO, how="half"),
    ],
)
def test_the_key_is_in_no_error(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    with Loopback(faults={1: fault}) as server:
        with pytest.raises(SelfInstructError) as caught:
            complete(server, raw(), api_key_env="MY_KEY", timeout_s=1.0)
        assert len(server.arrived) == 1
        assert CANARY in server.arrived[0].headers["authorization"]
    assert CANARY not in chain(caught.value)
    assert caught.value.__context__ is None, "no error that holds the request and its headers is attached"


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
@pytest.mark.parametrize(
    "shape", ["{}", '{{"error": {{"message": "{}"}}}}', '{{"choices": [], "x": "{}"}}', "<p>{}</p>"]
)
def test_no_part_of_the_key_survives_at_the_end_of_a_cut_text(status: int, shape: str) -> None:
    """The excerpt ends at 300 characters, and the text is first cut at 1,200: the key crosses both, at every offset."""

    offsets = (*range(240, 310), *range(1150, 1210))
    bodies = [shape.format("x" * before + CANARY + "y" * 900).encode() for before in offsets]

    async def go(url: str) -> list[str]:
        backend = Server(OpenAIOptions(model="m"), url, key=CANARY)
        await backend.start()
        messages = []
        for _ in offsets:
            with pytest.raises(SelfInstructError) as caught:
                await backend.complete(raw())
            messages.append(str(caught.value))
        await backend.close()
        return messages

    with Loopback(faults={number: Fault(status, body=body) for number, body in enumerate(bodies, 1)}) as server:
        messages = asyncio.run(go(server.url))
    for message in messages:
        assert CANARY[:4] not in message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a {CANARY} b {CANARY}", "a [key] b [key]"),
        (f"ends in {CANARY[:-3]}", "ends in [key]"),
        (f"{CANARY[:9]}... is wrong", "[key]... is wrong"),
        (f"{CANARY[:8]}{CANARY[:12]}", "[key][key]"),
        (CANARY[:7], CANARY[:7]),
        ("nothing here", "nothing here"),
    ],
)
def test_a_key_and_its_prefix_are_hidden(text: str, shown: str) -> None:
    assert without_key(text, CANARY) == shown


def test_a_key_is_hidden_in_every_notation() -> None:
    key = 'p/q&r"s+t'
    for form in (key, 'p\\/q&r"s+t', 'p/q&r\\"s+t', "p/q&amp;r&quot;s+t", "p%2Fq%26r%22s%2Bt"):
        assert without_key(f"<{form}>", key) == "<[key]>"
    assert without_key("the key is none", "") == "the key is none"
    assert without_key("now or never", "none") == "now or never"


def test_an_address_with_a_password_is_refused_before_it_is_stored_anywhere() -> None:
    secret = "hunter" + "2"  # not in one piece: a traceback shows this very line
    with pytest.raises(ConfigError, match="can't hold a user and password") as caught:
        build(OpenAIOptions, {"model": "m", "base_url": f"http://user:{secret}@h/v1"}, "openai")
    assert secret not in chain(caught.value)


def test_the_key_is_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)

    async def go() -> str:
        backend = OpenAIBackend(OpenAIOptions(model="m"))
        await backend.start()
        [server] = backend._servers
        shown = repr(backend) + repr(server) + repr(server._options) + repr(server._info) + repr(server._client)
        await backend.close()
        return shown

    assert CANARY not in asyncio.run(go())


def test_the_key_reaches_no_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    caplog.set_level("DEBUG")
    with Loopback(faults={1: Fault(401, body=ECHO)}) as server, pytest.raises(BackendError):
        complete(server, raw(), api_key_env="MY_KEY")
    assert caplog.records, "the client library logs at this level"
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h:1/v1?key=x#y", "http://h:1/v1"),
        ("https://a:b@c@h/v1", "https://h/v1"),
        ("u:p@h/v1", "h/v1"),
        ("http://u:p/w@h/v1", "http://h/v1"),
        ("http://[::1/v1", "http://[::1/v1"),
        ("", ""),
    ],
)
def test_redacted(url: str, shown: str) -> None:
    assert redacted(url) == shown

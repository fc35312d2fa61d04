"""Runs on servers that refuse parameters, only stream, or count no tokens: what the run sends, keeps and reports."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.api import fork
from selfinstruct.errors import BackendError
from selfinstruct.ledger import Reader
from tests.batches import Batches, Script
from tests.cli import run_cli
from tests.loopback import Body, Fault, Loopback
from tests.scripted import reply

INVALID = "invalid_request_error"
ANSWER = {"choices": [{"message": {"content": "An answer."}, "finish_reason": "stop"}]}


def gpt5(_: int, body: Body) -> Fault | None:
    """Refuse what gpt-5-mini refuses, one parameter at a time, in OpenAI's words."""
    if "max_tokens" in body:
        return refused("max_tokens", "unsupported_parameter", "is not supported with this model. Use "
                       "'max_completion_tokens' instead.")  # fmt: skip
    if body.get("temperature", 1) != 1:
        what = "does not support 0.7 with this model. Only the default (1) value is supported."
        return refused("temperature", "unsupported_value", what)
    for name in ("top_p", "stop", "presence_penalty", "frequency_penalty"):
        if name in body:
            return refused(name, "unsupported_parameter", "is not supported with this model.")
    return None


def refused(name: str, code: str, what: str) -> Fault:
    message = f"Unsupported {'value' if code.endswith('value') else 'parameter'}: '{name}' {what}"
    return Fault(400, body={"error": {"message": message, "type": INVALID, "param": name, "code": code}})


def settings(url: str, **more: Any) -> dict[str, Any]:
    section = {"base_url": url, "model": "gpt-5-mini", **more.pop("section", {})}
    return {"backend": "openai", "openai": section, "n": 8, "retry": {"base_s": 0.01, "cap_s": 0.02}, **more}


def config(run: Path, backend: str = "openai") -> Any:
    with Reader(run) as reader:
        return reader.meta("config")[backend]


def sampled(server: Loopback) -> list[frozenset[str]]:
    """Return the names of the parameters of each request, in order of arrival."""
    return [frozenset(call.body.keys() - {"model", "messages", "prompt", "seed"}) for call in server.arrived]


@pytest.mark.parametrize("strategy", ["self-instruct", "alpaca"])
def test_the_command_of_the_readme_works_with_a_model_that_refuses_most_parameters(
    tmp_path: Path, strategy: str
) -> None:
    with Loopback(reply, faults=gpt5) as server:
        result = generate(tmp_path, settings(server.url, strategy=strategy))
        assert result.succeeded
        assert not result.stats.failures
        counts = len(server.arrived)
    with Reader(tmp_path) as reader:
        assert reader.spending().sends < counts, "refusals are no sends of a request"
        assert reader.spending().sends == result.completions, "nor attempts"
    recorded = config(tmp_path)["refused"]
    assert {"max_tokens", "top_p", "stop", "temperature" if strategy == "self-instruct" else "top_p"} <= set(recorded)
    assert [remark.startswith("gpt-5-mini at http://127.0.0.1:") for remark in result.remarks] == [True]
    assert "does not accept" in result.remarks[0]
    assert "takes max_tokens under the name max_completion_tokens" in result.remarks[0]


def test_many_refused_requests_make_one_discovery(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"instruction": f"Question {number}?"}) + "\n" for number in range(40)))
    barrier = threading.Barrier(8, timeout=20)

    def together(number: int, body: Body) -> Fault | None:
        if number <= 8:
            barrier.wait()  # eight requests are under way when the first refusal arrives
        return gpt5(number, body)

    with Loopback(lambda _: "An answer of several words.", faults=together) as server:
        options = settings(server.url, strategy="respond", seeds=str(tasks), n=40, concurrency=16)
        result = generate(tmp_path / "run", options)
        refusals = [names for names in sampled(server) if "max_tokens" in names or "temperature" in names]
    assert len(result.rows) == 40
    assert len(refusals) <= 8 + 2, "only the eight first requests and the ones that find out are refused"
    assert len(result.remarks) == 1


def test_what_was_found_out_is_part_of_the_run(tmp_path: Path) -> None:
    run, other, copy = tmp_path / "run", tmp_path / "other", tmp_path / "copy"
    with Loopback(reply, faults=gpt5) as server:
        generate(run, settings(server.url, strategy="alpaca", n=4))
        before = config(run)["refused"]
        for folder, act in ((run, lambda: generate(run, settings(server.url, strategy="alpaca", n=40))),
                            (copy, lambda: fork(run, copy, {"n": 80}))):  # fmt: skip
            server.arrived.clear()
            result = act()
            assert result.succeeded
            assert server.arrived
            assert not [names for names in sampled(server) if names & {"top_p", "stop", "max_tokens"}]
            assert config(folder)["refused"] == before
            assert not result.remarks, "it is reported once"
    with Loopback(reply) as server:  # another model accepts everything
        fork(run, other, {"n": 80, "openai": {"base_url": server.url, "model": "another"}})
        assert sampled(server)
        assert all({"temperature", "max_tokens", "top_p"} <= names for names in sampled(server))
        assert config(other)["refused"] == []


def test_a_value_out_of_range_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    message = "Invalid 'temperature': decimal above maximum value. Expected a value <= 1, but got 1.7 instead."
    fault = Fault(400, body={"error": {"message": message, "param": "temperature", "code": "decimal_above_max_value"}})
    with Loopback(reply, faults=lambda *_: fault) as server:
        options = settings(server.url, strategy="alpaca", alpaca={"tasks": {"max_tokens": 900, "temperature": 1.7}})
        with pytest.raises(BackendError, match=r"temperature = 1.7: change temperature of the stage.*omit") as caught:
            generate(tmp_path, options)
    assert str(caught.value).endswith("In this run that is --set alpaca.tasks.temperature=1")


@pytest.mark.parametrize(
    ("message", "section", "says"),
    [
        ("temperature must be <= 1", {"answer": {"max_tokens": 50, "temperature": 1.2}},
         "--set respond.answer.temperature=1"),
        ("temperature must be in [0, 1.0]", {"reasoning": True, "reason": {"max_tokens": 50, "temperature": 1.2}},
         "--set respond.reason.temperature=1.0"),
        ("temperature must be less than 1", {"answer": {"max_tokens": 50, "temperature": 1.2}},
         "the setting respond.answer.temperature"),
        ("top_p: 0.99 is the maximum", {"answer": {"max_tokens": 50, "top_p": 0.995}},
         "--set respond.answer.top_p=0.99"),
        ("max_tokens is too large: 5000. At most 4096 are supported", {"answer": {"max_tokens": 5000}},
         "--set respond.answer.max_tokens=4096"),
    ],
)  # fmt: skip
def test_a_refused_value_is_named_by_the_key_of_the_run(
    tmp_path: Path, message: str, section: dict[str, Any], says: str
) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"instruction": "What is known about it?"}\n')
    fault = Fault(400, body={"error": {"message": message, "type": INVALID}})
    with Loopback(faults=lambda *_: fault) as server:
        options = settings(server.url, strategy="respond", seeds=str(tasks), n=1, respond=section)
        with pytest.raises(BackendError) as caught:
            generate(tmp_path / "run", options)
        assert says in str(caught.value)
        with Loopback(faults=lambda *_: fault) as other:
            options["openai"]["base_url"] = [server.url, other.url]
            with pytest.raises(BackendError) as caught:
                generate(tmp_path / "both", options)
    assert says in str(caught.value), "with several servers too"


def test_a_parameter_that_is_not_the_cause_is_kept(tmp_path: Path) -> None:
    """A refusal that merely repeats the name of a parameter does not change what the run sends."""
    message = "Invalid request: the prompt says that temperature is not supported"
    fault = Fault(400, body={"error": {"message": message, "type": INVALID}})
    with Loopback(reply, faults=lambda number, _: fault if number <= 2 else None) as server:
        generate(tmp_path, settings(server.url, strategy="alpaca", concurrency=1, n=4))
        assert "temperature" in sampled(server)[-1]
    assert config(tmp_path)["refused"] == []


def test_a_setting_of_the_user_is_neither_dropped_nor_renamed(tmp_path: Path) -> None:
    with Loopback(reply, faults=gpt5) as server:
        options = settings(server.url, strategy="alpaca", section={"max_tokens_name": "max_tokens"})
        with pytest.raises(BackendError, match="set max_tokens_name to max_completion_tokens"):
            generate(tmp_path / "a", options)
        body = {"error": {"message": "Unknown parameter: 'reasoning_effort'", "param": "reasoning_effort"}}
        server._fault = lambda *_: Fault(400, body=body)
        options = settings(server.url, strategy="alpaca", section={"extra_body": {"reasoning_effort": "low"}})
        with pytest.raises(BackendError, match="refuses reasoning_effort: leave out thinking or reasoning_effort"):
            generate(tmp_path / "b", options)


def test_servers_that_differ_in_the_name_of_the_limit(tmp_path: Path) -> None:
    def old(_: int, body: Body) -> Fault | None:
        return refused("max_completion_tokens", "unknown", "is unknown") if "max_completion_tokens" in body else None

    with Loopback(reply, faults=gpt5) as first, Loopback(reply, faults=old) as second:
        options = settings(
            "",
            strategy="alpaca",
            n=40,
            alpaca={"tasks": {"max_tokens": 900, "temperature": 0.7}},
            section={"base_url": [first.url, second.url]},
        )
        assert generate(tmp_path, options).succeeded
        assert generate(tmp_path, {"n": 80}).succeeded
        assert "temperature" not in sampled(second)[-1], "all servers of a run sample in the same way"
        assert "max_tokens" in sampled(second)[-1]
        assert "max_completion_tokens" in sampled(first)[-1]


def test_a_batch_whose_lines_are_refused_is_submitted_again(tmp_path: Path) -> None:
    def line(_: int, body: Body) -> Any:
        fault = gpt5(0, body)
        return None if fault is None else (fault.status, fault.body)

    with Batches(reply, Script(line=line)) as server:
        section = {"base_url": server.url, "model": "gpt-5-mini", "poll_s": 0.02}
        options = {"backend": "openai-batch", "openai-batch": section, "strategy": "alpaca", "n": 8}
        result = generate(tmp_path, options)
        assert result.succeeded
        assert not result.stats.failures
    assert max(server.executed.values()) == 4, "one batch for each refused parameter, and the one that is answered"
    assert {"top_p", "stop"} < set(config(tmp_path, "openai-batch")["refused"])


@pytest.mark.parametrize("where", ["errors", "error file", "creation"])
def test_a_batch_that_is_refused_whole_is_submitted_again(tmp_path: Path, where: str) -> None:
    """The server validates the lines before it works on any, and names one parameter at a time."""

    def faults(number: int) -> list[tuple[str, Any]]:
        lines = server.batches[number - 1].lines
        found = [(line["custom_id"], gpt5(0, line["body"])) for line in lines]
        return [(name, fault.body["error"]) for name, fault in found if fault is not None]

    def ending(number: int) -> Any:
        found = faults(number)
        if not found or where == "creation":
            return "completed"
        if where == "error file":
            lines = [{"custom_id": name, "response": {"status_code": 400, "body": {"error": error}}, "error": None}
                     for name, error in found]  # fmt: skip
            name = server.keep(b"\n".join(json.dumps(line).encode() for line in lines) + b"\n")
            server.batches[number - 1].shown["error_file_id"] = name
            return []
        return [{**error, "line": 1 + position} for position, (_, error) in enumerate(found)]

    def creation(method: str, path: str, _: int) -> Fault | None:
        if where != "creation" or (method, path) != ("POST", "/batches"):
            return None
        line = json.loads(server.files[f"file-{len(server.files)}"].splitlines()[0])
        return gpt5(0, line["body"])

    with Batches(reply, Script(ending=ending, fault=creation)) as server:
        section = {"base_url": server.url, "model": "gpt-5-mini", "poll_s": 0.02}
        options = {"backend": "openai-batch", "openai-batch": section, "strategy": "alpaca", "n": 8}
        result = generate(tmp_path, options)
        assert result.succeeded
        assert not result.stats.failures
        assert set(server.executed.values()) == {1}, "a refused batch does no work"
        assert len(result.remarks) == 1
        assert "does not accept" in result.remarks[0]
    assert {"top_p", "stop"} < set(config(tmp_path, "openai-batch")["refused"])
    with Reader(tmp_path) as reader:
        assert reader.spending().sends == sum(server.executed.values()), "refusals are no sends of a request"


def test_a_batch_that_is_refused_for_another_reason_stops_the_run(tmp_path: Path) -> None:
    errors = [{"code": "model_not_found", "message": "The provided model 'm' is not supported.", "line": 1}]
    with Batches(reply, Script(ending=lambda _: errors)) as server:
        section = {"base_url": server.url, "model": "m", "poll_s": 0.02}
        options = {"backend": "openai-batch", "openai-batch": section, "strategy": "alpaca", "n": 8}
        with pytest.raises(BackendError, match="was refused: model_not_found"):
            generate(tmp_path, options)
        assert len(server.batches) == 1


# Servers that only stream


def events(body: Body, *, end: str = "\n\n", usage: bool = True, last: str = "data: [DONE]\n\n") -> str:
    """Return an answer as server-sent events, with comments and empty pieces between them."""
    text = reply(body)
    text = text if isinstance(text, str) else str(text)
    pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
    chat = "messages" in body
    lines = [": keep-alive", 'data: {"choices": [], "model": "s"}']
    if chat:
        lines.append('data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": null}}]}')
    for piece in pieces:
        part = {"delta": {"content": piece}} if chat else {"text": piece}
        lines.append(f"data: {json.dumps({'choices': [{'index': 0, **part, 'finish_reason': None}]})}")
    lines.append('data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}')
    if usage and (body.get("stream_options") or {}).get("include_usage"):
        lines.append('data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}')
    return end.join(lines) + end + last


def streaming(say: Callable[[Body], str], message: str = "This model only support stream mode, please enable the "
              "stream parameter to access the model. ") -> Callable[[int, Body], Fault]:  # fmt: skip
    def fault(_: int, body: Body) -> Fault:
        if not body.get("stream"):
            return Fault(400, body={"error": {"message": message, "type": INVALID, "code": "invalid_parameter_error"}})
        return Fault(200, {"content-type": "text/event-stream"}, say(body))

    return fault


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_a_server_that_only_streams_is_asked_to_stream(tmp_path: Path, end: str) -> None:
    with Loopback(faults=streaming(lambda body: events(body, end=end))) as server:
        result = generate(tmp_path, settings(server.url, strategy="alpaca"))
        assert result.succeeded
        assert "only streams" in result.remarks[0]
        assert result.stats.completion_tokens > 0, "the usage is asked for"
        server.arrived.clear()
        assert generate(tmp_path, {"n": 12}).succeeded
        assert all(call.body["stream"] for call in server.arrived), "it is remembered"
    assert config(tmp_path)["stream"] is True


def test_a_stream_gives_the_same_rows_as_whole_answers(tmp_path: Path) -> None:
    with Loopback(reply) as plain, Loopback(faults=streaming(events)) as server:
        one = generate(tmp_path / "plain", settings(plain.url, strategy="alpaca"))
        other = generate(tmp_path / "stream", settings(server.url, strategy="alpaca"))
        chosen = generate(tmp_path / "set", settings(server.url, strategy="alpaca", section={"stream": True}))
    assert one.exported.sha256 == other.exported.sha256 == chosen.exported.sha256
    assert not chosen.remarks


def test_a_server_that_refuses_the_options_of_a_stream(tmp_path: Path) -> None:
    def fault(number: int, body: Body) -> Fault:
        if "stream_options" in body:
            return Fault(422, body={"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"],
                                                "msg": "Extra inputs are not permitted"}]})  # fmt: skip
        return streaming(events)(number, body)

    with Loopback(faults=fault) as server:
        result = generate(tmp_path, settings(server.url, strategy="alpaca"))
    assert result.succeeded
    assert config(tmp_path)["refused"] == ["stream_options"]


def cut(body: Body) -> str:
    return events(body).partition('data: {"choices": [{"index": 0, "delta": {}, "finish')[0]


def broken(body: Body) -> str:
    return cut(body) + 'data: {"error": {"code": 502, "message": "provider lost"}}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("say", "says"),
    [
        (cut, "the stream ended before the answer did"),
        (lambda body: cut(body) + "data: [DONE]\n\n", "the stream ended before the answer did"),
        (broken, "provider lost"),
        (lambda body: events(body).replace("data: [DONE]", 'event: error\ndata: {"error": "lost"}'), "lost"),
        (lambda body: cut(body) + 'data: {"choi\n\n', "not a JSON object"),
        (lambda body: "data: [DONE]\n\n", "without any choice"),
        (lambda body: json.dumps({"error": {"code": 503, "message": "busy"}}), "busy"),
    ],
)
def test_a_stream_that_breaks_is_a_failed_attempt(tmp_path: Path, say: Callable[[Body], str], says: str) -> None:
    seen: dict[str, int] = {}
    notices: list[str] = []

    def fault(number: int, body: Body) -> Fault:
        key = json.dumps(body["messages"])
        seen[key] = seen.get(key, 0) + 1
        return streaming(events if seen[key] > 1 else say)(number, body)

    with Loopback(reply) as plain, Loopback(faults=fault) as server:
        one = generate(tmp_path / "plain", settings(plain.url, strategy="alpaca"))
        options = settings(server.url, strategy="alpaca", section={"stream": True})
        other = generate(tmp_path / "stream", options, show=Notices(notices))
    assert any(says in notice for notice in notices)
    assert one.exported.sha256 == other.exported.sha256, "no half answer became a row, and no task was lost"


def nameless(body: Body) -> str:
    """Return the events of an answer without any finish reason."""
    return cut(body) + "data: [DONE]\n\n"


def test_a_server_that_only_streams_and_names_no_ending_is_accepted_on_request(tmp_path: Path) -> None:
    with Loopback(faults=streaming(nameless)) as server:
        output = run_cli("respond", tmp_path / "a", "--from", tasks_file(tmp_path, 80), "--backend", "openai",
                         "--model", "m", "--base-url", server.url, "-q", "--set", "retry.base_s=0.001",
                         code=1)  # fmt: skip
        assert "begin a new run or a fork with --set 'accept_endings=[unknown]'" in output
        sent = len(server.arrived)
        run_cli("fork", tmp_path / "a", "-o", tmp_path / "b", "-n", 60, "--set", "accept_endings=[unknown]")
        assert len(server.arrived) == sent, "the answers in the ledger are enough"
    assert len((tmp_path / "b" / "dataset" / "alpaca.jsonl").read_text().splitlines()) == 60


def test_a_stream_without_any_end_names_a_remedy(tmp_path: Path) -> None:
    with Loopback(faults=streaming(cut)) as server:
        options = settings(server.url, strategy="alpaca", section={"stream": True}, retry={"base_s": 0.001})
        with pytest.raises(BackendError, match=r"without \[DONE\].*--set openai\.stream=false.*gateway"):
            generate(tmp_path, options)


def tasks_file(folder: Path, count: int) -> Path:
    path = folder / "tasks.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"Question {number}?"}) + "\n" for number in range(count)))
    return path


def test_a_connection_lost_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    def fault(number: int, body: Body) -> Fault:
        sent = streaming(events)(number, body)
        return Fault(200, sent.headers, sent.body, how="half") if number % 3 == 1 else sent

    with Loopback(reply) as plain, Loopback(faults=fault) as server:
        one = generate(tmp_path / "plain", settings(plain.url, strategy="alpaca"))
        other = generate(tmp_path / "s", settings(server.url, strategy="alpaca", section={"stream": True}))
    assert one.exported.sha256 == other.exported.sha256


# Servers that count no tokens


def test_a_server_that_counts_no_tokens_is_named_where_a_budget_depends_on_it(tmp_path: Path) -> None:
    with Loopback(faults=lambda _, body: Fault(body=uncounted(body))) as server:
        limited = settings(server.url, strategy="alpaca", budget={"max_tokens": 60_000})
        remarks = generate(tmp_path / "a", limited).remarks
        free = generate(tmp_path / "b", settings(server.url, strategy="alpaca"))
        assert [remark for remark in remarks if server.url in remark and "--max-tokens counts each" in remark]
        assert len(remarks) == 1
        assert not free.remarks


def uncounted(body: Body) -> dict[str, Any]:
    answered = reply(body)
    text = answered if isinstance(answered, str) else str(answered)
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": None}


# Accounts without money, and addresses


def test_an_account_without_money_stops_at_once(tmp_path: Path) -> None:
    body = {"error": {"message": "余额不足或无可用资源包,请充值。", "code": "1113"}}
    with Loopback(reply, faults=lambda *_: Fault(429, {"retry-after": "1"}, body)) as server:
        with pytest.raises(BackendError, match=r"no credit or quota left\. Nothing is recorded as failed: raise it"):
            generate(tmp_path, settings(server.url, strategy="alpaca"))
        assert len(server.arrived) <= 8, "nothing waits for money"
    with Loopback(reply) as server:
        assert generate(tmp_path, settings(server.url, strategy="alpaca")).succeeded, "the requests stayed open"


def test_an_answer_of_another_endpoint_names_the_base_url(tmp_path: Path) -> None:
    body = {"error": "Unexpected endpoint or method. (POST /chat/completions)"}
    with Loopback(faults=lambda *_: Fault(200, body=body)) as server:
        output = run_cli("generate", tmp_path, "--backend", "openai", "--model", "m", "--base-url", server.url,
                         "-q", "-n", 4, code=1)  # fmt: skip
    assert "Unexpected endpoint or method" in output
    assert "Check the base URL (it usually ends in /v1)" in output


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AZURE_KEY", "0123456789abcdef0123456789abcdef")
    return "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("tail", ["", "/", "/chat/completions"])
def test_a_deployment_of_azure_is_asked_with_its_version_and_key(tmp_path: Path, key: str, tail: str) -> None:
    def azure(_: int, body: Body) -> Fault:
        call = server.arrived[-1]
        if "?api-version=2024-10-21" not in call.path:
            return Fault(404, body={"error": {"code": "404", "message": "Resource not found"}})
        if call.headers.get("api-key") != key or "authorization" in call.headers:
            return Fault(401, body={"error": {"code": "401", "message": "Access denied"}})
        return Fault(body=uncounted(body))

    with Loopback(faults=azure) as server:
        root = server.url.removesuffix("/v1")
        section = {"base_url": f"{root}/openai/deployments/gpt-5{tail}?api-version=2024-10-21",
                   "api_key_env": "AZURE_KEY"}  # fmt: skip
        assert generate(tmp_path, settings("", strategy="alpaca", section=section)).succeeded
        paths = {call.path for call in server.arrived}
    assert paths == {"/openai/deployments/gpt-5/chat/completions?api-version=2024-10-21"}


def test_a_missing_version_of_azure_is_explained(tmp_path: Path, key: str) -> None:
    body = {"error": {"code": "404", "message": "Resource not found"}}
    with Loopback(faults=lambda *_: Fault(404, body=body)) as server:
        section = {"base_url": f"{server.url.removesuffix('/v1')}/openai/deployments/gpt-5", "api_key_env": "AZURE_KEY"}
        with pytest.raises(BackendError, match=r"/openai/deployments/NAME\?api-version="):
            generate(tmp_path, settings("", strategy="alpaca", section=section))


class Notices:
    """A display that shows nothing and records every notice."""

    def __init__(self, notices: list[str]) -> None:
        self.notices = notices

    def __call__(self, progress: Any) -> Any:
        from contextlib import nullcontext

        notices = self.notices
        progress.notify = notices.append
        return nullcontext()

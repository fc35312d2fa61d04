"""The time limit: nothing is sent after it, and requests under way are cancelled at the end of the grace."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import selfinstruct
from tests.batches import Batches, Script
from tests.cli import dataset, run_cli
from tests.loopback import Body, Fault, Loopback

N = 20
ENOUGH_S = 20.0  # for a busy machine; every delay below is far longer


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps({"instruction": f"Explain how item {index}. is made."}) for index in range(N)))
    return path


def answer(body: Body) -> str:
    return f"Take the material for item {item(body)}, then cut it."


def item(body: Body) -> int:
    return int(json.dumps(body).partition("how item ")[2].partition(".")[0])


def respond(run: Path, tasks: Path, url: str, *more: object, code: int = 0) -> str:
    line = ["respond", run, "--from", tasks, "--backend", "openai", "--model", "m", "--base-url", url, "-q"]
    return run_cli(*line, "--concurrency", 4, *more, code=code)


def status(run: Path) -> dict[str, Any]:
    return json.loads(run_cli("status", run, "--json"))


def test_slow_requests_are_cancelled_after_the_grace_and_sent_again_later(tmp_path: Path, tasks: Path) -> None:
    slow = {3, 5}
    with Loopback(answer, delay=lambda body: 300.0 if item(body) in slow else 0.01) as server:
        began = time.monotonic()
        limits = ("--time-limit", 1, "--set", "budget.grace_s=0.5")
        output = respond(tmp_path / "a", tasks, server.url, *limits, code=1)
        assert time.monotonic() - began < ENOUGH_S
    assert "stopped at the time limit" in output
    assert "2 requests under way cancelled" in output
    report = status(tmp_path / "a")
    assert (report["open"], report["failures"]) == (2, {})
    assert f"the worst case of {report['lost_tokens']:,} tokens is counted" in output
    with Loopback(answer) as server:
        respond(tmp_path / "a", tasks, server.url, "--time-limit", 600)  # a run keeps its limit
        assert {item(arrived.body) for arrived in server.arrived} >= slow
        respond(tmp_path / "b", tasks, server.url)
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


def test_answers_that_arrive_within_the_grace_are_kept(tmp_path: Path, tasks: Path) -> None:
    with Loopback(answer, delay=lambda body: 2.0 if item(body) < 4 else 0.01) as server:
        output = respond(tmp_path / "a", tasks, server.url, "--time-limit", 0.5, code=1)
        assert len(server.arrived) == 4, "nothing is sent after the limit"
    assert "cancelled" not in output
    assert (status(tmp_path / "a")["rows"], status(tmp_path / "a")["open"]) == (4, 0)


def test_the_time_limit_also_ends_the_wait_of_a_run_that_is_complete(tmp_path: Path, tasks: Path) -> None:
    with Loopback(answer, delay=lambda body: 300.0 if item(body) == 3 else 0.01) as server:
        limits = ("--time-limit", 2, "--set", "budget.grace_s=0.5", "-n", 3)
        began = time.monotonic()
        output = respond(tmp_path / "a", tasks, server.url, *limits)
        assert time.monotonic() - began < ENOUGH_S
    assert "a: complete" in output
    assert "1 request under way cancelled" in output


def test_a_pause_before_another_attempt_is_not_waited_for(tmp_path: Path, tasks: Path) -> None:
    with Loopback(answer, lambda number, body: Fault(503, {"Retry-After": "200"})) as server:
        began = time.monotonic()
        output = respond(tmp_path / "a", tasks, server.url, "--time-limit", 1, code=1)
        assert time.monotonic() - began < ENOUGH_S
    assert "cancelled" not in output, "the server held none of the requests"


def test_an_upload_of_a_batch_that_hangs_ends_with_the_grace(tmp_path: Path, tasks: Path) -> None:
    script = Script(fault=lambda method, path, times: Fault(how="hang") if path == "/files" else None)
    with Batches(answer, script) as server:
        began = time.monotonic()
        result = selfinstruct.generate(
            tmp_path / "a",
            {"strategy": "respond", "seeds": str(tasks), "backend": "openai-batch",
             "openai-batch": {"model": "m", "base_url": server.url, "api": "chat", "poll_s": 0.05},
             "budget": {"time_limit_s": 0.5, "grace_s": 0.5}},
        )  # fmt: skip
        assert time.monotonic() - began < ENOUGH_S
    assert (result.ending, result.cancelled) == ("time", 8)


def test_a_model_in_this_process_is_cancelled_too(tmp_path: Path, tasks: Path) -> None:
    pytest.importorskip("xllamacpp")
    began = time.monotonic()
    result = selfinstruct.generate(
        tmp_path / "a",
        {"strategy": "respond", "seeds": str(tasks), "respond": {"answer": {"max_tokens": 1500}},
         "budget": {"time_limit_s": 0.5, "grace_s": 0.5}},
    )  # fmt: skip
    assert time.monotonic() - began < 3 * ENOUGH_S, "loading the model included"
    assert result.ending == "time"
    assert result.cancelled >= 1
    assert status(tmp_path / "a")["open"] == result.cancelled


def test_a_negative_grace_is_refused(tmp_path: Path, tasks: Path) -> None:
    output = respond(tmp_path / "a", tasks, "http://127.0.0.1:1/v1", "--set", "budget.grace_s=-1", code=2)
    assert "grace_s can't be negative" in output


def test_a_run_whose_last_answers_arrive_within_the_grace_is_complete(tmp_path: Path, tasks: Path) -> None:
    with Loopback(answer, delay=2.0) as server:
        output = respond(tmp_path / "a", tasks, server.url, "--time-limit", 0.5, "-n", 3)
        assert len(server.arrived) == 4, "nothing is sent after the limit"
    assert "a: complete" in output

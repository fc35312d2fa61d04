"""Continuing after a stop: regression tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from pathlib import Path

import pytest

from selfinstruct import generate
from selfinstruct.common.resources import preset
from selfinstruct.common.rng import derive
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import RunLockedError, UsageError
from selfinstruct.ledger import Ledger
from selfinstruct.runs.export import export
from tests.cli import command, dataset, environment, run_cli
from tests.golden.make import GOLDEN
from tests.loopback import Fault, Loopback
from tests.scripted import reply


def args(run: Path, url: str, *more: object) -> list[object]:
    return ["generate", run, "--backend", "openai", "--model", "scripted", "--base-url", url, "--api", "completion",
            "--strategy", "alpaca", "--set", "retry.base_s=0.01", "--set", "retry.attempts=2", *more]  # fmt: skip


def status(run: Path) -> dict:
    return json.loads(run_cli("status", run, "--json"))


def wait_for(process: subprocess.Popen[bytes], run: Path, **wanted: int) -> None:
    """Wait until the status of a running process shows these figures."""
    last = {}
    for _ in range(200):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)  # a run that ends early has failed
            break
        if (run / "config.yaml").exists() and wanted.items() <= (last := status(run)).items():
            return
    process.kill()
    raise AssertionError(f"never {wanted}, at last {last}; {process.communicate()}")


def start(line: list[object]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(*line), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())


def only(number: int, fault: Fault):
    """A fault on every attempt of one request, which is identified by its sampling seed."""
    return lambda _, body: fault if body["seed"] == derive("request", 0, number) else None


def test_a_gap_in_the_ledger_is_filled_at_any_concurrency(tmp_path: Path) -> None:
    with Loopback(reply, only(2, Fault(how="hang"))) as server:
        process = start(args(tmp_path / "a", server.url, "-n", 40, "--concurrency", 8))
        wait_for(process, tmp_path / "a", requests=2, unjudged=9)
        process.kill()
        process.communicate()
    with Loopback(reply) as server:
        run_cli(*args(tmp_path / "a", server.url, "-n", 40, "--concurrency", 1))
        run_cli(*args(tmp_path / "b", server.url, "-n", 40))
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


def test_an_interrupt_cancels_waits_and_a_failing_request_does_not_block_the_run(tmp_path: Path) -> None:
    line = ("-n", 20, "--concurrency", 8)
    with Loopback(reply, only(0, Fault(503, {"Retry-After": "200"}))) as server:
        process = start(args(tmp_path / "a", server.url, *line))
        wait_for(process, tmp_path / "a", requests=0, unjudged=7)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)  # not the 200 seconds that the server asked for
        assert process.returncode == 130
        assert len(server.arrived) == 8, "a run that is ending sends nothing new"
    with Loopback(reply, only(0, Fault(500))) as server:
        run_cli(*args(tmp_path / "a", server.url, *line))
    assert status(tmp_path / "a")["failures"] == {"attempts": 1}


def test_a_refusal_of_every_request_stops_the_run_with_the_message(tmp_path: Path) -> None:
    refusal = Fault(400, body={"error": {"message": "max_tokens is too large for this model"}})
    with Loopback(reply, lambda number, body: refusal) as server:
        output = run_cli(*args(tmp_path / "a", server.url, "-n", 5), code=1)
        assert "max_tokens is too large" in output
        assert len(server.arrived) < 30
    assert status(tmp_path / "a")["failures"] == {}
    with Loopback(reply, only(3, refusal)) as server:
        run_cli(*args(tmp_path / "a", server.url, "-n", 25))
    assert status(tmp_path / "a")["failures"] == {"bad_request": 1}


@pytest.mark.parametrize("strategy", ["alpaca", "self-instruct"])
def test_plain_seeds_suffice_for_the_embedded_model(tmp_path: Path, strategy: str) -> None:
    seeds = tmp_path / "seeds.jsonl"
    long = "word " * 200
    seeds.write_text(
        "".join(f'{{"instruction": "Tell of thing {i}", "input": "x", "output": "{long}"}}\n' for i in range(20))
    )
    output = run_cli("generate", tmp_path / "a", "--seeds", seeds, "--strategy", strategy, "--dry-run")
    assert "8 requests would go out next" in output


def test_a_preset_applies_only_to_its_backend(tmp_path: Path) -> None:
    first = make_plan({"n": 7}, tmp_path)
    Ledger(tmp_path, first.meta(), first.texts()).close()
    settings = {"backend": "openai", "openai": {"model": "m"}}
    assert make_plan(settings, tmp_path).values() == make_plan({**settings, "n": 7}).values()
    assert make_plan({}, tmp_path).values() == first.values()


def test_the_embedded_preset_is_a_valid_config_file_for_any_model(tmp_path: Path) -> None:
    file = preset("embedded")
    output = run_cli("generate", tmp_path / "a", "--config", file, "--backend", "openai", "--model", "m", "--dry-run")
    assert "requests would go out next" in output


def test_generate_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    async def notebook() -> int:
        settings = {"backend": "replay", "replay": {"source": str(GOLDEN / "alpaca")}}
        return len(generate(tmp_path / "a", settings).rows)

    assert asyncio.run(notebook()) == 12


def test_an_export_is_refused_while_the_run_is_locked_and_to_the_files_of_the_run(tmp_path: Path) -> None:
    settings = {"backend": "replay", "replay": {"source": str(GOLDEN / "alpaca")}}
    plan = generate(tmp_path / "a", settings).plan
    with Ledger(tmp_path / "a", plan.meta(), plan.texts()), pytest.raises(RunLockedError, match="elsewhere with -o"):
        export(tmp_path / "a", "messages")
    assert export(tmp_path / "a", "messages").rows == 12
    with pytest.raises(UsageError, match="a file of the run itself"):
        export(tmp_path / "a", "messages", tmp_path / "a" / "run.sqlite")

"""A run of a million requests resumes at once, in bounded memory."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from selfinstruct.engine.dispatch.budget import worst_case
from selfinstruct.engine.plan import make_plan
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.ledger import LEDGER_FILE, Ledger, Reader
from selfinstruct.records import Choice, Completion, Usage
from tests.cli import command, dataset, environment, run_cli
from tests.conftest import Promise
from tests.loopback import Loopback

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "va", "we", "zi")


def invented(dice: random.Random, words: int) -> str:
    return " ".join("".join(dice.choices(SYLLABLES, k=3)) for _ in range(words))


def answer(number: int, keep: float) -> str:
    """Return one task: new with probability ``keep``, otherwise one of fifty."""
    dice = random.Random(number)
    text = invented(dice, 12) if dice.random() < keep else invented(random.Random(-1 - number % 50), 12)
    return f" {text}\nInput: <noinput>\nOutput: {invented(dice, 15)}"


def make(folder: Path, settings: dict[str, object], requests: int, keep: float) -> int:
    """Make a run as the engine would leave it, with the engine's parts but without its loop.

    Returns:
        The number of rows.
    """
    plan = make_plan({**settings, "n": 10**9})
    verdicts = VerdictCache(folder, plan)
    state = RunState(plan, plan.settings.n)
    state.on_checkpoint = verdicts.save
    with Ledger(folder, plan.meta(), plan.texts()) as ledger:
        committed = None
        for number in range(requests):
            request = state.scheduler.open[number]
            text = answer(number, keep)
            outcome = Completion((Choice(text, "stop"),), Usage(200, len(text) // 4), "invented")
            send, _ = ledger.record_send(request, worst_case(request), first=True)
            committed = ledger.record_outcome(number, send, outcome, 0.5)
            state.receive(number, outcome)
            if number % 1000 == 0:
                committed.result()  # keeps the writer's queue short
        assert committed is not None
        committed.result()
    return len(state.rows)


def check(tmp_path: Path, requests: int, keep: float, promise: Promise) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    with Loopback(lambda body: answer(-len(body["prompt"]), 1.0)) as server:
        settings: dict[str, object] = {
            "strategy": "alpaca", "backend": "openai", "alpaca": {"demonstrations": 1}, "patience": 10**9,
            "saturation": {"novelty": 0},
            "openai": {"model": "invented", "base_url": server.url, "api": "completion"},
        }  # fmt: skip
        began = time.monotonic()
        rows = make(run, settings, requests, keep)
        size = (run / LEDGER_FILE).stat().st_size / 2**30
        print(f"  made {requests:,} requests and {rows:,} rows in {time.monotonic() - began:.0f} s, {size:.2f} GiB")
        if requests < 10_000:
            shutil.copytree(run, fresh, ignore=shutil.ignore_patterns("verdicts.*"))
        args = command("generate", run, "-n", rows + 1, "--set", f"openai.base_url={server.url}", "-q")
        began = time.monotonic()
        done = subprocess.run(args, capture_output=True, text=True, check=False, env=environment())
        seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        assert f"{rows + 1} of {rows + 1:,} rows" in done.stdout
        with Reader(run) as reader:
            assert reader.answers() > requests
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        began = time.monotonic()
        assert f'"rows":{rows + 1}' in run_cli("status", run, "--json").replace(" ", "")
        look = time.monotonic() - began
        if fresh.exists():  # the same dataset without the verdict cache
            run_cli("generate", fresh, "-n", rows + 1, "-q")
            assert dataset(fresh) == dataset(run)
    promise(
        "long runs",
        f"{requests:,} requests, {rows:,} rows: resume, one more row and export in {seconds:.1f} s, {memory:.2f} GiB; "
        f"status in {look:.1f} s",
    )


def test_a_long_run_resumes_from_the_verdict_cache(tmp_path: Path, promise: Promise) -> None:
    check(tmp_path, 3_000, 0.2, promise)


@pytest.mark.prove
def test_a_million_requests(tmp_path: Path, promise: Promise) -> None:
    check(tmp_path, 1_000_000, 0.052, promise)

"""SIGKILL at random moments of an evaluation: the same scores, and no item is asked again once it was answered."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Promise
from tests.crash.test_kill import Life, Nursery
from tests.loopback import Loopback

ITEMS = 60


def write_suite(path: Path) -> Path:
    rows = [{"id": f"n{n}", "instruction": f"Write {n}.", "verifier": {"kind": "number", "value": n}}
            for n in range(ITEMS)]  # fmt: skip
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def question(body: dict) -> str:
    return body["messages"][-1]["content"]


def answer(body: dict) -> str:
    """Every third answer is wrong."""
    value = int(question(body).removeprefix("Write ").rstrip("."))
    return str(value + (value % 3 == 0))


def kill_at_random(folder: Path, nursery: Nursery, url: str, draw: random.Random, kills: int) -> tuple[bytes, int]:
    """Run evaluations to their end, each killed at random moments; return the scores and how many kills hit."""
    suite, hits = write_suite(folder / "suite.jsonl"), 0
    args = ("--suite", f"verified={suite}", "--backend", "openai", "--model", "m", "--base-url", url, "-q",
            "--concurrency", 4)  # fmt: skip
    run = folder / "run"
    for _ in range(kills):
        life = Life(nursery, folder / "log", "evaluate", run, *args)
        timer = threading.Timer(draw.uniform(0.05, 0.9), life.kill)
        timer.start()
        hits += life.wait() == -9
        timer.cancel()
    nursery.run(folder / "log", "evaluate", run, *args)
    return (run / "scores.json").read_bytes(), hits


def check(folder: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill one evaluation ``kills`` times, compare it with an unkilled one; return kills that hit and repeated asks."""
    draw = random.Random(seed)
    with Nursery() as nursery, Loopback(answer) as whole, Loopback(answer, delay=0.03) as server:
        folder.joinpath("whole").mkdir()
        expected, _ = kill_at_random(folder / "whole", nursery, whole.url, draw, 0)
        folder.joinpath("killed").mkdir()
        scores, hits = kill_at_random(folder / "killed", nursery, server.url, draw, kills)
        asked = Counter(question(arrived.body) for arrived in server.arrived)
    assert hits
    assert scores == expected
    assert len(asked) == ITEMS
    again = sum(asked.values()) - ITEMS
    assert again <= 4 * hits, "only requests under way at a kill (at most 4) are asked again"
    assert json.loads(scores)["suites"]["verified"]["metrics"]["verified"]["value"] == pytest.approx(2 / 3)
    return hits, again


def test_a_killed_evaluation_gives_the_same_scores(tmp_path: Path, promise: Promise) -> None:
    hits, again = check(tmp_path, 5, 1)
    promise("evaluation: crashes", f"{hits} kills, same scores; {again} items under way at a kill asked again")


@pytest.mark.prove
def test_an_evaluation_killed_50_times_gives_the_same_scores(tmp_path: Path, promise: Promise) -> None:
    total = [0, 0]
    for seed in range(10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        total = [sum(pair) for pair in zip(total, check(folder, 5, seed), strict=True)]
    promise("evaluation: crashes", f"{total[0]} kills, same scores; {total[1]} items under way at a kill asked again")

"""Whole runs with a model of transformers: killed, resumed and replayed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import selfinstruct
from selfinstruct.ledger import Reader, has_run
from tests import finetune_fixtures
from tests.cli import command, dataset, environment, run_cli

tiny_model_folder, tiny_tokenizer = finetune_fixtures.tiny_model_folder, finetune_fixtures.tiny_tokenizer

PATIENCE_S = 300.0
TASKS = 40


def settings(tasks: Path, model: Path) -> dict[str, Any]:
    """Settings of a run whose answers may be cut, since a random model ends none."""
    return {
        "strategy": "respond", "seeds": str(tasks), "backend": "transformers", "concurrency": 4,
        "transformers": {"model": str(model)}, "respond": {"answer": {"max_tokens": 60}},
        "accept_endings": ["length"],
    }  # fmt: skip


def answers(run: Path) -> int:
    if not has_run(run):
        return 0
    with Reader(run) as reader:
        return reader.answers()


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not reached():
            assert time.monotonic() < deadline
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"the process ended first: {process.communicate(timeout=0.02)[0]}")
    finally:
        process.kill()
        process.communicate()


def test_a_killed_run_resumes_to_the_bytes_of_its_replay(tmp_path: Path, tiny_model_folder: Path) -> None:
    tasks, file = tmp_path / "tasks.jsonl", tmp_path / "settings.yaml"
    rows = [{"instruction": f"Name {number} things that are green."} for number in range(TASKS)]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file.write_text(json.dumps(settings(tasks, tiny_model_folder)))
    run, again, replayed = tmp_path / "run", tmp_path / "again", tmp_path / "replayed"

    line = command("generate", run, "--config", file)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    kill_when(process, lambda: answers(run) >= 4)
    assert answers(run) < TASKS

    resumed = selfinstruct.generate(run)
    assert len(resumed.rows) > TASKS // 2
    report = json.loads(run_cli("status", run, "--json"))
    assert report["backend"] == "transformers"
    assert report["models"] == {"model": TASKS}
    assert report["failures"] == {}
    with Reader(run) as reader:
        assert reader.spending().sends - reader.answers() <= 4, "only requests in flight were sent again"

    run_cli("generate", replayed, "--backend", "replay", "--from", run, "-n", len(resumed.rows))
    assert dataset(replayed) == dataset(run)
    selfinstruct.generate(again, settings(tasks, tiny_model_folder))
    assert dataset(again) == dataset(run), "in float32 the model gives the same answers in other batches"


def test_an_unusable_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    output = run_cli("generate", tmp_path / "run", "--backend", "transformers", "--model", tmp_path / "empty", code=2)
    assert f"{tmp_path / 'empty'}: no config.json in it; give the folder of a model" in output

"""Runs with quality against a real server: the same bytes after any stop, explained, and filtered again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.common.rng import Rng
from selfinstruct.runs.export import export
from selfinstruct.runs.fork import fork, refilter
from selfinstruct.runs.status import status
from tests import scripted
from tests.cli import dataset, run_cli
from tests.loopback import Loopback, Reply

QUALITY = {
    "best_of": 3,
    "judge": {"rubrics": ["helpfulness", "clarity"], "threshold": 3.0},
    "pairs": True,
    "tags": True,
}
N = 4


def reply(body: dict[str, Any]) -> str | list[str | Reply]:
    """A model that also answers tasks, judges and tags; now and then out of form."""
    prompt = body["prompt"]
    last = prompt.rstrip().splitlines()[-1]
    rng = Rng("quality", prompt)
    if last == "Answer:":
        return [" ".join(rng.choice(scripted.WORDS) for _ in range(4)) for _ in range(body["n"])]
    if last == "Score:":
        return (
            "Hard to say."
            if rng.random() < 0.05
            else f" {1 + rng.below(5)}\nReason: it is {rng.choice(scripted.WORDS)}"
        )
    if last == "Category:":
        return f" {rng.choice(['coding', 'poetry'])}\nDifficulty: easy\nLanguage: English"
    return scripted.reply(body)


def settings(server: Loopback, strategy: str = "alpaca", **more: Any) -> dict[str, Any]:
    backend = {"model": "scripted", "base_url": server.url, "api": "completion"}
    return {"strategy": strategy, "backend": "openai", "openai": backend, "n": N, "lag": 12, "quality": QUALITY, **more}


@pytest.fixture
def server(loopback: Callable[..., Loopback]) -> Loopback:
    return loopback(reply)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_bytes_at_any_concurrency_and_after_any_stop(server: Loopback, tmp_path: Path) -> None:
    given = settings(server)
    generate(tmp_path / "a", {**given, "concurrency": 1})
    generate(tmp_path / "b", {**given, "concurrency": 8})
    for limit in (12, 30):
        stopped = generate(tmp_path / "c", {**given, "budget": {"max_requests": limit}})
        assert stopped.ending == "budget"
    generate(tmp_path / "c", {**given, "budget": {"max_requests": None}})
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b") == dataset(tmp_path / "c")
    rows = lines(tmp_path / "a/dataset/alpaca.jsonl")
    assert len(rows) == N
    assert all(3 <= row["score"] <= 5 and set(row["scores"]) == {"helpfulness", "clarity"} for row in rows)
    assert {row["category"] for row in rows} <= {"coding", "other"}
    status(tmp_path / "a", verify=True)  # the snapshot holds the chains that were under way

    # Judged again: stricter, nothing is asked; a lower threshold than once, and tags of what is kept now are missing.
    strict = refilter(tmp_path / "a", tmp_path / "strict", {"quality": {"judge": {"threshold": 3.5}}})
    kept = {row["instruction"]: row for row in lines(tmp_path / "strict/dataset/alpaca.jsonl")}
    assert kept
    assert kept == {row["instruction"]: row for row in rows if row["score"] >= 3.5}
    assert strict.stats.rejected["low_score"]
    again = refilter(tmp_path / "strict", tmp_path / "back", {"quality": {"judge": {"threshold": 3.0}}})
    assert dataset(tmp_path / "back") == dataset(tmp_path / "a")
    assert again.queued >= 0
    before = len(server.arrived)
    fork(tmp_path / "a", tmp_path / "plain", {"quality": None, "n": 3})
    assert "score" not in lines(generate(tmp_path / "plain").exported.path)[0]
    assert len(server.arrived) == before, "without quality, the answers are there"


def test_a_fork_can_add_quality_to_a_run_without_it(server: Loopback, tmp_path: Path) -> None:
    generate(tmp_path / "plain", {**settings(server, "self-instruct"), "quality": None})
    before = len(server.arrived)
    run_cli("fork", tmp_path / "plain", "-o", tmp_path / "judged", "-q", "-n", 3,
            "--set", "quality.judge.threshold=2.5", "--set", "quality.judge.rubrics=[clarity]")  # fmt: skip
    rows = lines(tmp_path / "judged/dataset/alpaca.jsonl")
    assert len(rows) == 3
    assert all(row["scores"]["clarity"] >= 2.5 for row in rows)
    old, new = ([one.body for one in part] for part in (server.arrived[:before], server.arrived[before:]))
    assert sum(body["prompt"].endswith("Score:") for body in new) >= 3
    assert not [body for body in new if body in old], "nothing is asked for twice"


def test_another_model_can_be_the_judge(server: Loopback, tmp_path: Path, loopback: Callable[..., Loopback]) -> None:
    generate(tmp_path / "plain", {**settings(server, "self-instruct"), "n": 8, "quality": None})
    written, judge = len(server.arrived), loopback(reply)
    written_stages = json.loads(run_cli("status", tmp_path / "plain", "--json"))["stages"]
    run_cli("fork", tmp_path / "plain", "-o", tmp_path / "judged", "-q", "-n", 2, "--base-url", judge.url,
            "--set", "quality.judge.threshold=1", "--set", "quality.judge.rubrics=[clarity]")  # fmt: skip
    assert len(lines(tmp_path / "judged/dataset/alpaca.jsonl")) == 2
    assert len(server.arrived) == written
    asked = [one.body["prompt"].endswith("Score:") for one in judge.arrived]
    assert sum(asked) >= 2
    stages = json.loads(run_cli("status", tmp_path / "judged", "--json"))["stages"]
    assert stages["instructions"] == written_stages["instructions"], "nothing new is begun"


def test_rows_and_rejections_are_explained_and_counted(server: Loopback, tmp_path: Path) -> None:
    run = tmp_path / "a"
    generate(run, settings(server))
    found = json.loads(run_cli("explain", run, 1, "--json"))
    stages = [step["stage"] for step in found["steps"]]
    assert stages == ["tasks", "candidates", *["judge"] * (len(stages) - 3), "tags"]
    trial, row = found["steps"][0], found["steps"][-1]
    assert trial["candidate"]
    assert {one["filter"] for one in trial["verdicts"]} >= {"rouge", "instances"}
    assert {"best_of", "judge", "minhash"} <= {one["filter"] for one in row["verdicts"]}
    page = run_cli("explain", run, 1)
    assert "  judge: " in page
    assert "    helpfulness " in page
    low = next(one for one in candidates(run) if one["reason"] == "low_score")
    assert "rejected, low_score" in run_cli("explain", run, low["id"])
    shown = json.loads(run_cli("status", run, "--json"))
    assert {"tasks", "candidates", "judge", "tags"} == set(shown["stages"])
    table = shown["tables"]["quality"]
    assert sum(table["helpfulness"].values()) + sum(table["clarity"].values()) == shown["stages"]["judge"]
    assert set(table["helpfulness"]) >= {"1", "5"}


def candidates(run: Path) -> list[dict[str, Any]]:
    return lines(export(run, "candidates", run.with_name("candidates.jsonl")).path)


def test_pairs_are_exported_as_preference_data_that_datasets_loads(server: Loopback, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    run = tmp_path / "a"
    result = generate(run, settings(server, n=12))
    said = run_cli("export", run, "--format", "preference")
    pairs = [row for row in result.rows if row.candidate.pair is not None]
    left_out = 12 - len(pairs)
    assert 0 < left_out < 12, "the scripted judge finds answers of equal worth, too"
    assert f"{left_out} row{'s' if left_out > 1 else ''} without a preference pair left out" in said
    loaded = datasets.load_dataset(
        "json", data_files=str(run / "dataset/preference.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == len(pairs)
    assert set(loaded.column_names) == {"prompt", "chosen", "rejected", "score_chosen", "score_rejected"}
    one = loaded[0]
    assert [message["role"] for message in one["prompt"]] == ["user"]
    assert one["chosen"] == [{"role": "assistant", "content": pairs[0].candidate.output}]
    assert one["rejected"] != one["chosen"]
    assert all(each["score_chosen"] > each["score_rejected"] for each in loaded)
    manifest = json.loads((run / "dataset/manifest.json").read_text())
    assert manifest["files"]["preference.jsonl"]["rows"] == len(pairs)
    asked = [one.body for one in server.arrived if "n" in one.body]
    assert {body["n"] for body in asked} == {2}

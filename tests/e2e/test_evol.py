"""Evol-Instruct over HTTP: the same bytes however it is run, each epoch counted once, and lineages that can be read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.runs.explain import explain
from selfinstruct.runs.export import export
from selfinstruct.runs.status import status
from tests.cli import dataset, run_cli
from tests.loopback import Fault, Loopback
from tests.scripted import reply


def evolved(run: Path, server: Loopback, **settings: Any) -> Any:
    section = {"model": "scripted", "base_url": server.url, "api": "chat"}
    return generate(run, {"strategy": "evol-instruct", "backend": "openai", "openai": section, **settings})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("evol") / "run"
    with Loopback(reply) as server:
        evolved(folder, server, n=30, concurrency=1)
    return folder


def test_the_same_bytes_at_another_concurrency_and_after_a_stop(run: Path, tmp_path: Path) -> None:
    with Loopback(reply) as server:
        evolved(tmp_path / "eight", server, n=30, concurrency=8)
        stopped = evolved(tmp_path / "stopped", server, n=30, budget={"max_requests": 60})
        assert stopped.ending == "budget"
        evolved(tmp_path / "stopped", server, budget={"max_requests": None})
    assert len(dataset(run).splitlines()) == 30
    assert dataset(tmp_path / "eight") == dataset(tmp_path / "stopped") == dataset(run)


def worked_off(folder: Path, *faults: Any) -> Any:
    """Twelve seeds through all their epochs."""
    seeds = folder / "seeds.jsonl"
    seeds.write_text("".join(
        json.dumps({"id": f"s{n}", "instruction": f"Compare the {n} tallest trees of a park, by their leaves.",
                    "instances": [{"input": "", "output": "Oaks are wide."}]}) + "\n" for n in range(2, 14)
    ))  # fmt: skip
    with Loopback(reply, *faults) as server:
        result = evolved(folder / "run", server, n=100, seeds=str(seeds), **{"evol-instruct": {"audit": 1.0}})
    assert result.ending == "exhausted"
    return result


def test_every_epoch_of_every_seed_is_counted_once(tmp_path: Path) -> None:
    result = worked_off(tmp_path)
    tables = result.stats.tables
    counts = sum(tables["evol"].values(), Counter())
    assert counts.total() == result.stats.stages["evolve"] == 12 * 4
    assert counts["passed"] == len(result.rows)
    for epoch in range(1, 5):
        assert sum(line.total() for name, line in tables["evol"].items() if name.startswith(f"epoch {epoch},")) == 12
    cheap = tables["agreement"]
    assert cheap["cheap test: no gain"].total() == counts["unchanged"] + counts["too_similar"] > 0
    assert sum(line.total() for line in cheap.values()) == result.stats.stages["compare"]
    assert cheap["cheap test: gain"]["judge: no gain"] == counts["equal"]
    assert {"prompt_words", "sorry", "no_content", "unchanged", "equal"} <= counts.keys()
    shown = run_cli("status", tmp_path / "run")
    assert "\n  evol\n    epoch 1, add-constraints" in shown
    assert "\n  agreement\n    cheap test: gain" in shown
    assert status(tmp_path / "run", verify=True).stats.tables == tables


def test_an_epoch_whose_judge_fails_permanently_is_counted_once(tmp_path: Path) -> None:
    def failing(_: int, body: dict[str, Any]) -> Fault | None:
        asked = body["messages"][-1]["content"].endswith("Equal or different:")
        return Fault(400) if asked and body["seed"] % 2 else None

    result = worked_off(tmp_path, failing)
    tables, stages = result.stats.tables, result.stats.stages
    counts = sum(tables["evol"].values(), Counter())
    failed = stages["compare"] - sum(line.total() for line in tables["agreement"].values())
    assert result.stats.failures.total() == failed > counts["failed"] > 0, "an audited one is counted as similar"
    assert counts.total() == stages["evolve"] == 12 * 4


def test_a_row_s_lineage_leads_from_its_seed_through_every_epoch(run: Path) -> None:
    rows = [json.loads(line) for line in dataset(run).splitlines()]
    place = max(range(30), key=lambda at: rows[at]["epoch"])
    found = explain(run, str(place + 1))
    seed, *texts = found.lineage
    assert (seed.id, seed.label) == (rows[place]["root"], "")
    assert len(texts) == rows[place]["epoch"] > 1
    assert [text.label.split(",")[0] for text in texts] == [f"epoch {n}" for n in range(1, len(texts) + 1)]
    assert (texts[-1].text, texts[-1].reason) == (rows[place]["instruction"], "")
    stages = [step.request.stage for step in found.steps]
    assert stages[-3:] == ["evolve", "compare", "answer"]
    assert stages.count("evolve") == rows[place]["epoch"]
    for step in found.steps:
        assert step.candidate.id == f"{step.request.number}.0"
        assert step.candidate.verdicts
    page = run_cli("explain", run, place + 1)
    assert f"lineage:\n  seed {seed.id}: " in page
    assert f"\n  -> {texts[0].id}, epoch 1, operation " in page
    assert f"  candidate {found.steps[0].candidate.id}, a pending task: " in page


def test_a_rejected_evolution_is_in_the_lineage_with_its_reason(run: Path) -> None:
    export(run, "candidates")
    lines = [json.loads(line) for line in dataset(run, "candidates").splitlines()]
    failed = {line["task"] for line in lines if not line["kept"]}
    later = [at for at, row in enumerate(dataset(run).splitlines(), 1) if json.loads(row)["epoch"] > 1]
    texts = [text for row in later[:8] for text in explain(run, str(row)).lineage[1:-1]]
    assert texts
    assert {text.id for text in texts if text.reason} <= failed
    assert any(text.reason for text in texts)
    assert all((text.id in failed) == bool(text.reason) for text in texts)

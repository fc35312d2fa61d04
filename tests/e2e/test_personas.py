"""Runs of personas against a server: the same bytes after any stop, and independent of their files once begun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.common.config import merge
from selfinstruct.errors import RunChangedError
from selfinstruct.ledger import Reader
from selfinstruct.runs.explain import explain
from selfinstruct.runs.export import export
from selfinstruct.runs.status import status
from selfinstruct.strategies import Personas
from selfinstruct.verifiers import verify
from tests.cli import dataset, run_cli
from tests.loopback import Loopback
from tests.scripted import reply

PEOPLE = tuple(
    f"A {trade} in {place}."
    for trade in ("baker", "judge", "diver")
    for place in ("Lyon", "Oslo $persona", "Lima {}", "Riga ### Task 4")
)


def settings(url: str, **more: Any) -> dict[str, Any]:
    openai = {"model": "scripted", "base_url": url, "api": "completion"}
    return merge({"strategy": "personas", "backend": "openai", "openai": openai, "n": 24, "lag": 32}, more)


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in dataset(run).splitlines()]


@pytest.fixture
def server(loopback: Callable[..., Loopback]) -> Loopback:
    return loopback(reply)


@pytest.mark.parametrize("people", [False, True])
def test_a_run_is_the_same_at_any_concurrency_and_after_a_stop(tmp_path: Path, server: Loopback, people: bool) -> None:
    given = settings(server.url, personas={"generate": people, "constraints": 1})
    generate(tmp_path / "one", {**given, "concurrency": 1})
    generate(tmp_path / "eight", {**given, "concurrency": 8})
    half = {**given, "concurrency": 3, "budget": {"max_requests": 30}}
    assert generate(tmp_path / "half", half).ending == "budget"
    assert generate(tmp_path / "half", {**given, "budget": {"max_requests": None}}).ending == "complete"
    assert dataset(tmp_path / "one") == dataset(tmp_path / "eight") == dataset(tmp_path / "half")
    found = rows(tmp_path / "one")
    assert len(found) == 24
    assert {row["kind"] for row in found} == {"instruction", "math", "code", "precise"}
    for row in found:
        assert row["persona"]
        assert ("verifier" in row) == (row["kind"] == "precise")
        assert "verifier" not in row or verify(row["verifier"], row["output"]).kept
    assert any("result" in row for row in found)
    tables = status(tmp_path / "one").stats.tables
    assert tables["kinds"]["precise"]["all kept"] > 0
    assert tables["kinds"]["precise"]["one broken"] > 0
    assert (
        sum(sum(counts.values()) for counts in tables["constraints"].values()) == tables["kinds"]["precise"]["answer"]
    )
    stages = [step.request.stage for step in explain(tmp_path / "one", "1").steps]
    assert stages == [*(["people"] if people else []), "task", "answer"]
    assert "Person: " in run_cli("explain", tmp_path / "one", 2)


def test_the_file_of_personas_may_be_deleted_once_the_run_has_begun(tmp_path: Path, server: Loopback) -> None:
    file = tmp_path / "people.txt"
    file.write_text("\n".join(PEOPLE))
    given = settings(server.url, personas={"file": str(file)})
    generate(tmp_path / "whole", given)
    generate(tmp_path / "run", {**given, "n": 8})
    file.unlink()
    generate(tmp_path / "run", {"n": 24})
    assert dataset(tmp_path / "run") == dataset(tmp_path / "whole")
    assert {row["persona"] for row in rows(tmp_path / "run")} <= set(PEOPLE)
    with Reader(tmp_path / "run") as reader:
        assert reader.templates()[Personas.DATA].split("\n") == list(PEOPLE)
    replayed = {"backend": "replay", "replay": {"source": str(tmp_path / "run")}, "n": 24}
    generate(tmp_path / "again", replayed)
    assert dataset(tmp_path / "again") == dataset(tmp_path / "run")
    before = dataset(tmp_path / "run")
    export(tmp_path / "run", "alpaca", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_the_content_of_the_file_belongs_to_the_run_and_its_path_does_not(tmp_path: Path, server: Loopback) -> None:
    file, other = tmp_path / "people.txt", tmp_path / "other.jsonl"
    file.write_text("\n".join(PEOPLE))
    given = settings(server.url, personas={"file": str(file)})
    generate(tmp_path / "run", {**given, "n": 8})
    other.write_text("\n".join(json.dumps({"persona": one}) for one in PEOPLE))
    assert len(generate(tmp_path / "run", {"n": 12, "personas": {"file": str(other)}}).rows) == 12
    assert str(tmp_path) not in dataset(tmp_path / "run").decode()
    file.write_text("\n".join((*PEOPLE[1:], "A nurse in Kyiv.")))
    with pytest.raises(RunChangedError, match=r"(?s)personas/people.*-A baker in Lyon\.\n.*\+A nurse in Kyiv\."):
        generate(tmp_path / "run", {"n": 12, "personas": {"file": str(file)}})
    said = run_cli("fork", tmp_path / "run", "-o", tmp_path / "fork", "-n", 14, "-q", "--set", f"personas.file={other}")
    assert "complete" in said
    # A fork keeps what was recorded, unless another file is given; that is read.
    run_cli("fork", tmp_path / "run", "-o", tmp_path / "kept", "-n", 12, "-q")
    assert dataset(tmp_path / "kept") == dataset(tmp_path / "run")
    third = tmp_path / "third.txt"
    third.write_text("A nurse in Kyiv.\n")
    run_cli("fork", tmp_path / "run", "-o", tmp_path / "new", "-n", 60, "-q", "--set", f"personas.file={third}")
    later = {row["persona"] for row in rows(tmp_path / "new")} - set(PEOPLE)
    assert later == {"A nurse in Kyiv."}


def mixed(url: str, *entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**settings(url, **more), "strategy": "mix", "strategies": list(entries)}


def test_two_entries_of_a_mixed_run_read_different_files_of_personas(tmp_path: Path, server: Loopback) -> None:
    people = {"odd": PEOPLE[1::2], "even": PEOPLE[::2]}
    files = {label: tmp_path / f"{label}.txt" for label in people}
    for label, path in files.items():
        path.write_text("\n".join(people[label]))
    entries = [{"name": "personas", "label": label, "file": str(path)} for label, path in files.items()]
    generate(tmp_path / "whole", mixed(server.url, *entries))
    generate(tmp_path / "turned", mixed(server.url, *entries[::-1]))
    assert dataset(tmp_path / "turned") == dataset(tmp_path / "whole")
    found = rows(tmp_path / "whole")
    assert {row["strategy"] for row in found} == set(people)
    assert all(row["persona"] in people[row["strategy"]] for row in found)
    generate(tmp_path / "run", mixed(server.url, *entries, n=8))
    for path in files.values():
        path.unlink()
    generate(tmp_path / "run", {"n": 24})
    assert dataset(tmp_path / "run") == dataset(tmp_path / "whole")
    generate(tmp_path / "again", {"backend": "replay", "replay": {"source": str(tmp_path / "run")}, "n": 24})
    assert dataset(tmp_path / "again") == dataset(tmp_path / "whole")
    with Reader(tmp_path / "run") as reader:
        assert reader.templates()[f"odd/{Personas.DATA}"].split("\n") == list(people["odd"])
    files["odd"].write_text("A nurse in Kyiv.")
    files["even"].write_text("\n".join(people["even"]))
    with pytest.raises(RunChangedError, match=r"(?s)odd/personas/people.*\+A nurse in Kyiv\."):
        generate(tmp_path / "run", {"n": 25})


def test_personas_are_not_tasks_for_other_methods(tmp_path: Path, server: Loopback) -> None:
    entries = [{"name": "personas", "generate": True}, {"name": "self-instruct"}]
    run, stopped = tmp_path / "run", tmp_path / "stopped"
    result = generate(run, mixed(server.url, *entries, n=80, lag=8))
    export(run, "candidates")
    lines = [json.loads(line) for line in dataset(run, "candidates").splitlines()]
    people = {line["id"] for line in lines if line["stage"] == "personas/people"}
    tasks = {line["id"] for line in lines if line["draft"]} - people
    shown = {name for line in lines for name in line["demonstrations"]}
    assert {line["id"] for line in lines if line["id"] in people and line["kept"]}
    assert shown & tasks
    assert not shown & people
    assert result.stats.instructions == len(tasks)
    assert result.stats.tasks == sum(line["kept"] for line in lines if line["id"] in tasks)
    texts = {line["instruction"] for line in lines if line["id"] in tasks}
    assert {text for _, text in result.saturation.recent} <= texts
    near = next(
        (line["id"], one["nearest"])
        for line in lines
        for one in line["verdicts"]
        if line["id"] in people and one["nearest"] in people
    )
    neighbour = explain(run, near[0]).steps[-1].nearest_texts["rouge"]
    assert (neighbour.id, bool(neighbour.text)) == (near[1], True)
    # A later start knows them again, from the verdicts that were kept.
    generate(stopped, mixed(server.url, *entries, n=30, lag=8))
    assert status(stopped, verify=True).complete
    generate(stopped, {"n": 80})
    assert dataset(stopped) == dataset(run)
    assert status(stopped, verify=True).stats.instructions == result.stats.instructions


def test_an_invalid_file_is_refused_before_anything_is_sent(tmp_path: Path, server: Loopback) -> None:
    file = tmp_path / "people.jsonl"
    file.write_text('{"name": "A nurse"}\n')
    base = ["--backend", "openai", "--model", "m", "--base-url", server.url, "--strategy", "personas"]
    said = run_cli("generate", tmp_path / "run", *base, "--set", f"personas.file={file}", code=2)
    assert f"{file}:1: 'persona' is missing, empty or no string" in said
    said = run_cli("generate", tmp_path / "run", *base, "--set", f"personas.file={tmp_path / 'none.txt'}", code=2)
    assert "can't read" in said
    assert not server.arrived
    assert not (tmp_path / "run").exists()

"""A third-party package with every kind of plugin, built, installed, and used from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import ROOT, dataset, run_cli

PACKAGE = ROOT / "tests" / "plugins" / "selfinstruct_example"
GENERATE = ("--strategy", "vary", "--backend", "canned", "-n", 5, "-q")


def install(target: Path, source: Path) -> None:
    """Build the package and install it into a directory, without a network."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index",
           "--no-build-isolation", "--target", target, source]  # fmt: skip
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the installed package."""
    folder = tmp_path_factory.mktemp("plugins")
    source = shutil.copytree(PACKAGE, folder / "source")
    install(folder / "site", source)
    return folder / "site"


def command(site: Path, *words: object, code: int = 0) -> str:
    return run_cli(*words, code=code, env={"PYTHONPATH": f"{ROOT}:{site}"})


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_doctor_lists_the_plugins_with_their_version(site: Path) -> None:
    output = command(site, "doctor")
    assert "selfinstruct-example 0.1.0: strategy vary, backend canned, filter shouting, verifier palindrome" in output
    assert "selfinstruct-example" not in run_cli("doctor")


def test_a_run_of_the_plugins_is_made_explained_and_repeated(site: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command(site, "generate", run, *GENERATE)
    instructions = [row["instruction"] for row in rows(run / "dataset" / "alpaca.jsonl")]
    assert len(instructions) == 5
    assert all(instruction.startswith("Explain ") for instruction in instructions)
    page = command(site, "explain", run, 1)
    assert "user (from vary/task.txt)" in page
    assert "answer of canned" in page
    command(site, "generate", tmp_path / "again", *GENERATE)
    assert dataset(tmp_path / "again") == dataset(run)
    replay = ("generate", tmp_path / "replay", "--backend", "replay", "--from", run, "-q")
    command(site, *replay)
    assert dataset(tmp_path / "replay") == dataset(run)


def test_a_strategy_and_a_backend_have_settings_that_are_checked(site: Path, tmp_path: Path) -> None:
    command(site, "generate", tmp_path / "run", *GENERATE, "--set", "canned.prefix=Describe")
    assert all(row["instruction"].startswith("Describe ") for row in rows(tmp_path / "run/dataset/alpaca.jsonl"))
    output = command(site, "generate", tmp_path / "x", *GENERATE, "--set", "vary.temperatur=1", code=2)
    assert "did you mean 'temperature'?" in output


def test_the_version_of_a_plugin_belongs_to_the_identity_of_a_run(site: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command(site, "generate", run, *GENERATE)
    newer = tmp_path / "newer"
    shutil.copytree(site, newer)
    (metadata,) = newer.glob("*.dist-info/METADATA")
    metadata.write_text(metadata.read_text().replace("Version: 0.1.0", "Version: 0.2.0"))
    output = command(newer, "generate", run, "-n", 6, "-q", code=1)
    assert "plugins.strategy vary: 'selfinstruct-example 0.1.0' -> 'selfinstruct-example 0.2.0'" in output
    assert "plugins.backend canned: 'selfinstruct-example 0.1.0' -> 'selfinstruct-example 0.2.0'" in output
    command(site, "generate", run, "-n", 6, "-q")
    assert len(rows(run / "dataset" / "alpaca.jsonl")) == 6


def test_without_the_package_its_names_are_unknown(tmp_path: Path) -> None:
    assert "unknown strategy 'vary'" in run_cli("generate", tmp_path / "run", "--strategy", "vary", code=2)
    assert "unknown backend 'canned'" in run_cli("generate", tmp_path / "run", "--backend", "canned", code=2)


def test_a_filter_of_a_plugin_filters_a_file(site: Path, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    loud = {"instruction": "NAME A RIVER OF FRANCE", "output": "LOIRE"}
    quiet = {"instruction": "Name a river of Spain", "output": "Ebro"}
    source.write_text("".join(f"{json.dumps(row)}\n" for row in (loud, quiet)))
    output = command(site, "filter", source, "-o", tmp_path / "quiet.jsonl", "--use", "shouting:limit=0.4")
    assert "shouting: shouting" in output
    assert rows(tmp_path / "quiet.jsonl") == [quiet]
    command(site, "filter", source, "-o", tmp_path / "all.jsonl", "--use", "shouting:limit=1.0")
    assert rows(tmp_path / "all.jsonl") == [loud, quiet]
    words = ("filter", source, "-o", tmp_path / "x.jsonl", "--use")
    assert "did you mean 'limit'?" in command(site, *words, "shouting:limits=1", code=2)
    assert "unknown filter 'shoutin' (did you mean 'shouting'?)" in command(site, *words, "shoutin", code=2)


def test_a_filter_of_a_plugin_filters_a_run(site: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    quiet = ("--set", "filters.plugins=[{name: shouting, limit: 0.01}]")
    command(site, "generate", run, *GENERATE)
    command(site, "refilter", run, "-o", tmp_path / "quiet", *quiet)
    status = json.loads(command(site, "status", tmp_path / "quiet", "--json"))
    assert status["rows"] == 0
    assert status["rejected"]["shouting"] == status["instructions"]
    output = command(site, "generate", run, "-n", 6, "-q", *quiet, code=1)
    assert "filters.plugins" in output


def test_a_verifier_of_a_plugin_checks_answers_to_a_seed(site: Path, tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    verifier = {"kind": "palindrome", "least": 5}
    seeds.write_text(json.dumps({"instruction": "Write a palindrome.", "output": "Never odd or even",
                                 "verifier": verifier}) + "\n")  # fmt: skip
    report = json.loads(command(site, "seeds", "check", seeds, "--json"))
    assert report["ok"]
    run = tmp_path / "run"
    respond = ("respond", run, "--from", seeds, "--backend", "canned", "-n", 1, "-q")
    command(site, *respond, code=1)
    status = json.loads(command(site, "status", run, "--json"))
    assert status["rejected"] == {"wrong_answer": 1}
    assert "palindrome: expected a palindrome of at least 5 letters" in command(site, "explain", run, "0.0")
    assert "unknown kind" in run_cli("seeds", "check", seeds, code=1)

"""Messages and exit codes of ``generate`` that were misleading once."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli import command, dataset, environment, run_cli
from tests.loopback import Loopback
from tests.scripted import reply


def config(run: Path) -> dict:
    """The settings that would be tried, as ``status`` reads them from a run."""
    return json.loads(run_cli("status", run, "--json"))


@pytest.mark.parametrize("how", ["option", "set", "file", "run"])
def test_backend_options_apply_to_the_selected_backend(tmp_path: Path, how: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("backend: openai\n")
    chosen = {"option": ["--backend", "openai"], "set": ["--set", "backend=openai"], "file": ["--config", path]}
    with Loopback(reply) as server:
        rest = ["--base-url", server.url, "--api", "completion", "-n", 3]
        first = chosen.get(how, ["--backend", "openai"])
        run_cli("generate", tmp_path / "a", *first, "--model", "scripted", *rest)
        if how == "run":
            said = run_cli("generate", tmp_path / "a", "--model", "other", code=1)
            assert "openai.model: 'scripted' -> 'other'" in said
    assert config(tmp_path / "a")["models"] == {"scripted": config(tmp_path / "a")["requests"]}


def test_an_option_overrides_set_and_set_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("backend: openai\nn: 5\nopenai: {model: file, api: completion}\n")
    with Loopback(reply) as server:
        args = ("--config", path, "--base-url", server.url, "--set", "n=4", "--set", "openai.model=set")
        run_cli("generate", tmp_path / "a", *args)
        run_cli("generate", tmp_path / "b", *args, "--model", "option", "-n", 3)
    assert (list(config(tmp_path / "a")["models"]), config(tmp_path / "a")["target"]) == (["set"], 4)
    assert (list(config(tmp_path / "b")["models"]), config(tmp_path / "b")["target"]) == (["option"], 3)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--base-url", "http://localhost:1/v1"], "--base-url goes with --backend openai"),
        (["--api-key-env", "KEY"], "--api-key-env goes with --backend openai"),
        (["--set", "backend=llamacpp", "--base-url", "http://localhost:1/v1"], "--base-url goes with --backend openai"),
        (["--backend", "replay", "--model", "m"], "--model goes with --backend llamacpp or openai or openai-batch"),
        (["--from", "nowhere", "--backend", "openai"], "--from: there is neither a file nor a run nowhere"),
        (["--backend", "vllm", "--set", "vllm.engine.trust_remote_code=true"], "that comes with a model is never run"),
        (
            ["--backend", "openai", "--api", "completion", "--model", "m", "--strategy", "alpaca",
             "--set", "alpaca.structured=true"],
            "Name its field, as in --set openai.schema_field=structured_outputs",
        ),
        (["--backend", "opena", "--model", "m"], "unknown backend 'opena' (did you mean 'openai'?)"),
        (["-n", "0"], "Error: n must be at least 1"),
        (["--set", "budget.price_input=.inf"], "Error: budget.price_input: must be a finite number"),
    ],
)  # fmt: skip
def test_errors_name_an_option_as_it_was_typed(tmp_path: Path, args: list[str], says: str) -> None:
    said = run_cli("generate", tmp_path / "a", *args, code=2)
    assert says in said
    assert not (tmp_path / "a").exists()


def test_a_closed_output_pipe_does_not_stop_the_run(tmp_path: Path) -> None:
    with Loopback(reply) as server:
        args = ("generate", tmp_path / "a", "--backend", "openai", "--model", "scripted", "--api", "completion")
        read, write = os.pipe()
        os.close(read)
        try:
            done = subprocess.run(
                command(*args, "--base-url", server.url, "-n", 12),
                stdout=write, stderr=write, check=False, timeout=90, env=environment(),
            )  # fmt: skip
        finally:
            os.close(write)
    assert done.returncode == 0
    assert len(dataset(tmp_path / "a").splitlines()) == 12


def test_a_smaller_n_reports_that_the_ledger_has_more_answers(tmp_path: Path) -> None:
    with Loopback(reply) as server:
        args = ("--backend", "openai", "--model", "scripted", "--api", "completion", "--base-url", server.url)
        run_cli("generate", tmp_path / "a", *args, "-n", 30)
    whole = dataset(tmp_path / "a")
    found = config(tmp_path / "a")
    answers = found["requests"] + found["unjudged"]
    said = run_cli("generate", tmp_path / "a", "-n", 5)
    judged = config(tmp_path / "a")["requests"]
    assert judged < answers
    assert f"is complete: 5 rows, from {judged} of the {answers} answers in its ledger. Ask for more" in said
    run_cli("generate", tmp_path / "a", "-n", 30)
    assert dataset(tmp_path / "a") == whole


def test_help_has_the_exit_codes() -> None:
    text = " ".join(run_cli("generate", "--help").split())
    assert "Exit codes: 0 the rows are made; 1 the run stopped before that, or failed; 2" in text
    assert "130 " in text

"""Complete runs over HTTP, with a scripted model."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from selfinstruct.common.rng import derive
from tests.cli import command, dataset, environment, run_cli
from tests.loopback import Fault, Loopback
from tests.scripted import reply

STRATEGIES = ["alpaca", "self-instruct"]
API = ["--backend", "openai", "--model", "scripted"]
FAST = ["--set", "retry.base_s=0.01", "--set", "retry.total_s=5"]


def generate(run: Path, server: Loopback, *more: object, code: int = 0, api: str = "completion") -> str:
    return run_cli("generate", run, *API, "--base-url", server.url, "--api", api, *FAST, *more, code=code)


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in dataset(run).splitlines()]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("api", ["completion", "chat"])
def test_exactly_n_rows_at_any_concurrency(tmp_path: Path, strategy: str, api: str) -> None:
    with Loopback(reply) as server:
        for width in (1, 8, 64):
            more = ("--strategy", strategy, "-n", 30, "--concurrency", width)
            output = generate(tmp_path / str(width), server, *more, api=api)
            assert "30 of 30 rows" in output
    assert dataset(tmp_path / "1") == dataset(tmp_path / "8") == dataset(tmp_path / "64")
    manifests = {(tmp_path / width / "dataset" / "manifest.json").read_bytes() for width in ("1", "8", "64")}
    assert len(manifests) == 1
    dataset_rows = rows(tmp_path / "1")
    assert len(dataset_rows) == 30
    for row in dataset_rows:
        assert row.keys() == {"instruction", "input", "output"}
        assert row["instruction"]
        assert row["output"]


def test_a_complete_run_sends_nothing_and_a_higher_target_extends_it(tmp_path: Path) -> None:
    with Loopback(reply) as server:
        generate(tmp_path / "a", server, "-n", 30)
        thirty, sent = dataset(tmp_path / "a"), len(server.arrived)
        assert "is complete: 30 rows" in run_cli("generate", tmp_path / "a")
        assert len(server.arrived) == sent, "a complete run sends nothing"
        generate(tmp_path / "a", server, "-n", 60)
        generate(tmp_path / "b", server, "-n", 60)
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")
    assert dataset(tmp_path / "a").startswith(thirty)
    assert len(rows(tmp_path / "a")) == 60


def test_nothing_is_bought_twice(tmp_path: Path) -> None:
    with Loopback(reply) as server:
        for n in (10, 20, 30):
            generate(tmp_path / "a", server, "-n", n)
        prompts = [(arrived.body["prompt"], arrived.body["seed"]) for arrived in server.arrived]
    assert len(prompts) == len(set(prompts))


def test_a_replay_gives_the_same_bytes_and_repeats_failures(tmp_path: Path) -> None:
    refusal = Fault(400, body={"error": {"message": "bad prompt", "code": "invalid_request_error"}})
    poison = derive("request", 0, 4)
    with Loopback(reply, lambda number, body: refusal if body["seed"] == poison else None) as server:
        generate(tmp_path / "a", server, "-n", 40, "--concurrency", 1, "--strategy", "self-instruct")
    run_cli("generate", tmp_path / "b", "--from", tmp_path / "a", "--concurrency", 7)
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")
    manifest = [(tmp_path / run / "dataset" / "manifest.json").read_bytes() for run in "ab"]
    assert manifest[0] == manifest[1]
    assert json.loads(manifest[0])["judged"]["failures"] == {"bad_request": 1}
    run_cli("generate", tmp_path / "c", "--from", tmp_path / "a", "-n", 11, "--set", "replay.pace=0.001")
    assert dataset(tmp_path / "a").startswith(dataset(tmp_path / "c"))


def test_a_replay_beyond_its_source_stops_with_the_reason_and_keeps_its_rows(tmp_path: Path) -> None:
    with Loopback(reply) as server:
        generate(tmp_path / "a", server, "-n", 10)
    output = run_cli("generate", tmp_path / "b", "--from", tmp_path / "a", "-n", 100, code=1)
    assert "has no outcome of request" in output
    assert dataset(tmp_path / "b").startswith(dataset(tmp_path / "a"))
    output = run_cli("generate", tmp_path / "c", "--from", tmp_path / "a", "--seed", 1, code=1)
    assert "request 0 is not the one" in output
    assert "asked now" in output


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with Loopback(reply, delay=0.3) as server:
        args = ("generate", tmp_path / "a", *API, "--base-url", server.url, "--api", "completion", "-n", 500)
        first = subprocess.Popen(command(*args), stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
        try:
            while not server.arrived:
                assert first.poll() is None
            output = run_cli("generate", tmp_path / "a", code=1)
            assert f"in use by process {first.pid}" in output
            assert "of 500 rows, not complete" in run_cli("status", tmp_path / "a")  # readers need no lock
        finally:
            first.kill()
            first.communicate()


def test_ctrl_c_drains_and_the_same_command_continues(tmp_path: Path) -> None:
    with Loopback(reply, delay=0.05) as server:
        args = ("generate", tmp_path / "a", *API, "--base-url", server.url, "--api", "completion", "-n", 60)
        process = subprocess.Popen(command(*args), stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
        while len(server.arrived) < 20:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert b"every answer that arrived is stored" in out
        with sqlite3.connect(tmp_path / "a" / "run.sqlite") as ledger:
            (sends,), (outcomes,) = (
                ledger.execute(f"SELECT COUNT(*) FROM {t}").fetchone() for t in ("sends", "outcomes")
            )
        ledger.close()
        assert sends == outcomes >= 20, "requests in flight are drained"
        run_cli(*args)
        run_cli("generate", tmp_path / "b", *args[2:])
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")
    prompts = [arrived.body["prompt"] for arrived in server.arrived]
    assert max(prompts.count(prompt) for prompt in prompts) == 2, "once in each run"


def test_a_changed_run_is_refused_with_the_differences(tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(
        "".join(f'{{"instruction": "Describe thing number {i} well", "output": "fine"}}\n' for i in range(9))
    )
    prompts = tmp_path / "prompts"
    (prompts / "alpaca").mkdir(parents=True)
    template = prompts / "alpaca" / "list.txt"
    template.write_text("List of $count.\n\n$tasks\n\n### Task $next\nInstruction:\n")
    with Loopback(reply) as server:
        base = ("--strategy", "alpaca", "--seeds", seeds, "--prompts", prompts)
        generate(tmp_path / "a", server, *base, "-n", 5)
        for change, message in (
            (("--seed", 3), "seed: 0 -> 3"),
            (("--set", "alpaca.demonstrations=2"), "alpaca.demonstrations: 3 -> 2"),
            (("--set", "filters.novelty.threshold=0.5"), "filters.novelty.threshold: 0.7 -> 0.5"),
            (("--strategy", "self-instruct"), "strategy: 'alpaca' -> 'self-instruct'"),
            (("--model", "other"), "openai.model: 'scripted' -> 'other'"),
        ):
            assert message in run_cli("generate", tmp_path / "a", "-n", 9, *change, code=1)
        good = seeds.read_text()
        seeds.write_text(good.replace("number 4", "number four") + '{"instruction": "New", "output": "x"}\n')
        output = run_cli("generate", tmp_path / "a", "-n", 9, code=1)
        assert "seeds added: seed_10" in output
        assert "seeds changed: seed_5" in output
        seeds.write_text(good)
        template.write_text("A list of $count.\n\n$tasks\n\n### Task $next\nInstruction:\n")
        output = run_cli("generate", tmp_path / "a", "-n", 9, code=1)
        assert "-List of $count." in output
        assert "+A list of $count." in output
        template.unlink()
        seeds.unlink()
        prompts.joinpath("alpaca").rmdir()
        prompts.rmdir()
        run_cli("generate", tmp_path / "a", "-n", 9)  # the ledger holds the seeds and prompts
    assert len(rows(tmp_path / "a")) == 9


def test_every_format_has_its_documented_layout(tmp_path: Path) -> None:
    with Loopback(reply) as server:
        generate(tmp_path / "a", server, "-n", 12, "--strategy", "alpaca")
        for name in ("messages", "sharegpt", "prompt-completion"):
            run_cli("export", tmp_path / "a", "--format", name)
        generate(tmp_path / "a", server, "-n", 15)
    alpaca = rows(tmp_path / "a")
    messages, sharegpt, pairs = (
        [json.loads(line) for line in (tmp_path / "a" / "dataset" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("messages", "sharegpt", "prompt-completion")
    )
    # formats that were exported before are updated with the run
    assert len(alpaca) == len(messages) == len(sharegpt) == len(pairs) == 15
    for row, chat, share, pair in zip(alpaca, messages, sharegpt, pairs, strict=True):
        user = row["instruction"] + ("\n\n" + row["input"] if row["input"] else "")
        assert [(m["role"], m["content"]) for m in chat["messages"]] == [("user", user), ("assistant", row["output"])]
        assert [(m["from"], m["value"]) for m in share["conversations"]] == [("human", user), ("gpt", row["output"])]
        assert (pair["prompt"], pair["completion"]) == (user, row["output"])
    output = run_cli("export", tmp_path / "a", "--format", "candidates", "-o", tmp_path / "c.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert f"{len(lines)} lines" in output
    kept = [line for line in lines if line["kept"] and not line["draft"]]
    assert [line["output"] for line in kept][:15] == [row["output"] for row in alpaca]
    assert all(line["reason"] for line in lines if not line["kept"])
    novelty = [v for line in lines for v in line["verdicts"] if v["filter"] == "rouge"]
    assert all(len(v["detail"]["nearest"]) == 10 and 0 <= v["detail"]["mean"] <= 1 for v in novelty)


def test_status_and_dry_run(tmp_path: Path) -> None:
    with Loopback(reply) as server:
        output = generate(tmp_path / "a", server, "--dry-run", "--strategy", "alpaca")
        assert "8 requests would go out next" in output
        assert "### Task 4" in output
        assert not (tmp_path / "a").exists()
        assert server.arrived == []
        generate(tmp_path / "a", server, "-n", 12, "--strategy", "self-instruct")
    status = json.loads(run_cli("status", tmp_path / "a", "--json"))
    assert status["complete"] is True
    assert status["rows"] == 12
    assert status["acceptance"] == status["rows"] / status["instructions"] or status["rows"] < status["instructions"]
    assert set(status["stages"]) == {"instructions", "classify", "instances"}
    assert status["rejected"]["keyword"] > 0
    text = run_cli("status", tmp_path / "a")
    assert "12 of 12 rows, complete" in text


def test_a_model_without_usable_answers_stops_the_run(tmp_path: Path) -> None:
    with Loopback(lambda body: "I am sorry, I can't help with that.") as server:
        output = generate(tmp_path / "a", server, "-n", 5, "--set", "patience=30", code=1)
        assert "30 requests in a row brought nothing" in output
        assert "discarded: preamble" in output or "discarded:" in output
        assert 30 <= len(server.arrived) < 60

"""Runs whose answers a reward model scores: the best is kept, and its scores are read from the ledger ever after."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune.data.pairs import read_comparisons
from selfinstruct import generate
from selfinstruct.cli import cli
from selfinstruct.errors import BackendError, RunChangedError, UsageError
from selfinstruct.ledger import Reader
from selfinstruct.runs.fork import fork, refilter
from selfinstruct.runs.status import status
from tests import finetune_fixtures
from tests.batches import Batches
from tests.cli import command, dataset, environment, run_cli
from tests.e2e.test_quality import candidates, lines, reply
from tests.finetune_fixtures import make_reward_model
from tests.loopback import Body, Fault, Loopback

tiny_tokenizer, tiny_model_folder = finetune_fixtures.tiny_tokenizer, finetune_fixtures.tiny_model_folder

N = 4


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with random weights; treat it as read-only."""
    return make_reward_model(tmp_path_factory.mktemp("judge") / "model")


@pytest.fixture
def server(loopback: Callable[..., Loopback]) -> Loopback:
    return loopback(reply)


def settings(url: str, judge: Path, quality: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    backend = {"model": "scripted", "base_url": url, "api": "completion"}
    quality = {"best_of": 3, "pairs": True, "reward": {"model": str(judge)}, **(quality or {})}
    return {"strategy": "alpaca", "backend": "openai", "openai": backend, "n": N, "lag": 12, "quality": quality, **more}


def plain_reward(judge: Path, instruction: str, input_text: str, output: str) -> float:
    """The score by transformers alone, one conversation at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(judge), AutoModelForSequenceClassification.from_pretrained(judge)
    question = f"{instruction}\n\n{input_text}" if input_text else instruction
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": output}]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        return float(model.eval().float()(**ids).logits)


def test_the_best_answer_is_kept_with_the_same_bytes_after_any_stop(
    server: Loopback, judge: Path, tmp_path: Path
) -> None:
    moving = shutil.copytree(judge, tmp_path / "judge")
    given = settings(server.url, moving)
    generate(tmp_path / "a", {**given, "concurrency": 1})
    generate(tmp_path / "b", {**given, "concurrency": 8})
    for limit in (9, 40):
        assert generate(tmp_path / "c", {**given, "budget": {"max_requests": limit}}).ending == "budget"
    moved = moving.rename(tmp_path / "elsewhere")  # the same files under another name are the same model
    generate(tmp_path / "c", {**settings(server.url, moved), "budget": {"max_requests": None}})
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b") == dataset(tmp_path / "c")

    for row in lines(tmp_path / "a/dataset/alpaca.jsonl"):
        expected = plain_reward(judge, row["instruction"], row["input"], row["output"])
        assert row["score"] == row["scores"]["reward"] == pytest.approx(expected, abs=2e-4)
    chosen = [verdict["detail"] for row in candidates(tmp_path / "a") for verdict in row["verdicts"]
              if verdict["filter"] == "best_of"]  # fmt: skip
    assert all(detail["means"][detail["answer"] - 1] == max(detail["means"]) for detail in chosen)
    assert len({detail["answer"] for detail in chosen}) > 1

    with Reader(tmp_path / "a") as reader:
        control = reader.latest_answered()
        assert control is not None
        assert not control.asks_for_score, "a control tests a server, and no server gives scores"

    shutil.rmtree(moved)  # from here on, scores come from the ledger
    status(tmp_path / "a", verify=True)
    generate(tmp_path / "again", {"backend": "replay", "replay": {"source": str(tmp_path / "a")}, "n": N})
    assert dataset(tmp_path / "again") == dataset(tmp_path / "a")
    paths = (tmp_path / "a/dataset").iterdir()
    assert not any(str(tmp_path) in path.read_text() for path in paths), "exports hold no path"
    assert f"    reward {lines(tmp_path / 'a/dataset/alpaca.jsonl')[0]['score']:g}\n" in run_cli(
        "explain", tmp_path / "a", 1
    )


def test_a_killed_run_ends_with_the_same_bytes(judge: Path, tmp_path: Path) -> None:
    victims: list[subprocess.Popen[bytes]] = []

    def answer(body: Body) -> Any:
        if victims and len(server.arrived) == 11:
            os.kill(victims[0].pid, signal.SIGKILL)
        return reply(body)

    with Loopback(answer) as server:
        generate(tmp_path / "whole", settings(server.url, judge))
        server.arrived.clear()
        arguments = ["--strategy", "alpaca", "--backend", "openai", "--model", "scripted", "--base-url", server.url,
                     "--api", "completion", "-n", N, "-q", "--judge", judge, "--set", "lag=12",
                     "--set", "quality.best_of=3", "--set", "quality.pairs=true"]  # fmt: skip
        victims.append(subprocess.Popen(command("generate", tmp_path / "killed", *arguments), env=environment()))
        assert victims[0].wait(240) == -signal.SIGKILL
        victims.clear()
        with Reader(tmp_path / "killed") as reader:
            assert reader.answers() > 0
        generate(tmp_path / "killed")
    assert dataset(tmp_path / "killed") == dataset(tmp_path / "whole")


def test_pairs_are_exported_with_rewards_and_read_for_training(server: Loopback, judge: Path, tmp_path: Path) -> None:
    generate(tmp_path / "a", settings(server.url, judge))
    run_cli("export", tmp_path / "a", "--format", "preference")
    rows = lines(tmp_path / "a/dataset/preference.jsonl")
    assert len(rows) == N
    for row in rows:
        [question], [good], [bad] = row["prompt"], row["chosen"], row["rejected"]
        assert row["score_chosen"] > row["score_rejected"]
        for message, score in ((good, row["score_chosen"]), (bad, row["score_rejected"])):
            expected = plain_reward(judge, question["content"], "", message["content"])
            assert score == pytest.approx(expected, abs=2e-4)
    assert len(read_comparisons(str(tmp_path / "a")).comparisons) == N


def test_another_threshold_needs_no_model_and_another_model_gives_its_own_scores(
    server: Loopback, judge: Path, tmp_path: Path
) -> None:
    given = settings(server.url, judge)
    rows = lines(generate(tmp_path / "a", given).exported.path)
    least = sorted(row["score"] for row in rows)[1]
    sent = len(server.arrived)
    strict = refilter(tmp_path / "a", tmp_path / "strict", {"quality": {"reward": {"threshold": least}}})
    kept = lines(tmp_path / "strict/dataset/alpaca.jsonl")
    assert kept[: N - 1] == [row for row in rows if row["score"] >= least]
    assert strict.stats.rejected["low_score"] >= 1
    other = make_reward_model(tmp_path / "other", seed=1)
    fork(tmp_path / "a", tmp_path / "b", {"quality": {"reward": {"model": str(other)}}})
    for row in lines(generate(tmp_path / "b").exported.path):
        expected = plain_reward(other, row["instruction"], row["input"], row["output"])
        assert row["score"] == pytest.approx(expected, abs=2e-4)
    assert len(server.arrived) == sent, "the answers are there already"


def test_scores_cost_no_tokens_and_say_nothing_about_the_server(judge: Path, tmp_path: Path) -> None:
    """The server refuses everything from the first tags on; a score that arrives then must not excuse it."""

    def refuse(_: int, body: Body) -> Fault | None:
        if refused or body["prompt"].rstrip().endswith("Category:"):
            refused.append(body)
            return Fault(400, body={"error": {"message": "bad request"}})
        return None

    refused: list[Body] = []
    quality = {"best_of": 1, "pairs": False, "tags": True}
    with Loopback(reply, refuse) as server, pytest.raises(BackendError, match="Nothing is recorded as failed"):
        generate(tmp_path / "a", settings(server.url, judge, quality, concurrency=2))
    assert len(refused) <= 10, "scores do not end the series of refusals after which nothing more is sent"
    shown = status(tmp_path / "a")
    assert not shown.stats.failures
    with Reader(tmp_path / "a") as reader:
        stages = [reader.request(number).stage for number in range(reader.answers())]
        assert "reward" in stages
        spent = reader.spending()
        assert spent.lost_prompt_tokens == spent.lost_completion_tokens == 0
    with Loopback(reply) as server:
        generate(tmp_path / "b", settings(server.url, judge, quality))
        again = settings(server.url, judge, quality)
        generate(tmp_path / "a", again)
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


def test_scores_are_made_here_while_a_server_works_on_batches(server: Loopback, judge: Path, tmp_path: Path) -> None:
    generate(tmp_path / "a", settings(server.url, judge))
    with Batches(reply) as batches:
        backend = {"model": "scripted", "base_url": batches.url, "api": "completion", "poll_s": 0.02}
        given = settings(batches.url, judge, backend="openai-batch")
        given["openai-batch"] = backend
        del given["openai"]
        generate(tmp_path / "b", given)
        assert set(batches.executed.values()) == {1}
    assert dataset(tmp_path / "a") == dataset(tmp_path / "b")


def test_an_answer_that_is_too_long_for_the_reward_model_has_no_score(judge: Path, tmp_path: Path) -> None:
    def answer(body: Body) -> Any:
        last = body["prompt"].rstrip().splitlines()[-1]
        return ["word " * 600, "short"] if last == "Answer:" else reply(body)

    with Loopback(answer) as server:
        result = generate(tmp_path / "a", settings(server.url, judge))
    assert result.ending == "complete"
    assert result.stats.failures["not_scored"] >= N
    means = [verdict["detail"]["means"] for row in candidates(tmp_path / "a") for verdict in row["verdicts"]
             if verdict["filter"] == "best_of"]  # fmt: skip
    assert all(own is not None and none is None and short is not None for own, none, short in means)


def test_a_folder_that_is_no_reward_model_is_refused_before_anything_is_sent(
    server: Loopback, judge: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    without = make_reward_model(tmp_path / "without", template=None)
    for folder, message in (
        (tiny_model_folder, "is not a reward model: it has no weights score.weight"),
        (tmp_path / "empty", "is not the folder of a reward model"),
        (without, "has no chat template"),
        (tmp_path / "nowhere", "can't load the reward model"),
    ):
        with pytest.raises(UsageError, match=message):
            generate(tmp_path / "run", settings(server.url, folder))
    with pytest.raises(UsageError, match="judge and reward both score"):
        generate(tmp_path / "run", settings(server.url, judge, {"judge": {}}))
    assert not server.arrived

    changing = make_reward_model(tmp_path / "changing")
    generate(tmp_path / "run", {**settings(server.url, changing), "budget": {"max_requests": 9}})
    shutil.rmtree(changing)
    make_reward_model(changing, seed=1)
    sent = len(server.arrived)
    with pytest.raises(RunChangedError, match=r"quality\.reward\.identity"):
        generate(tmp_path / "run", {**settings(server.url, changing), "budget": {"max_requests": None}})
    with pytest.raises(UsageError, match="is not the one with which the run was started"):
        generate(tmp_path / "run", {"budget": {"max_requests": None}})
    assert len(server.arrived) == sent


def test_respond_keeps_the_best_of_its_answers(judge: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"instruction": "Name a colour.", "system": "Be brief."}\n')

    def answer(body: Body) -> Any:
        return ["Green.", "Blue."] if body.get("n") else "Red."

    with Loopback(answer) as server:
        words = ["respond", tmp_path / "a", "--from", tmp_path / "tasks.jsonl", "--backend", "openai", "--model", "m",
                 "--base-url", server.url, "--judge", judge, "--set", "quality.best_of=3", "-q"]  # fmt: skip
        done = CliRunner().invoke(cli, [*map(str, words)])
    assert done.exit_code == 0, done.output
    [row] = lines(tmp_path / "a/dataset/alpaca.jsonl")
    question = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
    scores = {}
    tokenizer, model = AutoTokenizer.from_pretrained(judge), AutoModelForSequenceClassification.from_pretrained(judge)
    for text in ("Red.", "Green.", "Blue."):
        ids = tokenizer.apply_chat_template(
            [*question, {"role": "assistant", "content": text}], tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.no_grad():
            scores[text] = float(model(**ids).logits)
    assert row["output"] == max(scores, key=scores.__getitem__)
    assert row["score"] == pytest.approx(max(scores.values()), abs=2e-4)

"""Rows that become several documents, and template arguments: from dry run through an interrupted training to chat."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import finetune
from finetune.cli import cli
from finetune.data.render import Renderer
from finetune.training.progress import TrainingProgress
from selfinstruct.errors import RunChangedError, UsageError
from tests.finetune_chat_models import tokenizer
from tests.finetune_fixtures import make_model

TURNS = 3
QUESTIONS = ("Which river crosses Paris?", "Name a noble gas.", "How do bees make honey?", "What is seven times six?",
             "Who wrote Faust?", "Describe the taste of salt.", "Where do penguins live?",
             "Why is the sea blue?")  # fmt: skip
OFF = "template_arguments.enable_thinking=false"
SETTINGS = ["format=chat", "batch_size=4", "epochs=2", "learning_rate=1e-3", "checkpoint_every=2", "dtype=float32",
            "evaluation={fraction: 0.25, samples: 1, sample_tokens: 4}"]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model whose chat template is Qwen3's."""
    folder = tmp_path_factory.mktemp("qwen3") / "model"
    made = tokenizer("Qwen3")
    made.save_pretrained(folder)
    make_model(len(made)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight conversations of three answers each."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = []
    for number, question in enumerate(QUESTIONS):
        exchange = ({"role": "user", "content": question}, {"role": "assistant", "content": f"Red {number}."})
        lines.append(json.dumps({"messages": exchange * TURNS}) + "\n")
    path.write_text("".join(lines))
    return str(path)


def call(*args: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return done.output


class _Interrupted(TrainingProgress):
    """Progress that interrupts the run after its third step."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "step" and value == 3:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def interrupt(progress: TrainingProgress) -> Iterator[None]:
    progress.__class__ = _Interrupted
    yield


def test_a_dry_run_counts_rows_and_documents(model: str, rows: str) -> None:
    settings = [f"--set={assignment}" for assignment in (*SETTINGS, OFF)]
    output = call("train", "--model", model, "--data", rows, *settings, "--dry-run")
    assert f"{8 * TURNS} documents" in output
    assert "note: 8 rows with several documents each: the chat template renders an answer differently" in output
    assert f"trained on {6 * TURNS} documents" in output
    assert output.count("⟦Red 0.<|im_end|>⟧") == TURNS
    assert "<think>\n\n</think>\n\n⟦Red 0." in output
    assert "⟦<think>\n\n</think>\n\nRed 0." in call(
        "train", "--model", model, "--data", rows, *settings[:-1], "--dry-run"
    )


def test_an_interrupted_run_resumes_and_its_template_arguments_are_those_of_chat(
    model: str, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = finetune.load_options("alpaca", None, [*SETTINGS, OFF])
    assert options.template_arguments == {"enable_thinking": False}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    lines: list[str] = []
    finetune.train(model, rows, whole, options, notify=lines.append)
    assert any("8 rows with several documents each" in line for line in lines)
    assert not finetune.train(model, rows, resumed, options, show=interrupt).complete
    assert finetune.train(model, rows, resumed, options).complete
    first, second = ((folder / "model.safetensors").read_bytes() for folder in (whole, resumed))
    assert first == second
    record = json.loads((whole / "finetune.json").read_text())
    assert record["options"]["template_arguments"] == {"enable_thinking": False}
    assert len(record["after"]["losses"]["rows"]["counts"]) == 2 * TURNS
    with pytest.raises(RunChangedError, match=r"another .*template_arguments"):
        finetune.train(model, rows, whole, finetune.load_options("alpaca", None, SETTINGS))

    prompts: list[str] = []
    original = Renderer.prompt

    def prompt(self: Renderer, turns: Any) -> list[int]:
        ids = original(self, turns)
        prompts.append(tokenizer("Qwen3").decode(ids))
        return ids

    monkeypatch.setattr(Renderer, "prompt", prompt)
    call("chat", str(whole), "--prompt", "Again?", "--max-tokens", "2")
    assert prompts == ["<|im_start|>user\nAgain?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"]


def test_wrong_template_arguments_are_refused_before_training(model: str, rows: str) -> None:
    for assignments, message in (
        (["template_arguments.enable_thinkin=false"], "does not read enable_thinkin"),
        (["template_arguments.messages=[]"], "messages can't be set"),
    ):
        with pytest.raises(UsageError, match=message):
            finetune.preview(model, rows, finetune.load_options("alpaca", None, [*SETTINGS, *assignments]))
    with pytest.raises(UsageError, match=r"template_arguments\.enable_thinking has no effect while format is alpaca"):
        finetune.load_options("alpaca", None, ["format=alpaca", OFF])
    with pytest.raises(UsageError, match="template_arguments"):
        finetune.load_options("alpaca", None, ["template_arguments=7"])

"""Preference runs as a user makes them: whole runs, resumed runs, and two processes with the results of one."""

from __future__ import annotations

import json
import math
import random
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import finetune
from finetune.data.pairs import read_comparisons
from finetune.data.preference_data import read_preference_data
from finetune.data.render import Renderer
from finetune.options import DpoOptions, RewardOptions
from selfinstruct.errors import RunChangedError, UsageError
from selfinstruct.filters.reward import load_reward_scorer
from tests import finetune_fixtures
from tests.cli import environment, run_program
from tests.comparisons import plain_dpo_loss
from tests.finetune_fixtures import make_model

tiny_model_folder, tiny_tokenizer = finetune_fixtures.tiny_model_folder, finetune_fixtures.tiny_tokenizer

LN2 = math.log(2)
SETTINGS = [
    "format=chat", "batch_size=7", "micro_batch_tokens=128", "learning_rate=2e-3", "epochs=2", "warmup=0",
    "evaluation.fraction=0.2", "checkpoint_every=1",
]  # fmt: skip


def pairs() -> list[dict[str, Any]]:
    """Pairs in different layouts whose chosen answers are about colours; every fourth row has four answers."""
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    for number in range(30):
        question = f"Name colour {number}."
        good = "Red, green and blue." + " Indeed." * draw.randint(0, 4)
        bad = "The quick brown fox." * draw.randint(1, 3)
        if number % 4 == 0:
            answers = [(good, 9.0), (bad, 2.0), ("Red.", 7.0), ("It's a fox's life!", 2.0)]
            rows.append({"instruction": question, "completions": [
                {"response": text, "overall_score": score} for text, score in answers]})  # fmt: skip
        elif number % 4 == 1:
            rows.append({"prompt": question, "chosen": good, "rejected": bad})
        else:
            chosen, rejected = ([{"role": "assistant", "content": text}] for text in (good, bad))
            rows.append({"prompt": [{"role": "user", "content": question}], "chosen": chosen, "rejected": rejected})
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    return path


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("step", "loss", "gradient_norm", "tokens")} for line in lines]


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "finetune.json").read_text())


def dpo_options(*assignments: str) -> DpoOptions:
    return finetune.load_options("dpo", None, [*SETTINGS, *assignments], kind=DpoOptions)


def reward_options(*assignments: str) -> RewardOptions:
    return finetune.load_options("reward", None, [*SETTINGS, *assignments], kind=RewardOptions)


@pytest.mark.parametrize("tied", [True, False])
def test_a_preference_run_saves_the_model_that_it_measured(
    tmp_path: Path, data: Path, tiny_tokenizer: Any, tied: bool
) -> None:
    """unsloth#9331 lost the trained head of a model whose head is tied to its embedding."""
    base = tmp_path / "base"
    make_model(len(tiny_tokenizer), tie_word_embeddings=tied).save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    options, out = dpo_options(), tmp_path / "out"
    result = finetune.prefer(str(base), str(data), out, options)
    assert result.complete
    losses = [line["loss"] for line in metrics(out)]
    assert losses[0] == pytest.approx(LN2, abs=1e-6)
    assert losses[-1] < 0.6

    before, after = AutoModelForCausalLM.from_pretrained(base), AutoModelForCausalLM.from_pretrained(out)
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert (after.lm_head.weight is after.model.embed_tokens.weight) == tied
    renderer = Renderer(AutoTokenizer.from_pretrained(out), "chat", max_length=options.max_length)
    held_out = read_preference_data(str(data), renderer, options, cut=True).held_out["pairs"]
    with torch.no_grad():
        expected = float(plain_dpo_loss(after, before, held_out, options))
    measured = record(out)["after"]["losses"]["pairs"]
    assert sum(measured["sums"]) / sum(measured["counts"]) == pytest.approx(expected, abs=1e-5)
    assert expected < 0.65


def test_a_reward_model_is_loaded_by_transformers_with_the_rewards_that_were_measured(
    tmp_path: Path, data: Path, tiny_model_folder: Path
) -> None:
    """The reward is read at the last token that is not padding, in a batch as well as alone, with adapters as well."""
    for name, assignments in (("full", []), ("adapters", ["lora.rank=4", "learning_rate=2e-2"])):
        out = tmp_path / name
        result = finetune.train_reward(str(tiny_model_folder), str(data), out, reward_options(*assignments))
        assert metrics(out)[0]["loss"] == pytest.approx(LN2, abs=1e-6)
        model = AutoModelForSequenceClassification.from_pretrained(out).eval()
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert model.config.architectures == ["LlamaForSequenceClassification"]
        assert model.config.pad_token_id == tokenizer.pad_token_id
        renderer = Renderer(tokenizer, "chat", max_length=2048)
        held_out = read_preference_data(str(data), renderer, reward_options(), cut=False).held_out["pairs"]
        documents = [held_out.documents[number] for number in range(len(held_out.documents))]
        texts = [tokenizer.decode(document.ids) for document in documents]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            together = model(**batch).logits[:, 0]
            alone = [float(model(torch.from_numpy(d.ids.astype("int64"))[None]).logits) for d in documents]
        assert together.tolist() == pytest.approx(alone, abs=1e-4)
        margins = together[held_out.pairs[:, 0]] - together[held_out.pairs[:, 1]]
        measured = record(out)["after"]["losses"]["pairs"]
        mean = sum(measured["sums"]) / sum(measured["counts"])
        assert mean == pytest.approx(float(-torch.nn.functional.logsigmoid(margins).mean()), abs=1e-4)
        assert mean < 0.67
        assert result.after is not None
        assert result.after.accuracy is not None
        assert result.after.accuracy.mean == pytest.approx(float((margins > 0).double().mean()))
        assert result.after.margin is not None
        assert result.after.margin.mean == pytest.approx(float(margins.double().mean()), abs=1e-4)
        examples = [each for row in read_comparisons(str(data)).comparisons[:3] for each in row.examples]
        with torch.no_grad():
            ids = [torch.from_numpy(renderer.document(each).ids.astype("int64"))[None] for each in examples]
            trained = [float(model(each).logits) for each in ids]
        scored = load_reward_scorer(out)([[(turn.role, turn.content) for turn in each.turns] for each in examples])
        assert [each.reward for each in scored] == pytest.approx(trained, abs=2e-4), "judge and filter read the same"
        with pytest.raises(UsageError, match="a reward model, which scores texts"):
            finetune.load_model(out)


@pytest.mark.parametrize("command", ["prefer", "reward"])
def test_a_preference_command_reports_accuracy_next_to_chance(
    command: str, tmp_path: Path, data: Path, tiny_model_folder: Path
) -> None:
    arguments = [command, "--model", tiny_model_folder, "--data", data, *(f"--set={each}" for each in SETTINGS)]
    preview = run_program("finetune", [*arguments, "--dry-run"], timeout=280)
    assert "note: 30 prompts with 62 pairs of answers, 6 prompts held out" in preview
    assert "⟦Red" in preview
    out = tmp_path / "out"
    output = run_program("finetune", [*arguments, "-o", out], timeout=280)
    assert "held-out loss, pairs: 0.693 ± 0.000 -> 0." in output
    assert "held-out accuracy: " in output
    assert "95% interval" in output
    assert "chance, which is 50%)" in output
    assert "held-out margin: +" in output
    assert (out / "reference.safetensors").exists() == (command == "prefer")
    assert "was complete already" in run_program("finetune", [*arguments, "-o", out], timeout=280)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    refused = run_program("finetune", [command, "--data", tmp_path / "rows.jsonl", "--dry-run"], code=2, timeout=280)
    assert "rows.jsonl:1: no answers to compare" in refused


def test_an_interrupted_preference_run_ends_with_the_same_bytes_and_refuses_a_stale_reference(
    tmp_path: Path, data: Path, tiny_model_folder: Path
) -> None:
    settings = [f"--set={each}" for each in [*SETTINGS, "epochs=6", "lora.rank=4"]]
    arguments = ["prefer", "--model", tiny_model_folder, "--data", data, *settings, "-o"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    finetune.prefer(str(tiny_model_folder), str(data), whole, dpo_options("epochs=6", "lora.rank=4"))
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune", *map(str, arguments), str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(OMP_NUM_THREADS="1"),
    )  # fmt: skip
    while process.poll() is None and not list(out.glob("checkpoints/step-*")):
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 130, output
    reference = out / "reference.safetensors"
    content = reference.read_bytes()
    assert content == (whole / "reference.safetensors").read_bytes()

    reference.write_bytes(content.replace(b"torch.float32", b"torch.float64"))
    with pytest.raises(RunChangedError, match="computed with other precision"):
        finetune.prefer(str(tiny_model_folder), str(data), out, dpo_options("epochs=6", "lora.rank=4"))
    reference.write_bytes(content)
    assert "resuming after step" in run_program("finetune", [*arguments, out], timeout=280)
    assert (out / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()
    assert metrics(out) == metrics(whole)
    assert record(out)["after"] == record(whole)["after"]


def in_processes(count: int, arguments: list[object]) -> None:
    """Run ``finetune`` in processes that find each other by the variables that torchrun would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(
            lambda rank: run_program(
                "finetune", arguments, timeout=240,
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {},
            ),
            range(count),
        ))  # fmt: skip


@pytest.mark.parametrize("command", ["prefer", "reward"])
def test_two_processes_with_unequal_pair_counts_begin_at_ln_2_and_train_like_one(
    command: str, tmp_path: Path, data: Path, tiny_model_folder: Path
) -> None:
    """open-instruct#1900 added up the losses of the processes; ms-swift#10144 weighed their means equally."""
    arguments: list[object] = [command, "--model", tiny_model_folder, "--data", data]
    arguments += [f"--set={each}" for each in [*SETTINGS, *(["lora.rank=4"] if command == "reward" else [])]]
    for count in (1, 2):
        in_processes(count, [*arguments, "-o", tmp_path / str(count)])
    alone, two = (tmp_path / name for name in "12")
    assert metrics(two)[0]["loss"] == pytest.approx(LN2, abs=1e-6)
    for line, expected in zip(metrics(two), metrics(alone), strict=True):
        assert line == pytest.approx(expected, rel=1e-3, abs=1e-6)
    weights, others = (load_file(folder / "model.safetensors") for folder in (alone, two))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-4)
    for key in ("before", "after"):
        sums = [record(folder)[key]["losses"]["pairs"]["sums"] for folder in (alone, two)]
        assert sums[0] == pytest.approx(sums[1], rel=1e-3, abs=1e-5)


def test_adapters_trained_before_are_part_of_the_reference_and_trained_further(
    tmp_path: Path, data: Path, tiny_model_folder: Path
) -> None:
    """trl#1340: with the bare base model as the reference, the first loss is not ln 2."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"instruction": f"Name {n}.", "output": "Red."}) + "\n" for n in range(12)))
    tuned, out = tmp_path / "tuned", tmp_path / "out"
    options = finetune.load_options(
        "lora", None, ["lora.rank=4", "batch_size=4", "learning_rate=1e-2", "evaluation.fraction=0", "format=chat"]
    )
    finetune.train(str(tiny_model_folder), str(rows), tuned, options)
    finetune.prefer(str(tuned), str(data), out, dpo_options())
    assert metrics(out)[0]["loss"] == pytest.approx(LN2, abs=1e-6)
    assert metrics(out)[-1]["loss"] < 0.65
    for name in ("base.json", "adapter_config.json"):
        before, after = (json.loads((folder / name).read_text()) for folder in (tuned, out))
        assert {key: before[key] for key in ("name", "digest", "r", "lora_alpha") if key in before} == {
            key: after[key] for key in ("name", "digest", "r", "lora_alpha") if key in after
        }
    with pytest.raises(UsageError, match="keep their settings"):
        finetune.prefer(str(tuned), str(data), tmp_path / "other", dpo_options("lora.rank=8"))

    values = load_reference(out)
    finetune.prefer(str(tiny_model_folder), str(data), tmp_path / "base", dpo_options("lora.rank=4"))
    assert not torch.allclose(values, load_reference(tmp_path / "base"), atol=0.1)


def load_reference(out: Path) -> torch.Tensor:
    return load_file(out / "reference.safetensors")["train"]

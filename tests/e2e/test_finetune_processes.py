"""Two processes train one model with FSDP2, with the results of a single process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import finetune_fixtures
from tests.cli import environment, run_program

tiny_model_folder, tiny_tokenizer = finetune_fixtures.tiny_model_folder, finetune_fixtures.tiny_tokenizer

ROWS = [
    {"instruction": f"Count to {count}.", "input": "", "output": " ".join(map(str, range(1, count + 1)))}
    for count in range(1, 25)
]
SETTINGS = [
    "format=chat", "batch_size=6", "micro_batch_tokens=128", "learning_rate=1e-2", "epochs=2", "weight_decay=0.1",
    "checkpoint_every=1", "evaluation={fraction: 0.2, samples: 2, sample_tokens: 6}",
]  # fmt: skip


def command(processes: int, *args: object) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "finetune", "train", *map(str, args)]


def start(processes: int, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(processes, *args), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(OMP_NUM_THREADS="1"),
    )  # fmt: skip


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    return output


def train(processes: int, *args: object) -> str:
    """Train in processes that need no launcher: they find each other by the variables that torchrun would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ThreadPoolExecutor(processes) as pool:
        outputs = pool.map(
            lambda rank: run_program(
                "finetune",
                ["train", *args],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {},
                timeout=240,
            ),
            range(processes),
        )
        return "".join(outputs)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def arguments(model: Path, rows: Path, out: Path, *assignments: str) -> list[object]:
    return ["--model", model, "--data", rows, *(f"--set={setting}" for setting in [*SETTINGS, *assignments]), "-o", out]


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("step", "loss", "gradient_norm", "tokens")} for line in lines]


def assert_close(out: Path, other: Path, file: str) -> None:
    """Check that two runs agree up to the rounding of sums in another order."""
    for line, expected in zip(metrics(out), metrics(other), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    first, second = (load_file(folder / file) for folder in (out, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(_determined(name, tensor), _determined(name, second[name]), rtol=1e-3, atol=1e-4)
    before, after = (json.loads((folder / "finetune.json").read_text()) for folder in (out, other))
    for moment in ("before", "after"):
        losses = [record[moment]["losses"]["rows"]["sums"] for record in (before, after)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        assert before[moment]["answers"] == after[moment]["answers"]


def _determined(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Leave out biases of attention keys: a softmax does not depend on them, so that their gradient is rounding."""
    if name.endswith("k_proj.bias"):
        return tensor[:0]
    if name.endswith("attn.c_attn.bias"):  # queries, keys, values
        queries, _, values = tensor.chunk(3)
        return torch.cat([queries, values])
    return tensor


def test_two_processes_train_like_one(rows: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    train(1, *arguments(tiny_model_folder, rows, tmp_path / "alone"))
    output = train(2, *arguments(tiny_model_folder, rows, tmp_path / "two"))
    assert output.count("held-out loss, rows:") == 1, "only one process prints"
    assert_close(tmp_path / "two", tmp_path / "alone", "model.safetensors")


@pytest.mark.prove
@pytest.mark.parametrize("model_type", ["gpt2", "qwen2_moe"])
def test_two_processes_train_models_other_than_llama(model_type: str, rows: Path, tmp_path: Path) -> None:
    """The layers of GPT-2 are not called so, and a mixture of experts balances their load over all processes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
    experts = {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "intermediate_size": 32,
        "num_key_value_heads": 2, "shared_expert_intermediate_size": 16, "output_router_logits": True,
        "router_aux_loss_coef": 0.1,
    }  # fmt: skip
    tokenizer = finetune_fixtures.make_tokenizer()
    fields = {**sizes, **(experts if model_type == "qwen2_moe" else {}), "vocab_size": len(tokenizer)}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if model_type == "gpt2" else {}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields, **dropout))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for count, name in ((1, "alone"), (2, "two")):
        train(count, *arguments(tmp_path / "model", rows, tmp_path / name))
    assert_close(tmp_path / "two", tmp_path / "alone", "model.safetensors")


@pytest.mark.prove
def test_two_processes_train_like_one_and_resume_after_an_interruption(
    rows: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    alone = start(1, *arguments(tiny_model_folder, rows, tmp_path / "alone"))
    ended(alone)
    output = ended(start(2, *arguments(tiny_model_folder, rows, tmp_path / "two")))
    assert output.count("held-out loss, rows:") == 1, "only one process prints"
    assert_close(tmp_path / "two", tmp_path / "alone", "model.safetensors")

    interrupted = tmp_path / "interrupted"
    process = start(2, *arguments(tiny_model_folder, rows, interrupted))
    while process.poll() is None and not list(interrupted.glob("checkpoints/step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # to torchrun, which forwards it to its processes
    process.communicate(timeout=240)
    saved = sorted(path.name for path in interrupted.glob("checkpoints/step-*"))
    assert saved
    assert json.loads((interrupted / "finetune.json").read_text())["complete"] is False
    files = {path.name for path in (interrupted / "checkpoints" / saved[-1]).iterdir()}
    assert files == {"state.json", "state-0.safetensors", "state-1.safetensors"}
    other = ended(start(1, *arguments(tiny_model_folder, rows, interrupted)), code=2)
    assert "saved by 2 processes" in other
    assert "resuming after step" in ended(start(2, *arguments(tiny_model_folder, rows, interrupted)))
    uninterrupted, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "two", interrupted))
    for name, tensor in uninterrupted.items():
        assert torch.equal(tensor, resumed[name]), name
    assert metrics(interrupted) == metrics(tmp_path / "two")


def test_two_processes_train_adapters(rows: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    for count, name in ((1, "alone"), (2, "two")):
        train(count, *arguments(tiny_model_folder, rows, tmp_path / name, "lora.rank=4"))
    assert_close(tmp_path / "two", tmp_path / "alone", "adapter_model.safetensors")

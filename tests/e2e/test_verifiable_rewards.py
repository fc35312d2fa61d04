"""From a run to reinforcement learning: TRL's GRPOTrainer learns from an exported file by the verifiers' verdicts."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from selfinstruct.verifiers import reward, verify
from tests.cli import ROOT, run_cli
from tests.finetune_fixtures import make_model, make_tokenizer
from tests.loopback import Loopback

pytest.importorskip("trl", reason="TRL is in the extra bench")

STEPS, PROMPTS, GENERATIONS = 3, 2, 8
# What a third to a half of all texts of sixteen random tokens satisfies, and what none does.
VARYING = (
    {"kind": "words", "max": 2},
    {"kind": "words", "min": 2, "max": 2},
    {"kind": "all", "of": [{"kind": "words", "max": 2}, {"kind": "no_commas"}]},
)
ANSWER = "two words"
HOPELESS = ({"kind": "text", "value": ANSWER},) * len(VARYING)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: several would slow down models this small, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def exported(folder: Path, verifiers: tuple[Mapping[str, Any], ...]) -> Path:
    """Answer a task for each verifier, and export the run."""
    nouns = ("a river", "two seas", "no lake")
    tasks = [
        {"instruction": f"Name {noun}.", "verifier": verifier} for noun, verifier in zip(nouns, verifiers, strict=True)
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))

    with Loopback(lambda _: ANSWER) as server:
        run_cli("respond", folder / "run", "--from", folder / "tasks.jsonl", "--backend", "openai", "--model", "m",
                "--base-url", server.url)  # fmt: skip
    run_cli("export", folder / "run", "--format", "rl")
    return folder / "run" / "dataset" / "rl.jsonl"


def train(model: Any, rows: Path, folder: Path) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Take three steps of GRPO; return the metrics of each, and the completions of all with their rewards."""
    import pandas
    from datasets import load_dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in TRL
        config = GRPOConfig(
            output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
            report_to="none", save_strategy="no", logging_steps=1, dataloader_pin_memory=False, max_steps=STEPS,
            per_device_train_batch_size=PROMPTS * GENERATIONS, num_generations=GENERATIONS, max_completion_length=16,
            learning_rate=1e-3, log_completions=True, seed=1,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=load_dataset("json", data_files=str(rows), split="train", cache_dir=str(folder / "cache")),
            processing_class=make_tokenizer(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    steps = [line for line in trainer.state.log_history if "loss" in line]
    tables = [pandas.read_parquet(path) for path in sorted((folder / "completions").glob("*.parquet"))]
    return steps, [row for table in tables for row in table.to_dict("records")]


def test_grpo_of_trl_is_rewarded_by_the_verdicts_of_the_exported_verifiers(tmp_path: Path) -> None:
    rows = exported(tmp_path, VARYING)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    verifiers = {line["prompt"][-1]["content"]: json.loads(line["verifier"]) for line in lines}
    assert list(verifiers.values()) == list(VARYING)
    model = make_model(len(make_tokenizer()))
    before = copy.deepcopy(model.state_dict())
    steps, completions = train(model, rows, tmp_path / "grpo")
    verdicts = []
    for row in completions:
        (prompt,), (completion,) = row["prompt"], row["completion"]
        verdicts.append(float(verify(verifiers[prompt["content"]], completion["content"]).kept))
    size = PROMPTS * GENERATIONS
    assert len(verdicts) == STEPS * size
    assert [row["reward"] for row in completions] == verdicts
    means = [sum(verdicts[start : start + size]) / size for start in range(0, len(verdicts), size)]
    assert [step["rewards/reward/mean"] for step in steps] == pytest.approx(means)
    assert all(0 < mean < 1 for mean in means)
    assert all(step["grad_norm"] > 0 for step in steps)
    assert any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_rewards_without_a_difference_teach_nothing(tmp_path: Path) -> None:
    rows = exported(tmp_path, HOPELESS)
    model = make_model(len(make_tokenizer()))
    before = copy.deepcopy(model.state_dict())
    _, completions = train(model, rows, tmp_path / "grpo")
    assert {row["reward"] for row in completions} == {0.0}
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_trl_reads_the_configuration_in_the_docs(tmp_path: Path) -> None:
    from trl import DatasetMixtureConfig, GRPOConfig, ModelConfig, TrlParser
    from trl.scripts.grpo import GRPOScriptArguments

    page = (ROOT / "docs" / "verifiers.md").read_text()
    (block,) = re.findall(r"^```yaml\n(# grpo\.yaml\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "grpo.yaml").write_text(block)
    parser = TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig, DatasetMixtureConfig))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in TRL
        script, config, _, data = parser.parse_args_and_config(
            ["--config", str(tmp_path / "grpo.yaml"), "--use_cpu", "true"], fail_with_unknown_args=True
        )
    assert script.reward_funcs == [f"{reward.__module__.rpartition('.')[0]}.{reward.__name__}"]
    assert data.datasets[0].data_files == "runs/verified/dataset/rl.jsonl"
    assert config.num_generations == 8

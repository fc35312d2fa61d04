"""Preference training compared with TRL's DPOTrainer and RewardTrainer on the same pairs, in float32."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.data.plan import EpochPlan
from finetune.evaluation.held_out import evaluate
from finetune.model.attention import use_packed_attention
from finetune.model.packed_lm import PackedCausalLM
from finetune.model.reward import PackedRewardModel, to_reward_model
from finetune.options import DpoOptions, RewardOptions, TrainingOptions
from finetune.training.loop import TrainingLoop
from finetune.training.objective import Objective
from finetune.training.optimizer import FlatAdamW
from finetune.training.preference import BradleyTerry, DirectPreference
from tests.comparisons import VOCAB, random_comparisons
from tests.finetune_fixtures import make_model, make_tokenizer

pytest.importorskip("trl", reason="TRL is in the extra bench")

STEPS = 50
SETTINGS: dict[str, Any] = {
    "max_length": 64, "batch_size": 8, "epochs": 5, "learning_rate": 1e-3, "warmup": 0.07, "max_grad_norm": 0.5,
    "checkpoint_every": 0,
}  # fmt: skip
COMPARISONS = random_comparisons(80, several=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: several would slow down models this small, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(packed_lm: Any, objective: Objective, options: TrainingOptions) -> list[dict[str, Any]]:
    """Train; return the logged metrics."""
    lines: list[dict[str, Any]] = []
    plan = EpochPlan.of(COMPARISONS, options, budget=256)
    assert plan.steps == STEPS
    assert len(plan.step(0)) > 1
    loop = TrainingLoop(
        packed_lm, FlatAdamW(packed_lm.parameters(), options), plan, objective=objective,
        log=lambda _step, values: lines.append(dict(values)),
    )  # fmt: skip
    loop.run()
    return lines


def rows(options: TrainingOptions, *, whole: bool) -> dict[str, list[list[int]]]:
    """Return the pairs of all steps in training order, as columns of TRL's tokenized data.

    Args:
        whole: Put the prompt in front of both answers.
    """
    plan = EpochPlan.of(COMPARISONS, options, budget=256)
    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for index in (index for step in range(plan.steps) for part in plan.step(step) for index in part):
        for name, document in zip(("chosen_ids", "rejected_ids"), COMPARISONS[index].documents, strict=True):
            prompt = int(document.supervised.argmax())
            columns[name].append(document.ids[0 if whole else prompt :].tolist())
        columns["prompt_ids"].append(document.ids[:prompt].tolist())
    return columns


def arguments(folder: Path, options: TrainingOptions, accumulated: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1,
        "dataloader_pin_memory": False, "train_sampling_strategy": "sequential", "max_length": options.max_length,
        "num_train_epochs": 1, "per_device_train_batch_size": options.batch_size // accumulated,
        "gradient_accumulation_steps": accumulated, "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine", "warmup_steps": options.warmup, "weight_decay": options.weight_decay,
        "adam_beta1": options.beta1, "adam_beta2": options.beta2, "adam_epsilon": options.epsilon,
        "max_grad_norm": options.max_grad_norm,
    }  # fmt: skip


def run_trl(kind: type, config: Any, model: Any, columns: dict[str, list[list[int]]]) -> list[dict[str, Any]]:
    """Train ``model`` with a trainer of TRL on tokenized pairs; return the logged metrics."""
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    class Prepared(kind):  # type: ignore[misc]  # it renders texts otherwise
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    trainer = Prepared(
        model=model, args=config, train_dataset=Dataset.from_dict(columns), processing_class=make_tokenizer()
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


def assert_equal_runs(lines: list[dict[str, Any]], logged: list[dict[str, Any]], mine: Any, theirs: Any) -> None:
    """Check that losses, gradient norms and weights agree, and that something was learnt."""
    assert [line["learning_rate"] for line in lines] == pytest.approx([line["learning_rate"] for line in logged])
    for line, other in zip(lines, logged, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert line["gradient_norm"] == pytest.approx(other["grad_norm"], abs=1e-3, rel=1e-3)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1
    for (name, weight), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert float((weight - other).detach().abs().max()) < 1e-4, name


@pytest.mark.parametrize(
    ("loss", "options", "accumulated"),
    [
        pytest.param("sigmoid", DpoOptions(**SETTINGS), 1, marks=pytest.mark.prove),
        ("sigmoid", DpoOptions(**SETTINGS, beta=0.3), 2),
        ("sigmoid_norm", DpoOptions(**SETTINGS, beta=5.0, length_normalised=True), 2),
    ],
)
def test_fifty_steps_reach_the_losses_and_weights_of_trls_dpo(
    tmp_path: Path, loss: str, options: DpoOptions, accumulated: int
) -> None:
    from trl import DPOConfig, DPOTrainer

    model, theirs = make_model(VOCAB), make_model(VOCAB)
    use_packed_attention(model, "sdpa")
    packed_lm = PackedCausalLM(model)
    reference = torch.from_numpy(-evaluate(packed_lm, COMPARISONS.documents, budget=256).sums)
    lines = train(packed_lm, DirectPreference(COMPARISONS, reference, options), options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in TRL
        config = DPOConfig(**arguments(tmp_path, options, accumulated), beta=options.beta, loss_type=[loss])

        class WithReference(DPOTrainer):
            def __init__(self, **values: Any) -> None:
                super().__init__(ref_model=copy.deepcopy(values["model"]), **values)

        logged = run_trl(WithReference, config, theirs, rows(options, whole=False))
    assert_equal_runs(lines, logged, model, theirs)


@pytest.mark.parametrize("accumulated", [pytest.param(1, marks=pytest.mark.prove), 2])
def test_fifty_steps_reach_the_losses_and_weights_of_trls_reward_model(tmp_path: Path, accumulated: int) -> None:
    from trl import RewardConfig, RewardTrainer

    options = RewardOptions(**SETTINGS)
    model = to_reward_model(make_model(VOCAB))
    torch.nn.init.normal_(model.score.weight, std=0.1)
    theirs = copy.deepcopy(model)
    use_packed_attention(model, "sdpa")
    lines = train(PackedRewardModel(model), BradleyTerry(COMPARISONS), replace(options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in TRL
        config = RewardConfig(**arguments(tmp_path, options, accumulated))
        logged = run_trl(RewardTrainer, config, theirs, rows(options, whole=True))
    assert_equal_runs(lines, logged, model, theirs)

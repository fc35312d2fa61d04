"""Training steps compared with a plain loop over transformers and with TRL's SFTTrainer, in float32."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import finetune.model.loss
from finetune.data.corpus import Corpus, Document
from finetune.data.plan import EpochPlan
from finetune.model.attention import use_packed_attention
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import TrainingOptions
from finetune.training.loop import TrainingLoop
from finetune.training.optimizer import FlatAdamW
from tests.finetune_fixtures import make_model, make_tokenizer

STEPS, VOCAB = 50, 384
OPTIONS = TrainingOptions(
    max_length=64, batch_size=8, micro_batch_tokens=96, epochs=5, learning_rate=5e-3, warmup=0.07, max_grad_norm=0.5,
    weight_decay=0.0, checkpoint_every=0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: several would slow down models this small, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def corpus(count: int) -> Corpus:
    """Random documents of 6 to 60 tokens; documents of 6 have a single supervised token, so that weights differ."""
    random = np.random.default_rng(3)
    documents = []
    for number in range(count):
        length = 6 if number % 5 == 0 else int(random.integers(8, 61))
        ids = random.integers(3, VOCAB, length).astype(np.int32)
        begin = length - 1 if length == 6 else int(random.integers(1, length))
        documents.append(Document(ids, np.arange(length) >= begin, f"random:{number}"))
    return Corpus.of(documents)


class Observed(FlatAdamW):
    """The optimizer, with a record of the unclipped gradients of the first step."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], options: TrainingOptions) -> None:
        self.parameters = list(parameters)
        self.gradients: list[torch.Tensor] = []
        super().__init__(self.parameters, options)

    def step(self, step: int, rate: float, grad_scale: torch.Tensor, finite: torch.Tensor) -> None:
        self.gradients = self.gradients or [
            parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None
        ]
        super().step(step, rate, grad_scale, finite)


def train(model: Any, plan: EpochPlan) -> tuple[list[dict[str, Any]], Observed]:
    """Train ``model``; return the logged metrics and the optimizer."""
    use_packed_attention(model, "sdpa")
    packed_lm = PackedCausalLM(model)
    optimizer = Observed(packed_lm.parameters(), plan.options)
    lines: list[dict[str, Any]] = []
    TrainingLoop(packed_lm, optimizer, plan, log=lambda _step, values: lines.append(dict(values))).run()
    return lines, optimizer


def order(plan: EpochPlan) -> list[int]:
    """Return the documents of all steps in training order."""
    return [index for step in range(plan.steps) for micro_batch in plan.step(step) for index in micro_batch]


def weights(model: Any) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in model.parameters()]


def labels(document: Document) -> list[int]:
    return np.where(document.supervised, document.ids, -100).tolist()  # type: ignore[no-any-return]


def padded(plan: EpochPlan, step: int) -> dict[str, torch.Tensor]:
    """Return the documents of a step as inputs of transformers: padded to the longest, with a mask."""
    documents = [plan.corpus[index] for micro_batch in plan.step(step) for index in micro_batch]
    width = max(map(len, documents))
    rows = [(document.ids.tolist(), labels(document), width - len(document)) for document in documents]
    return {
        "input_ids": torch.tensor([ids + [0] * gap for ids, _, gap in rows]),
        "labels": torch.tensor([row_labels + [-100] * gap for _, row_labels, gap in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * gap for ids, _, gap in rows]),
    }


def test_gradients_equal_a_plain_loop_over_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finetune.model.loss, "CHUNK_BYTES", 7 * VOCAB * 4)  # seven rows of logits per chunk
    model, plain = make_model(VOCAB), make_model(VOCAB).train()
    plan = EpochPlan.of(corpus(8), replace(OPTIONS, max_steps=1), budget=96)
    assert len(plan.step(0)) > 1
    assert max(map(len, plan.step(0))) > 1

    lines, optimizer = train(model, plan)
    loss = plain(**padded(plan, 0)).loss
    loss.backward()

    assert lines[0]["loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    for mine, (name, theirs) in zip(optimizer.gradients, plain.named_parameters(), strict=True):
        assert float(theirs.grad.abs().max()) > 1e-2, name
        assert float((mine - theirs.grad).abs().max()) < 1e-5, name


@pytest.mark.parametrize("accumulated", [1, 2])
def test_fifty_steps_reach_the_losses_and_weights_of_trl(tmp_path: Path, accumulated: int) -> None:
    pytest.importorskip("trl", reason="TRL is in the extra bench")
    plan = EpochPlan.of(corpus(80), OPTIONS, budget=96)
    assert plan.steps == STEPS
    model, theirs, before = (make_model(VOCAB) for _ in range(3))

    lines, _ = train(model, plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in TRL
        logged = trl(theirs, plan, tmp_path, accumulated)

    assert [line["learning_rate"] for line in lines] == pytest.approx([line["learning_rate"] for line in logged])
    assert [line["gradient_norm"] for line in lines] == pytest.approx([line["grad_norm"] for line in logged], abs=1e-3)
    assert max(line["gradient_norm"] for line in lines) > OPTIONS.max_grad_norm, "clipping is part of the comparison"
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1
    for mine, other in zip(lines, logged, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], abs=1e-4)
    for (name, *_), mine, other, old in zip(
        model.named_parameters(), *map(weights, (model, theirs, before)), strict=True
    ):
        assert float((mine - old).abs().max()) > 1e-2, f"{name} did not change"
        assert float((mine - other).abs().max()) < 1e-4, name


def trl(model: Any, plan: EpochPlan, folder: Path, accumulated: int) -> list[dict[str, Any]]:
    """Train ``model`` with TRL on the steps of ``plan``; return the logged metrics."""
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    options = plan.options
    documents = [plan.corpus[index] for index in order(plan)]
    columns = {"input_ids": [document.ids.tolist() for document in documents], "labels": list(map(labels, documents))}
    config = SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        report_to="none", save_strategy="no", logging_steps=1, dataloader_pin_memory=False,
        train_sampling_strategy="sequential", max_length=options.max_length, num_train_epochs=1,
        per_device_train_batch_size=options.batch_size // accumulated, gradient_accumulation_steps=accumulated,
        learning_rate=options.learning_rate, lr_scheduler_type="cosine", warmup_steps=options.warmup,
        weight_decay=options.weight_decay, adam_beta1=options.beta1, adam_beta2=options.beta2,
        adam_epsilon=options.epsilon, max_grad_norm=options.max_grad_norm,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=Dataset.from_dict(columns), processing_class=make_tokenizer()
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]

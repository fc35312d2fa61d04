"""Random compared answers, and one epoch over them by this project's trainer and by TRL's, for bench/preferences.py."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from finetune.data.comparisons import ComparedDocuments, Comparisons
from finetune.data.corpus import Document
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

Clock = Callable[[], float]

__all__ = ["Epoch", "random_pairs", "run_ours", "run_trl"]


@dataclass
class Epoch:
    """One epoch of a trainer.

    Attributes:
        tokens: Document tokens, without padding.
        seconds: Duration of the steps.
        before: Duration of what precedes them: the log-probabilities of the reference.
        losses: Loss of each step.
        weights: The trained weights.
    """

    tokens: int
    seconds: float
    before: float = 0.0
    losses: list[float] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)

    @property
    def steps_speed(self) -> float:
        """Tokens per second of the steps alone."""
        return self.tokens / self.seconds

    @property
    def speed(self) -> float:
        """Tokens per second, with the time for the reference."""
        return self.tokens / (self.seconds + self.before)


def random_pairs(count: int, vocabulary: int, longest: int, seed: int = 0) -> Comparisons:
    """Return pairs of answers with lengths like instructions: prompts of about 70 tokens, answers of about 60."""
    random = np.random.default_rng(seed)
    parts = []
    for number in range(count):
        prompt = random.integers(3, vocabulary, int(np.clip(random.lognormal(np.log(70), 0.3), 10, longest // 2)))
        documents = []
        for kind in ("chosen", "rejected"):
            length = int(np.clip(random.lognormal(np.log(40), 0.9), 2, longest - len(prompt)))
            ids = np.concatenate([prompt, random.integers(3, vocabulary, length)]).astype(np.int32)
            documents.append(Document(ids, np.arange(len(ids)) >= len(prompt), f"random:{number} ({kind})"))
        parts.append(ComparedDocuments(f"random:{number}", tuple(documents), ((0, 1),)))
    return Comparisons.of(parts)


def run_ours(
    causal: Any, comparisons: Comparisons, options: TrainingOptions, *, budget: int = 2048,
    clock: Clock = time.perf_counter,
) -> Epoch:  # fmt: skip
    """Train a copy of ``causal`` with this project's trainer; ``clock`` measures the time."""
    torch.manual_seed(0)
    model = copy.deepcopy(causal)
    reward = isinstance(options, RewardOptions)
    packed_lm = PackedRewardModel(_with_score(model)) if reward else PackedCausalLM(model)
    use_packed_attention(packed_lm.causal, "sdpa")
    began = clock()
    objective: Objective = BradleyTerry(comparisons)
    if isinstance(options, DpoOptions):
        reference = torch.from_numpy(-evaluate(packed_lm, comparisons.documents, budget=budget).sums)
        objective = DirectPreference(comparisons, reference, options)
    ready = clock()
    losses: list[float] = []
    plan = EpochPlan.of(comparisons, options, budget=budget)
    optimizer = FlatAdamW(packed_lm.parameters(), options)
    loop = TrainingLoop(packed_lm, optimizer, plan, objective=objective,
                        log=lambda _step, values: losses.append(values["loss"]))  # fmt: skip
    loop.run()
    tokens = int(comparisons.lengths.sum()) * options.epochs
    weights = [weight.detach() for weight in packed_lm.parameters()]
    return Epoch(tokens, clock() - ready, ready - began, losses, weights)


def run_trl(
    causal: Any, comparisons: Comparisons, options: TrainingOptions, *, loss: str = "sigmoid", precompute: bool = True,
    accumulated: int = 1, clock: Clock = time.perf_counter,
) -> Epoch:  # fmt: skip
    """Train a copy of ``causal`` with TRL on the same steps.

    Args:
        loss: TRL's name of the loss of DPO.
        precompute: Whether TRL computes the reference before the steps, and not in each.
        accumulated: Micro-batches of a step.
        clock: Measures the time.
    """
    torch.manual_seed(0)
    model = copy.deepcopy(causal)
    if isinstance(options, DpoOptions):
        kind, settings = DPOTrainer, {"beta": options.beta, "loss_type": [loss], "precompute_ref_log_probs": precompute}
        configuration: Any = DPOConfig
        extra = {"ref_model": copy.deepcopy(causal)}
    else:
        kind, settings, configuration, extra = RewardTrainer, {}, RewardConfig, {}
        model = _with_score(model)
    config = configuration(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        report_to="none", save_strategy="no", logging_steps=1, dataloader_pin_memory=False,
        train_sampling_strategy="sequential", max_length=options.max_length, num_train_epochs=1,
        per_device_train_batch_size=options.batch_size // accumulated, gradient_accumulation_steps=accumulated,
        learning_rate=options.learning_rate, lr_scheduler_type=options.schedule, warmup_steps=options.warmup,
        max_grad_norm=options.max_grad_norm, **settings,
    )  # fmt: skip

    class Prepared(kind):  # type: ignore[misc,valid-type]  # it renders texts otherwise
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    timer = _Timer(clock)
    began = clock()
    with redirect_stdout(StringIO()):
        trainer = Prepared(
            model=model, args=config, train_dataset=Dataset.from_dict(_columns(comparisons, options)),
            processing_class=_tokenizer(), callbacks=[timer], **extra,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        ready = clock()
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    before = ready - began if settings.get("precompute_ref_log_probs") else 0.0
    tokens = int(comparisons.lengths.sum()) * options.epochs
    return Epoch(tokens, timer.seconds, before, losses, [weight.detach() for weight in trainer.model.parameters()])


class _Timer(TrainerCallback):
    """Measures the time of the steps."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.began, self.seconds = clock, 0.0, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = self.clock()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = self.clock() - self.began


def _with_score(causal: Any) -> Any:
    """Return the reward model of both trainers, with the same random score."""
    model = to_reward_model(causal)
    torch.nn.init.normal_(model.score.weight, std=0.02)
    return model


def _columns(comparisons: Comparisons, options: TrainingOptions) -> dict[str, list[list[int]]]:
    """Return the pairs in the order of this project's steps, as columns of TRL's tokenized data."""
    plan = EpochPlan.of(comparisons, options, budget=1 << 20)
    columns: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for index in (index for step in range(plan.steps) for part in plan.step(step) for index in part):
        for name, document in zip(("chosen_ids", "rejected_ids"), comparisons[index].documents, strict=True):
            prompt = int(document.supervised.argmax())
            columns[name].append(document.ids[prompt if isinstance(options, DpoOptions) else 0 :].tolist())
        columns["prompt_ids"].append(document.ids[:prompt].tolist())
    return columns


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer, which TRL requires although the pairs are tokenized already."""
    words = WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )

"""The settings of a training run: one frozen dataclass, each field with what turning it does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Evaluation", "Lora", "Options"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), and QLoRA (Dettmers et al. 2023, arXiv:2305.14314).

    Attributes:
        rank: Columns of each adapter: more learn more and cost more.
        alpha: Scale of the adapters; their effect is multiplied by alpha / rank.
        dropout: Share of an adapter's inputs zeroed while training.
        targets: Layers that get an adapter: ``all-linear``, or the last parts of their names, with commas.
        base: How the frozen weights are held: ``full`` as the model's dtype, ``nf4`` in 4 bits (QLoRA).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: str = "all-linear"
    base: Literal["full", "nf4"] = "full"

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "rank: at least 1")
        _require(self.alpha > 0, "alpha: above 0")
        _require(0 <= self.dropout < 1, "dropout: from 0 to below 1")
        _require(bool(self.targets.strip()), "targets: name a layer, or all-linear")


@dataclass(frozen=True)
class Evaluation:
    """What is measured before and after.

    Attributes:
        fraction: Share of the rows held out of training, drawn by ``seed``.
        seed_tasks: Number of the built-in seed tasks whose loss is measured; they are never trained on.
        samples: Held-out instructions that the model answers, for the table of answers before and after.
        sample_tokens: Longest sample answer, in tokens.
    """

    fraction: float = 0.0
    seed_tasks: int = 0
    samples: int = 0
    sample_tokens: int = 64

    def __post_init__(self) -> None:
        _require(0 <= self.fraction <= 0.9, "fraction: from 0 to 0.9")
        _require(min(self.seed_tasks, self.samples) >= 0, "seed_tasks and samples: 0 or more")
        _require(self.sample_tokens >= 1, "sample_tokens: at least 1")


@dataclass(frozen=True)
class Options:
    """Settings of a training run; the defaults are the Alpaca recipe (Taori et al. 2023).

    Attributes:
        format: Text that a row becomes: ``alpaca`` (the Alpaca prompt), ``chat`` (the model's chat template),
            ``completion`` (prompt and completion, nothing between), or ``auto``: chat if the model has a template.
        max_length: Longest document in tokens; what is beyond is cut, and no stop token is put in its place.
        packing: Several documents side by side in one micro-batch, isolated from each other. Off: one at a time,
            slower, for models whose layers can't be isolated.
        batch_size: Documents in one optimizer step.
        batch_tokens: Instead of ``batch_size``: about this many tokens in one optimizer step, packed over the epoch.
        micro_batch_tokens: Tokens that go through the model at once. Default: 32,768 on a GPU, 2,048 on a CPU.
        epochs: Times that each document is seen.
        max_steps: Stop after this many optimizer steps, if they are fewer; the schedule ends there too.
        learning_rate: The peak, after warm-up.
        warmup: Share of the steps over which the rate rises from 0.
        schedule: How it falls afterwards: ``cosine`` or ``linear`` to ``min_rate`` times the peak, or ``constant``.
        min_rate: Where the fall ends, as a share of the peak.
        weight_decay: Decoupled decay of matrices; vectors (norms, biases) have none.
        beta1, beta2: Decay of AdamW's first and second moment.
        epsilon: AdamW's, added to the root of the second moment.
        max_grad_norm: Gradients are scaled down to this norm; 0 leaves them as they are.
        dtype: Of weights and activations; ``auto`` is bfloat16 on a GPU (with exact float32 master weights) and float32
            on a CPU.
        attention: How documents are isolated: ``varlen`` (GPU), ``flex``, ``sdpa`` (one call for each document), or
            ``auto``: varlen on a GPU, sdpa on a CPU.
        compile: Compile the layers. Default: on a GPU only.
        recompute: Recompute activations in the backward pass to save memory. Default: if the predicted memory does not
            fit.
        lora: Train adapters instead of the weights.
        evaluation: What is measured before and after.
        checkpoint_every: Steps between checkpoints; 0 saves none.
        keep: Checkpoints that are kept.
        log_every: Steps between two lines of ``metrics.jsonl``.
        seed: Of the order of the documents, of the held-out share, and of dropout.
    """

    format: Literal["auto", "alpaca", "chat", "completion"] = "auto"
    max_length: int = 512
    packing: bool = True
    batch_size: int = 128
    batch_tokens: int | None = None
    micro_batch_tokens: int | None = None
    epochs: int = 3
    max_steps: int | None = None
    learning_rate: float = 2e-5
    warmup: float = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_rate: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attention: Literal["auto", "varlen", "flex", "sdpa"] = "auto"
    compile: bool | None = None
    recompute: bool | None = None
    lora: Lora | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint_every: int = 100
    keep: int = 2
    log_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.max_length >= 2, "max_length: at least 2 tokens")
        for name in ("batch_size", "epochs", "keep", "log_every"):
            _require(getattr(self, name) >= 1, f"{name}: at least 1")
        for name in ("batch_tokens", "micro_batch_tokens", "max_steps"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name}: at least 1, or null")
        _require(self.learning_rate > 0, "learning_rate: above 0")
        _require(-(2**63) <= self.seed < 2**63, "seed: within 64 bits")
        for name in ("learning_rate", "epsilon", "weight_decay", "max_grad_norm"):
            _require(math.isfinite(getattr(self, name)), f"{name}: a finite number")
        for name in ("warmup", "min_rate"):
            _require(0 <= getattr(self, name) <= 1, f"{name}: from 0 to 1")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"{name}: from 0 to below 1")
        _require(self.epsilon > 0, "epsilon: above 0")
        for name in ("weight_decay", "max_grad_norm", "checkpoint_every"):
            _require(getattr(self, name) >= 0, f"{name}: 0 or more")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)

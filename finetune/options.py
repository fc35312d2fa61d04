"""Settings of a training run: frozen dataclasses whose docstrings say what each field changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from selfinstruct.common.unused import Unused

__all__ = ["DpoOptions", "Evaluation", "Lora", "RewardOptions", "TrainingOptions"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), and QLoRA (Dettmers et al. 2023, arXiv:2305.14314).

    Attributes:
        rank: Rank of each adapter: higher ranks learn more and cost more.
        alpha: Scale of the adapters; their output is multiplied by alpha / rank.
        dropout: Dropout probability of an adapter's inputs while training.
        targets: Layers that get an adapter: ``all-linear`` (experts included), or a comma-separated list of endings of
            the names of layers and of parameters with experts.
        base: Precision of the frozen weights: ``full`` for the model's dtype, ``nf4`` for 4 bits (QLoRA).
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
    """The measurements before and after training.

    Attributes:
        fraction: Fraction of the rows held out of training, drawn by ``seed`` in groups of similar rows.
        seed_tasks: Number of built-in seed tasks whose loss is measured; tasks that the rows contain are left out.
        samples: Number of held-out instructions that the model answers, for a table of answers before and after.
        sample_tokens: Maximum tokens of a sample answer.
        patience: Early stopping: the number of epochs in a row without a lower held-out loss (over all held-out tokens)
            after which training stops. The model keeps the weights of the lowest loss, measured before training and
            after each epoch. 0 trains to the end and keeps the last weights.
    """

    fraction: float = 0.0
    seed_tasks: int = 0
    samples: int = 0
    sample_tokens: int = 64
    patience: int = 0

    def __post_init__(self) -> None:
        _require(0 <= self.fraction <= 0.9, "fraction: from 0 to 0.9")
        _require(min(self.seed_tasks, self.samples) >= 0, "seed_tasks and samples: 0 or more")
        _require(self.sample_tokens >= 1, "sample_tokens: at least 1")
        _require(self.patience >= 0, "patience: 0 or more")
        held_out = self.fraction > 0 or self.seed_tasks > 0
        _require(held_out or not self.patience, "patience: needs held-out documents: set fraction or seed_tasks")


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of a training run; the defaults are the Alpaca recipe (Taori et al. 2023).

    Attributes:
        format: How a row is rendered: ``alpaca`` (the Alpaca prompt), ``chat`` (the model's chat template),
            ``completion`` (prompt and completion with nothing between), or ``auto``: chat if the model has a template.
        template_arguments: Arguments of the chat template, such as ``enable_thinking: false``. A row's own
            (``chat_template_kwargs``) take precedence. They are recorded: ``finetune chat`` uses them too.
        max_length: Maximum tokens of a document, or the model's positions if it has fewer; the rest is cut, and no stop
            token is added in its place.
        packing: Whether several documents share a micro-batch, isolated from each other. Off: one document at a time,
            slower. Models whose layers can't be isolated are trained in that way in any case, and a line says so.
        batch_size: Documents per optimizer step.
        batch_tokens: Instead of ``batch_size``: approximate tokens per optimizer step, packed over the whole epoch.
        micro_batch_tokens: Tokens that go through the model at once. Default: as many as are predicted to fit, from
            2,048 to 65,536 on a GPU, and 2,048 (at least 512) on a CPU.
        epochs: Number of passes over the data.
        max_steps: Maximum number of optimizer steps; the learning rate schedule ends there too.
        learning_rate: Peak learning rate, reached after warm-up.
        warmup: Fraction of the steps over which the learning rate rises from 0; at most all steps except the last.
        schedule: Decay of the learning rate after warm-up: ``cosine`` or ``linear`` to ``min_rate`` times the peak, or
            ``constant``.
        min_rate: Final learning rate as a fraction of the peak.
        weight_decay: Decoupled weight decay of matrices; vectors (norms, biases) have none.
        beta1, beta2: Decay rates of AdamW's first and second moment.
        epsilon: AdamW's epsilon, added to the root of the second moment.
        max_grad_norm: Norm to which gradients are clipped; 0 disables clipping.
        dtype: Precision of weights and activations; ``auto`` is bfloat16 on a GPU (with exact float32 master weights)
            and float32 on a CPU.
        fp8: Whether the linear layers of a bfloat16 model multiply in 8 bits while training, for speed on a GPU with
            8-bit units. The losses differ from bfloat16's.
        attention: How packed documents are isolated: ``varlen`` (GPU), ``sdpa`` (one call per document), or ``auto``:
            varlen on a GPU, sdpa on a CPU.
        compile: Whether to compile the layers. Default: with varlen attention only.
        recompute: Whether to recompute activations in the backward pass to save memory. Default: if the predicted
            memory does not fit with the smallest micro-batch either.
        lora: Train adapters instead of the weights.
        evaluation: The measurements before and after training.
        checkpoint_every: Steps between checkpoints; 0 saves none.
        keep: Number of checkpoints to keep.
        log_every: Steps between two lines of ``metrics.jsonl``.
        seed: Seed of the document order, the held-out split and dropout.
    """

    format: Literal["auto", "alpaca", "chat", "completion"] = "auto"
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
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
    fp8: bool = False
    attention: Literal["auto", "varlen", "sdpa"] = "auto"
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

    def unused(self) -> Iterator[Unused]:
        """Yield the settings that the others leave without effect."""
        if self.format not in ("auto", "chat"):
            yield Unused("format", "chat", ("template_arguments",))
        if self.batch_tokens is not None:
            yield Unused("batch_tokens", "null", ("batch_size",))
        if not self.packing:
            yield Unused("packing", "true", ("attention",))
        if self.schedule == "constant":
            yield Unused("schedule", "cosine or linear", ("min_rate",))
        if not self.evaluation.samples:
            yield Unused("evaluation.samples", "1 or more", ("evaluation.sample_tokens",))


@dataclass(frozen=True)
class _ComparisonOptions(TrainingOptions):
    """What the runs on compared answers have in common: no dropout, and no built-in held-out set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            not self.lora or not self.lora.dropout, "lora.dropout: 0, since preferences are learnt without dropout"
        )
        _require(not self.fp8, "fp8: false, since preferences are learnt from small differences")
        _require(not self.evaluation.seed_tasks, "evaluation.seed_tasks: 0, since seed tasks have no rejected answers")


@dataclass(frozen=True)
class DpoOptions(_ComparisonOptions):
    """Settings of ``finetune prefer``, besides the settings of a training run. ``batch_size`` counts prompts.

    Attributes:
        method: The loss: ``dpo``, direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290).
        beta: How far the model may move away from the reference: higher values keep it closer.
        length_normalised: Whether to divide an answer's log-probability by its number of tokens, so that long answers
            have no more influence than short ones (Lambert et al. 2024, arXiv:2411.15124). ``beta`` is then larger,
            such as 5.
        sft: Weight of the cross entropy per token of the chosen answers, added to the loss (Pang et al. 2024,
            arXiv:2404.19733). It keeps their probability from falling together with that of the rejected ones.
    """

    method: Literal["dpo"] = "dpo"
    beta: float = 0.1
    length_normalised: bool = False
    sft: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.beta < math.inf, "beta: a finite number above 0")
        _require(0 <= self.sft < math.inf, "sft: a finite number, 0 or more")


@dataclass(frozen=True)
class RewardOptions(_ComparisonOptions):
    """Settings of ``finetune reward``, besides the settings of a training run. ``batch_size`` counts prompts.

    Attributes:
        method: The loss: ``bradley-terry`` (Ouyang et al. 2022, arXiv:2203.02155).
    """

    method: Literal["bradley-terry"] = "bradley-terry"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(not self.lora or self.lora.base == "full", "lora.base: full, since a reward model is saved as a whole")
        _require(not self.evaluation.samples, "evaluation.samples: 0, since a reward model writes no answers")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

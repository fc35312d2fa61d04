"""What the settings that are left to the machine come to on this one, and a model made ready for training by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from finetune.model.attention import choose, install
from finetune.model.footprint import ModelFootprint, capacity, examine, fits, in_words, mfu
from finetune.model.isolation import check_head, check_isolation
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import Options
from finetune.training.distributed import World, shard
from finetune.training.loop import EpochPlan
from selfinstruct.errors import UsageError

__all__ = ["Costs", "Setup", "compile_layers", "prepare"]

_BUDGET = {"cuda": 32_768, "cpu": 2_048}


@dataclass(frozen=True)
class Setup:
    """Every ``auto`` and ``null`` of the options, decided; but for ``recompute``, which ``Costs`` knows.

    Attributes:
        device: Of this process.
        dtype: Of weights and activations.
        attention: ``varlen``, ``flex``, ``sdpa``, or, without packing, the empty string: the model's own.
        budget: Tokens in a micro-batch.
        compile: Whether the layers are compiled.
    """

    device: torch.device
    dtype: torch.dtype
    attention: str
    budget: int
    compile: bool

    @classmethod
    def of(cls, options: Options, device: torch.device) -> Setup:
        """Decide.

        Raises:
            UsageError: What was asked for does not run on ``device``.
        """
        cuda = device.type == "cuda"
        dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        dtype = dtypes.get(options.dtype, torch.bfloat16 if cuda else torch.float32)
        return cls(
            device=device,
            dtype=dtype,
            attention=choose(options.attention, device, dtype) if options.packing else "",
            budget=options.micro_batch_tokens or _BUDGET["cuda" if cuda else "cpu"],
            compile=cuda if options.compile is None else options.compile,
        )

    @property
    def fixed(self) -> bool:
        """Whether micro-batches are filled up to few shapes, so that compiled layers are compiled for few."""
        return self.compile and self.attention == "varlen"


@dataclass(frozen=True)
class Costs:
    """What a run is predicted to take.

    Attributes:
        memory: Bytes by part on one device; empty where the model can't be examined.
        room: Bytes that the device has; None where that is unknown.
        recompute: Whether activations are computed again in the backward pass: as told, or if they do not fit else.
        flops: Of a training step, for each token; None where the model can't be examined.
        device: What the device calls itself.
        ranks: Devices.
    """

    memory: dict[str, int]
    room: int | None
    recompute: bool
    flops: float | None
    device: str
    ranks: int

    @classmethod
    def of(cls, config: Any, plan: EpochPlan, setup: Setup) -> Costs:
        """Predict them from a model's configuration and the steps of a run."""
        options, corpus, device = plan.options, plan.corpus, setup.device
        ranks = plan.packing.ranks
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        room = capacity(device)
        if room is not None and device.type != "cuda":
            room //= ranks  # processes share the memory of the machine
        anatomy = examine(config, dtype=setup.dtype, lora=options.lora)
        if anatomy is None:
            return cls({}, room, bool(options.recompute), None, name, ranks)
        usual, saving = (_memory(anatomy, plan, again) for again in (False, True))
        again = not fits(usual, room) if options.recompute is None else options.recompute
        # A token attends to its own document: long documents weigh by their tokens.
        length = float((corpus.lengths**2).sum() / corpus.lengths.sum())
        flops = anatomy.flops_per_token(length, supervised=float(corpus.supervised.mean()))
        return cls(saving if again else usual, room, again, flops, name, ranks)

    @property
    def words(self) -> str:
        """The predicted memory, and what to do where it is not there."""
        how = ", activations computed again in the backward pass" if self.recompute else ""
        return f"predicted memory{how}: {in_words(self.memory, self.room, recompute=self.recompute)}"

    @property
    def fit(self) -> bool:
        """Whether it is there, as far as one knows."""
        return fits(self.memory, self.room)

    def mfu(self, tokens_per_second: float) -> float | None:
        """Share of the devices' peak arithmetic; None where it is not known."""
        return mfu(tokens_per_second / self.ranks, self.flops, self.device)


def _memory(anatomy: ModelFootprint, plan: EpochPlan, again: bool) -> dict[str, int]:
    supervised = float(plan.corpus.supervised.mean())
    parts = anatomy.memory(tokens=plan.packing.budget, supervised=supervised, recompute=again)
    ranks = plan.packing.ranks
    return {
        name: size // (ranks if name in ("weights", "gradients", "optimizer") else 1) for name, size in parts.items()
    }


def prepare(model: Any, setup: Setup, world: World, *, recompute: bool) -> PackedCausalLM:
    """A model as what the loop trains: packed, tried for leaks, spread over the devices if there are several.

    Compile its layers (``compile_layers``) after whatever must be measured of it before.

    Raises:
        UsageError: It can't be packed; it can't be spread.
    """
    trainee = PackedCausalLM(model)
    if setup.attention:
        install(trainee.causal, setup.attention)
    if recompute:
        _recompute(trainee.causal)
    if world.ranks > 1:
        if getattr(trainee.causal, "is_loaded_in_4bit", False):
            raise UsageError("weights in 4 bits are not spread over processes; start one, or use lora.base=full")
        shard(trainee, world)
    if setup.attention:  # alone in its micro-batch, a document sees nothing but itself, whatever the layers
        check_isolation(trainee, setup.device)
    trainee.own_head = check_head(trainee, setup.device)
    return trainee


def _recompute(causal: Any) -> None:
    # Within transformers 5 the method got another name, and the old one warns.
    enable = getattr(causal, "activation_checkpointing_enable", None) or causal.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UsageError(f"recompute=on: {error}") from None


def compile_layers(trainee: PackedCausalLM) -> None:
    """Compile each layer by itself: they share their code, so that one is compiled and the others reuse it.

    What is compiled is ``forward`` alone: the hooks around it, which gather the weights of a sharded layer, are not.
    """
    for layer in trainee.decoder.layers:
        forward: Callable[..., Any] = layer.forward
        layer.forward = torch.compile(forward, dynamic=False)

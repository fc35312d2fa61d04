"""Resolution of the options that depend on the machine, and preparation of a model for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from finetune.model.anatomy import find_layers
from finetune.model.attention import resolve_attention
from finetune.model.balance import LoadBalancing
from finetune.model.isolation import check_head, check_loss
from finetune.model.lora_targets import describe_coverage
from finetune.model.packed_lm import PackedCausalLM
from finetune.model.rotary import use_document_frequencies
from finetune.options import TrainingOptions
from finetune.training.distributed import World, shard
from finetune.training.isolate import isolate_documents
from selfinstruct.errors import UsageError

__all__ = ["RuntimeSetup", "compile_layers", "prepare"]

_BUDGET = {"cuda": 32_768, "cpu": 2_048}  # tokens


@dataclass(frozen=True)
class RuntimeSetup:
    """The options that are ``auto`` or null, resolved for this machine (except ``recompute``: see ``CostEstimate``).

    Attributes:
        device: Device of this process.
        dtype: Precision of weights and activations.
        attention: ``varlen`` or ``sdpa``; without packing the empty string, for the model's own attention.
        budget: Tokens in a micro-batch.
        compile: Whether the layers are compiled.
    """

    device: torch.device
    dtype: torch.dtype
    attention: str
    budget: int
    compile: bool

    @classmethod
    def of(cls, options: TrainingOptions, device: torch.device) -> RuntimeSetup:
        """Resolve the options for ``device``.

        Raises:
            UsageError: An option is not supported on ``device``.
        """
        cuda = device.type == "cuda"
        dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        dtype = dtypes.get(options.dtype, torch.bfloat16 if cuda else torch.float32)
        return cls(
            device=device,
            dtype=dtype,
            attention=resolve_attention(options.attention, device, dtype) if options.packing else "",
            budget=options.micro_batch_tokens or _BUDGET["cuda" if cuda else "cpu"],
            compile=cuda if options.compile is None else options.compile,
        )

    def after(self, packed_lm: PackedCausalLM) -> RuntimeSetup:
        """Return the setup for a prepared model.

        Where it does not have the attention that was asked for, its layers are not compiled: shapes follow the
        documents, and each would be compiled.
        """
        return replace(self, compile=self.compile and packed_lm.attention == self.attention)

    @property
    def fixed_shapes(self) -> bool:
        """Whether micro-batches are padded to a few shapes, so that layers are compiled only a few times."""
        return self.compile and self.attention == "varlen"


def prepare(
    model: Any, setup: RuntimeSetup, world: World, *, recompute: bool, longest: int = 0,
    notify: Callable[[str], None] = lambda _line: None,
) -> PackedCausalLM:  # fmt: skip
    """Prepare a model for the training loop: documents isolated, sharded over the processes, checked for leaks.

    Whether documents are packed is then decided (``PackedCausalLM.packs``). Compile the layers (``compile_layers``)
    after any evaluation before training.

    Args:
        longest: Tokens of the longest document of the run.
        notify: Called with a line on each thing that differs from the options.

    Raises:
        UsageError: The model is not causal, or does not support recomputation or sharding.
    """
    packed_lm = PackedCausalLM(model)
    use_document_frequencies(packed_lm.causal)
    if recompute:
        _enable_recompute(packed_lm.causal)
    if world.world_size > 1:
        if getattr(packed_lm.causal, "is_loaded_in_4bit", False):
            raise UsageError("weights in 4 bits can't be sharded over processes; start one, or use lora.base=full")
        shard(packed_lm, world)
    packed_lm.chunked_head = check_head(packed_lm, setup.device)
    lines = isolate_documents(packed_lm, setup.attention, setup.device, longest=longest)
    packed_lm.balancing = LoadBalancing.of(packed_lm.causal)
    lines += [line for line in [check_loss(packed_lm, setup.device)] if line]
    if packed_lm.model is not packed_lm.causal:
        lines += describe_coverage(packed_lm.model)
    for line in lines:
        notify(line)
    return packed_lm


def _enable_recompute(causal: Any) -> None:
    # transformers renamed the method within version 5, and the old name warns.
    enable = getattr(causal, "activation_checkpointing_enable", None) or causal.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UsageError(f"recompute=on: {error}") from None


def compile_layers(packed_lm: PackedCausalLM) -> None:
    """Compile each layer separately: layers share their code, so one is compiled and the others reuse it.

    Only ``forward`` is compiled, not the hooks around it, which gather the weights of a sharded layer.
    """
    for layer in find_layers(packed_lm.decoder):
        forward: Callable[..., Any] = layer.forward
        layer.forward = torch.compile(forward, dynamic=False)

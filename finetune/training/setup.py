"""Resolution of the options that depend on the machine, and preparation of a model for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from finetune.model.attention import resolve_attention, use_packed_attention
from finetune.model.isolation import check_head, check_isolation
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import TrainingOptions
from finetune.training.distributed import World, shard
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

    @property
    def fixed_shapes(self) -> bool:
        """Whether micro-batches are padded to a few shapes, so that layers are compiled only a few times."""
        return self.compile and self.attention == "varlen"


def prepare(
    model: Any, setup: RuntimeSetup, world: World, *, recompute: bool, kind: type[PackedCausalLM] = PackedCausalLM
) -> PackedCausalLM:  # fmt: skip
    """Prepare a model for the training loop: packed attention, sharded over the processes, checked for leaks.

    Compile its layers (``compile_layers``) after any evaluation before training.

    Args:
        kind: The class that wraps the model.

    Raises:
        UsageError: The model does not support packing, recomputation or sharding.
    """
    packed_lm = kind(model)
    if setup.attention:
        use_packed_attention(packed_lm.causal, setup.attention)
    if recompute:
        _enable_recompute(packed_lm.causal)
    if world.world_size > 1:
        if getattr(packed_lm.causal, "is_loaded_in_4bit", False):
            raise UsageError("weights in 4 bits can't be sharded over processes; start one, or use lora.base=full")
        shard(packed_lm, world)
    if setup.attention:  # unpacked, a document is alone in its micro-batch, and no layer can leak
        check_isolation(packed_lm, setup.device)
    packed_lm.chunked_head = check_head(packed_lm, setup.device)
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
    for layer in packed_lm.decoder.layers:
        forward: Callable[..., Any] = layer.forward
        layer.forward = torch.compile(forward, dynamic=False)

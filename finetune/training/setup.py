"""Resolution of the options that depend on the machine, and preparation of a model for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune.model.anatomy import find_layers
from finetune.model.attention import resolve_attention
from finetune.model.balance import LoadBalancing
from finetune.model.float8 import check_float8, use_float8
from finetune.model.isolation import check_head, check_loss
from finetune.model.lora_targets import describe_coverage
from finetune.model.packed_lm import PackedCausalLM
from finetune.model.rotary import use_document_frequencies
from finetune.options import TrainingOptions
from finetune.training.distributed import World, shard
from finetune.training.isolate import isolate_documents
from selfinstruct.errors import UsageError

__all__ = ["RuntimeSetup", "compile_layers", "prepare"]

_RECOMPILE_LIMIT = 64


@dataclass(frozen=True)
class RuntimeSetup:
    """The options that are ``auto`` or null, resolved for this machine.

    Those that depend on the memory (``micro_batch_tokens``, ``recompute``) are chosen by
    ``finetune.training.estimate.CostEstimate``.

    Attributes:
        device: Device of this process.
        dtype: Precision of weights and activations.
        attention: ``varlen`` or ``sdpa``; without packing the empty string, for the model's own attention.
        compile: Whether the layers are compiled.
        fp8: Whether linear layers multiply in 8 bits.
    """

    device: torch.device
    dtype: torch.dtype
    attention: str
    compile: bool
    fp8: bool = False

    @classmethod
    def of(cls, options: TrainingOptions, device: torch.device) -> RuntimeSetup:
        """Resolve the options for ``device``.

        Raises:
            UsageError: An option is not supported on ``device``.
        """
        cuda = device.type == "cuda"
        dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        dtype = dtypes.get(options.dtype, torch.bfloat16 if cuda else torch.float32)
        attention = resolve_attention(options.attention, device, dtype) if options.packing else ""
        if options.compile and attention == "sdpa":
            raise UsageError(
                "compile=true with attention=sdpa would compile the layers anew for each micro-batch, because their "
                "code depends on the lengths of its documents; use --set compile=false, or attention=varlen on a GPU"
            )
        if options.fp8:
            if not attention:
                raise UsageError("fp8=true needs packing=true: its kernels take multiples of 16 tokens")
            check_float8(device, dtype)
        return cls(
            device=device,
            dtype=dtype,
            attention=attention,
            compile=attention == "varlen" if options.compile is None else options.compile,
            fp8=options.fp8,
        )

    def after(self, packed_lm: PackedCausalLM) -> RuntimeSetup:
        """Return the setup for a prepared model.

        Where it does not have the attention that was asked for, its layers are not compiled: shapes follow the
        documents, and each would be compiled.
        """
        return replace(self, compile=self.compile and packed_lm.attention == self.attention)

    @property
    def fixed_shapes(self) -> bool:
        """Whether micro-batches are padded: to few shapes for compiled layers, or to multiples of 16 tokens for fp8."""
        return (self.compile and self.attention == "varlen") or self.fp8


def prepare(
    model: Any, setup: RuntimeSetup, world: World, *, recompute: bool, longest: int = 0,
    kind: type[PackedCausalLM] = PackedCausalLM, notify: Callable[[str], None] = lambda _line: None,
) -> PackedCausalLM:  # fmt: skip
    """Prepare a model for the training loop: documents isolated, sharded over the processes, checked for leaks.

    Whether documents are packed is then decided (``PackedCausalLM.packs``). Compile the layers (``compile_layers``)
    after any evaluation before training.

    Args:
        longest: Tokens of the longest document of the run.
        kind: The class that wraps the model.
        notify: Called with a line on each thing that differs from the options.

    Raises:
        UsageError: The model is not causal, or does not support recomputation or sharding.
    """
    packed_lm = kind(model)
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
    if kind is PackedCausalLM and (line := check_loss(packed_lm, setup.device)):
        lines.append(line)
    if packed_lm.model is not packed_lm.causal:
        lines += describe_coverage(packed_lm.model)
    if setup.fp8:
        use_float8(nn.ModuleList(find_layers(packed_lm.decoder)))
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


def compile_layers(packed_lm: PackedCausalLM, setup: RuntimeSetup, *, activation_budget: float = 1.0) -> None:
    """Compile each layer separately: layers share their code, so one is compiled and the others reuse it.

    Only ``forward`` is compiled, not the hooks around it, which gather the weights of a sharded layer.

    Args:
        activation_budget: Share of the activations that layers keep for the backward pass, instead of recomputing them.
    """
    torch._functorch.config.activation_memory_budget = activation_budget  # read when a layer is compiled
    # Beyond the limit of 8, Dynamo would run a layer uncompiled. A kind of layer is compiled once a shape.
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, _RECOMPILE_LIMIT)
    _let_inputs_require_gradients(packed_lm)
    for layer in find_layers(packed_lm.decoder):
        forward: Callable[..., Any] = layer.forward
        layer.forward = torch.compile(forward, dynamic=not setup.fixed_shapes)


def _let_inputs_require_gradients(packed_lm: PackedCausalLM) -> None:
    """Let the input of the first layer require a gradient also if the embeddings are frozen.

    Otherwise, the first layer would be compiled separately, for each shape again.
    """
    embeddings = packed_lm.causal.get_input_embeddings()
    if any(parameter.requires_grad for parameter in embeddings.parameters()):
        return

    def require_gradient(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return output.requires_grad_() if torch.is_grad_enabled() else output

    embeddings.register_forward_hook(require_gradient)

"""The weights of a GGUF file: llama.cpp's names, values and order of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from finetune.export.architectures import Architecture, rope_of
from finetune.model.rotary import ROPE_TENSOR, rope_divisors
from selfinstruct.errors import UsageError

__all__ = ["tensors"]


def tensors(model: Any, architecture: Architecture, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight with llama.cpp's name, in llama.cpp's form.

    Args:
        name: The model, for messages.

    Raises:
        UsageError: llama.cpp does not know one of the weights.
    """
    import gguf

    config = model.config
    yield from _rope_tensors(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.graph], config.num_hidden_layers)
    has_head = architecture.head_given or not _is_tied(model)
    for label, tensor in model.state_dict().items():
        if label == "lm_head.weight" and not has_head:
            continue
        module, _, kind = label.rpartition(".")
        known = names.get_name(module) if kind in ("weight", "bias") else None
        inner = module.partition("layers.")[2].partition(".")[2]
        if known is None or (kind == "bias" and inner not in architecture.biases):
            raise UsageError(f"{name}: a weight {label}, which llama.cpp does not know in a {config.model_type}")
        yield f"{known}.{kind}", _converted(module, tensor, architecture, config)


def _is_tied(model: Any) -> bool:
    """Return whether the head has the values of the embeddings; a configuration may say otherwise."""
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    return head is embeddings or torch.equal(head, embeddings)


def _rope_tensors(config: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the divisors of the rotary frequencies, which llama.cpp does not compute itself."""
    rope = rope_of(config)
    if rope["rope_type"] == "llama3":
        yield ROPE_TENSOR, rope_divisors(config)
    if rope["rope_type"] == "longrope":
        for length in ("long", "short"):  # the file's context is short (architectures)
            yield f"rope_factors_{length}.weight", torch.tensor(rope["short_factor"], dtype=torch.float32)


def _converted(module: str, tensor: Tensor, architecture: Architecture, config: Any) -> Tensor:
    if architecture.norm_offset and module.endswith("norm"):
        return tensor.float() + architecture.norm_offset
    if not architecture.interleaved:
        return tensor
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = heads.get(module.rpartition(".")[2])
    if count is None:
        return tensor
    # llama.cpp rotates neighbouring elements of a head, transformers its two halves.
    return tensor.view(count, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)

"""Rotary position embeddings: frequencies that follow the length of a document, and scaled ones of GGUF files.

With the types ``dynamic`` and ``longrope``, the frequencies of transformers depend on the longest position of a call
(``transformers.modeling_rope_utils.dynamic_rope_update``), and with ``dynamic`` on earlier calls too. Packed with a
long document, a short one would get the frequencies of the long one. ``use_document_frequencies`` gives each document
the frequencies that it has alone in a new model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from selfinstruct.errors import UsageError

__all__ = ["ROPE_TENSOR", "read_rope_parameters", "rope_divisors", "use_document_frequencies", "yarn_attention"]

ROPE_TENSOR = "rope_freqs.weight"
# Types whose frequencies are the same for all lengths.
_FIXED = {"default", "linear", "yarn", "llama3", "proportional"}
_ORIGINAL = "original_inv_freq"


def use_document_frequencies(model: nn.Module) -> None:
    """Let rotary embeddings whose frequencies depend on the length of a text compute each document separately."""
    for module in model.modules():
        types = getattr(module, "rope_type", None)
        kinds = set(types.values()) if isinstance(types, dict) else {types or "default"}
        if not kinds <= _FIXED and not isinstance(module.forward, _DocumentFrequencies):
            module.forward = _DocumentFrequencies(module, module.forward)


class _DocumentFrequencies:
    """The forward pass of a rotary embedding, called once for each document of a packed sequence."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.module, self.forward = module, forward

    def __call__(self, x: Tensor, position_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Return what ``forward`` returns: tensors (..., T, D), where ``position_ids`` is (..., T)."""
        if position_ids is None:
            return self.forward(x, position_ids, *args, **kwargs)
        parts = []
        for positions in torch.split(position_ids, _document_lengths(position_ids), -1):
            self._reset()
            parts.append(self.forward(x, positions, *args, **kwargs))
        if len(parts) == 1:
            return parts[0]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts, -2)
        return tuple(torch.cat(tensors, -2) for tensors in zip(*parts, strict=True))

    def _reset(self) -> None:
        """Forget the lengths of earlier documents, which ``dynamic`` frequencies grow with."""
        module = self.module
        for name in [name for name in (*module._buffers, *vars(module)) if name.endswith(_ORIGINAL)]:
            prefix = name.removesuffix(_ORIGINAL)
            cached = f"{prefix}max_seq_len_cached"
            if int(getattr(module, cached, 0)) > int(module.original_max_seq_len):  # type: ignore[arg-type]  # an int
                frequencies = getattr(module, name).to(getattr(module, f"{prefix}inv_freq").device)
                module.register_buffer(f"{prefix}inv_freq", frequencies.clone(), persistent=False)
                setattr(module, cached, module.original_max_seq_len)


def _document_lengths(position_ids: Tensor) -> list[int]:
    """Return the lengths of packed documents, each of which begins at position 0.

    Several rows are a padded batch, as in generation, and have one length.
    """
    positions = position_ids.reshape(-1, position_ids.shape[-1])
    if len(positions) > 1 and not bool((positions == positions[:1]).all()):
        return [positions.shape[1]]
    starts = [0, *(index for index in (positions[0] == 0).nonzero()[:, 0].tolist() if index)]
    return [end - start for start, end in zip(starts, [*starts[1:], positions.shape[1]], strict=True)]


def yarn_attention(factor: float) -> float:
    """Return the scale of queries and keys for positions stretched by ``factor`` (Peng et al. 2023, arXiv:2309.00071).

    llama.cpp multiplies by it, and transformers uses it unless the configuration has another.
    """
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def rope_divisors(config: Any) -> Tensor:
    """Return (head size / 2,) float32 divisors of the frequencies of a model with ``rope_type`` llama3."""
    rope, size = config.rope_parameters, config.head_dim
    exponents = torch.arange(0, size, 2, dtype=torch.float32)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    divisors: Tensor = rope["rope_theta"] ** (-exponents / size) / scaled
    return divisors


def read_rope_parameters(path: Path) -> dict[str, Any]:
    """Return the ``rope_parameters`` whose divisors a GGUF file contains.

    All Llama models since 3.1 share the same limits and differ in their factor, which is the largest divisor.

    Raises:
        UsageError: The divisors differ from Llama 3's.
    """
    from gguf import GGUFReader

    reader: Any = GGUFReader(path)
    divisors = torch.tensor(next(tensor for tensor in reader.tensors if tensor.name == ROPE_TENSOR).data.copy())
    base = reader.fields.get("llama.rope.freq_base")
    rope = {
        "rope_type": "llama3", "rope_theta": float(base.contents()) if base else 10_000.0,
        "factor": round(float(divisors.max()), 3), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(head_dim=2 * len(divisors), max_position_embeddings=131_072, rope_parameters=dict(rope))
    if not torch.allclose(divisors, rope_divisors(config), rtol=1e-3):
        raise UsageError(
            f"{path}: its rotary positions are scaled otherwise than in Llama 3; give the model as a folder of "
            "transformers"
        )
    return rope

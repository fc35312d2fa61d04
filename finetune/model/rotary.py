"""Scaled rotary position embeddings: Llama 3's, which GGUF files hold as a tensor of divisors, and YaRN's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from selfinstruct.errors import UsageError

__all__ = ["ROPE_TENSOR", "read_rope_parameters", "rope_divisors", "yarn_attention"]

ROPE_TENSOR = "rope_freqs.weight"


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

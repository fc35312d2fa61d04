"""Llama 3's scaled rotary positions: a GGUF file holds them as a tensor of divisors, and does not say of what kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from selfinstruct.errors import UsageError

__all__ = ["SCALES", "read_scales", "scales"]

SCALES = "rope_freqs.weight"


def scales(config: Any) -> Tensor:
    """(head / 2,) float32: what each frequency of a model with ``rope_type`` llama3 is divided by."""
    rope, size = config.rope_parameters, config.head_dim
    half = torch.arange(0, size, 2, dtype=torch.float32)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    divisors: Tensor = rope["rope_theta"] ** (-half / size) / scaled
    return divisors


def read_scales(path: Path) -> dict[str, Any]:
    """``rope_parameters`` of the configuration whose divisors are those in a GGUF file.

    All Llamas from 3.1 on have the same limits and a factor of their own, which is the largest divisor.

    Raises:
        UsageError: They are not of that kind.
    """
    from gguf import GGUFReader

    reader: Any = GGUFReader(path)
    found = torch.tensor(next(one for one in reader.tensors if one.name == SCALES).data.copy())
    base = reader.fields.get("llama.rope.freq_base")
    rope = {
        "rope_type": "llama3", "rope_theta": float(base.contents()) if base else 10_000.0,
        "factor": round(float(found.max()), 3), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    expected = scales(LlamaConfig(head_dim=2 * len(found), max_position_embeddings=131_072, rope_parameters=dict(rope)))
    if not torch.allclose(found, expected, rtol=1e-3):
        raise UsageError(
            f"{path}: its rotary positions are scaled, and not as those of Llama 3; give the model as a folder of "
            "transformers"
        )
    return rope

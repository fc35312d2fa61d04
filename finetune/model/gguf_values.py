"""Values in the metadata of GGUF files that transformers ignores: rotary scaling, soft caps, the scale of queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune.model.rotary import ROPE_TENSOR, read_rope_parameters, yarn_attention
from selfinstruct.errors import UsageError

__all__ = ["ROPE_ARCHITECTURES", "read_values"]

ROPE_ARCHITECTURES = ("gemma", "gemma2", "gemma3", "llama", "olmo2", "phi3", "qwen2", "qwen3")
"""Architectures of GGUF files whose values are read here."""

_LOCAL_BASE = 10_000.0  # of the layers of a Gemma 3 with a sliding window
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}  # llama.cpp scales the queries of these otherwise


def read_values(path: Path, architecture: str) -> dict[str, Any]:
    """Return configuration values of transformers for a GGUF file.

    Raises:
        UsageError: The rotary positions are scaled in an unknown way.
    """
    from gguf import GGUFReader

    reader: Any = GGUFReader(path)

    def value(key: str, default: Any = None) -> Any:
        field = reader.fields.get(f"{architecture}.{key}")
        return default if field is None else field.contents()

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if ROPE_TENSOR in tensors:
        return {"rope_parameters": read_rope_parameters(path)}
    values: dict[str, Any] = {}
    rope = _rope(path, value, tensors)
    if architecture == "gemma3":
        local = {"rope_type": "default", "rope_theta": value("rope.freq_base_swa", _LOCAL_BASE)}
        rope = {"full_attention": rope, "sliding_attention": local}
    values["rope_parameters"] = rope
    if architecture == "phi3":
        values["original_max_position_embeddings"] = value("rope.scaling.original_context_length", 4096)
    if architecture in _LAYERS_OF_27B:
        heads, size = value("attention.head_count"), value("attention.key_length")
        is_27b = value("block_count") == _LAYERS_OF_27B[architecture]
        values["query_pre_attn_scalar"] = value("embedding_length") // heads if is_27b else size
    if architecture == "gemma2":
        values["attn_logit_softcapping"] = value("attn_logit_softcapping", 50.0)
        values["final_logit_softcapping"] = value("final_logit_softcapping", 30.0)
    return values


def _rope(path: Path, value: Callable[..., Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the rotary positions.

    Args:
        value: Returns the value of a key of the architecture, or the given default.
        tensors: The tensors of the file by name.
    """
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": value("rope.freq_base", 10_000.0)}
    width = value("attention.key_length") or value("embedding_length") // value("attention.head_count")
    if (rotated := value("rope.dimension_count", width)) != width:
        rope["partial_rotary_factor"] = rotated / width
    kind, original = value("rope.scaling.type", "none"), value("rope.scaling.original_context_length")
    if "rope_factors_long.weight" in tensors:
        factors = {f"{name}_factor": tensors[f"rope_factors_{name}.weight"].data.tolist() for name in ("long", "short")}
        rope |= {"rope_type": "longrope", **factors, "original_max_position_embeddings": original}
        rope["attention_factor"] = value("rope.scaling.attn_factor", 1.0)
    elif kind == "linear":
        rope |= {"rope_type": "linear", "factor": value("rope.scaling.factor", 1.0)}
    elif kind == "yarn":
        factor = value("rope.scaling.factor", 1.0)
        rope |= {
            "rope_type": "yarn", "factor": factor,
            "original_max_position_embeddings": original or value("context_length"),
            "attention_factor": value("rope.scaling.yarn_attn_factor", 1.0) * yarn_attention(factor),
            "beta_fast": value("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": value("rope.scaling.yarn_beta_slow", 1.0),
        }  # fmt: skip
    elif kind != "none":
        raise UsageError(
            f"{path}: rotary positions of type {kind!r}, which is unknown here; give the model as a folder of "
            "transformers"
        )
    return rope

"""Tiny random models of each architecture that can be written as GGUF."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

__all__ = ["ARCHITECTURES", "tiny"]

_SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "bos_token_id": None,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_LONG, _SHORT = [2.0, 3.0, 4.0, 5.0], [1.0, 1.1, 1.2, 1.3]
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 128,
}  # fmt: skip
_LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
_LOCAL = {"rope_type": "default", "rope_theta": 10_000.0}
_GEMMA3: dict[str, Any] = {
    "num_hidden_layers": 7, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 8,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": _LOCAL,
    },
}  # fmt: skip
_GEMMA2 = {"num_hidden_layers": 3, "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 8}

# Type of the model and what differs from the shape above, by what is special about it.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("gemma", {"head_dim": 12}),
    "gemma2": ("gemma2", _GEMMA2),
    "gemma2, low caps": ("gemma2", {**_GEMMA2, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", _GEMMA3),
    "gemma3, stretched": (
        "gemma3_text",
        {**_GEMMA3, "rope_parameters": {"full_attention": _LINEAR, "sliding_attention": _LOCAL}},
    ),
    "gemma3, untied": ("gemma3_text", {**_GEMMA3, "tie_word_embeddings": False}),
    "llama, yarn": ("llama", {"rope_parameters": _YARN}),
    "llama, linear": ("llama", {"rope_parameters": _LINEAR}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, wide": ("mistral", {"sliding_window": None, "head_dim": 12}),
    "mistral, llama3": ("mistral", {"sliding_window": None, "rope_parameters": _LLAMA3, "head_dim": 8}),
    "olmo2": ("olmo2", {}),
    "olmo2, tied": ("olmo2", {"tie_word_embeddings": True}),
    "olmo2, yarn": ("olmo2", {"rope_parameters": _YARN}),
    "phi3": ("phi3", {}),
    "phi3, tied": ("phi3", {"tie_word_embeddings": True}),
    "phi3, partly rotated": ("phi3", {"rope_parameters": {**_LOCAL, "partial_rotary_factor": 0.5}}),
    "phi3, longrope": (
        "phi3",
        {
            "original_max_position_embeddings": 192,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 500.0,
                "long_factor": _LONG,
                "short_factor": _SHORT,
                "original_max_position_embeddings": 192,
            },
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": _YARN}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3, tied": ("qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
    "qwen3, yarn": ("qwen3", {"head_dim": 16, "rope_parameters": _YARN}),
}


def tiny(what: str, vocabulary: int, **options: Any) -> Any:
    """Return a random model, its vectors (biases and norms) too.

    Args:
        what: A key of ``ARCHITECTURES``, or a type of model.
        options: Further values of its configuration.
    """
    kind, special = ARCHITECTURES.get(what, (what, {}))
    config = AutoConfig.for_model(kind, **{**_SHAPE, "vocab_size": vocabulary, **special, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model

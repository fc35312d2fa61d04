"""The architectures that can be written as GGUF: what the graphs of llama.cpp compute, and which models they fit.

A model that llama.cpp would compute differently is refused, because nothing would report it later. Sources: the graphs
in ``src/models`` of llama.cpp, and the modeling files of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from finetune.model.rotary import yarn_attention
from selfinstruct.errors import UsageError

__all__ = ["Architecture", "check_architecture", "head_size", "rope_of", "write_shape"]

_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_EVERYWHERE = (*_ATTENTION, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_GEMMA_27B = {"gemma2": 46, "gemma3_text": 62}  # layers, by which llama.cpp recognises the model
_GEMMA3_LOCAL_BASE = 10_000.0


@dataclass(frozen=True)
class Architecture:
    """What one graph of llama.cpp computes.

    Attributes:
        graph: Its name in ``gguf.MODEL_ARCH``.
        rope: Types of rotary positions that it computes.
        activation: The activation function, by the name of transformers.
        biases: Modules of a layer that may have a bias.
        interleaved: Whether neighbouring elements of a head are rotated as a pair, and not its two halves as in
            transformers.
        norm_offset: What the graph expects to be added to the weights of norms.
        head_given: Whether the file must have a head even if it equals the embeddings; None if it can't have one.
        square: Whether the queries of all heads together must be as wide as the hidden states.
        period: Every ``period``-th layer sees everything, the others a sliding window; 0 if the graph has no windows.
        partial: Whether a part of each head can stay unrotated.
    """

    graph: str
    rope: tuple[str, ...] = ("default", "linear", "yarn")
    activation: str = "silu"
    biases: tuple[str, ...] = ()
    interleaved: bool = False
    norm_offset: float = 0.0
    head_given: bool | None = False
    square: bool = False
    period: int = 0
    partial: bool = False


_LLAMA = Architecture("LLAMA", ("default", "linear", "yarn", "llama3"), biases=_EVERYWHERE, interleaved=True)
_GEMMA = Architecture("GEMMA", ("default", "linear"), activation="gelu_pytorch_tanh", norm_offset=1.0, head_given=None)
_ARCHITECTURES = {
    "gemma": _GEMMA,
    "gemma2": replace(_GEMMA, graph="GEMMA2", period=2),
    "gemma3_text": replace(_GEMMA, graph="GEMMA3", period=6, head_given=False),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo2": Architecture("OLMO2", head_given=True, square=True),
    "phi3": Architecture("PHI3", ("default", "longrope"), square=True, partial=True),
    "qwen2": Architecture("QWEN2", biases=_ATTENTION, square=True),
    "qwen3": Architecture("QWEN3"),
}


def check_architecture(config: Any, name: str) -> Architecture:
    """Return the architecture of a model, after checking that the graph computes what its configuration says.

    Args:
        config: A configuration of transformers.
        name: The model, for messages.

    Raises:
        UsageError: llama.cpp has no graph here for the model, or computes it differently.
    """
    architecture = _ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise UsageError(
            f"{name}: a model of type {config.model_type!r} can't be written as GGUF; supported: "
            f"{', '.join(_ARCHITECTURES)}. For others, export --format hf and use the converter of llama.cpp"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(f"{name}: its weights are quantised; only a model with plain weights can be written as GGUF")
    for reason in (_activation, _rotation, _heads, _windows, _gemma):
        if (difference := reason(config, architecture)) is not None:
            raise UsageError(f"{name}: {difference} can't be written as GGUF")
    return architecture


def _activation(config: Any, architecture: Architecture) -> str | None:
    # A Gemma 1 may have both, and is computed with hidden_act.
    given = None if config.model_type == "gemma" else getattr(config, "hidden_activation", None)
    given = given or config.hidden_act
    if {"swish": "silu"}.get(given, given) != architecture.activation:
        return f"the activation {given!r} where llama.cpp computes with {architecture.activation}"
    return None


def _rotation(config: Any, architecture: Architecture) -> str | None:
    rope = rope_of(config)
    if rope["rope_type"] not in architecture.rope:
        return f"rotary positions of type {rope['rope_type']!r}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0 and not architecture.partial:
        return "heads that are rotated in part"
    if rope["rope_type"] == "yarn":
        # llama.cpp has keys for these, and whether it reads them depends on the program around it.
        usual = {"beta_fast": 32, "beta_slow": 1, "attention_factor": yarn_attention(rope["factor"]), "truncate": True}
        for key in (*usual, "mscale", "mscale_all_dim"):
            if (value := rope.get(key)) is not None and not math.isclose(value, usual.get(key, math.nan)):
                return f"rotary positions with {key} {value:g}"
    return None


def _heads(config: Any, architecture: Architecture) -> str | None:
    if architecture.square and head_size(config) * config.num_attention_heads != config.hidden_size:
        return f"heads of {head_size(config)} that don't make up the width of {config.hidden_size}"
    return None


def _windows(config: Any, architecture: Architecture) -> str | None:
    types = getattr(config, "layer_types", None) or []
    if unknown := set(types) - {"full_attention", "sliding_attention"}:
        return f"layers of type {', '.join(sorted(unknown))}"
    period = architecture.period
    if period and types != ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(len(types))]:
        return f"layers with sliding windows in another order than one full layer of {period}"
    return None


def _gemma(config: Any, architecture: Architecture) -> str | None:
    """Return what llama.cpp takes for granted in a Gemma, and this model has differently."""
    if getattr(config, "use_bidirectional_attention", False):
        return "attention in both directions"
    scalar, layers = getattr(config, "query_pre_attn_scalar", None), _GEMMA_27B.get(config.model_type)
    if layers is not None:
        is_27b = config.num_hidden_layers == layers
        expected = config.hidden_size // config.num_attention_heads if is_27b else head_size(config)
        if scalar != expected:
            return f"query_pre_attn_scalar {scalar:g} where llama.cpp computes with {expected}"
    caps = [getattr(config, f"{part}_logit_softcapping", None) for part in ("attn", "final")]
    if architecture.graph == "GEMMA2" and not all(caps):
        return "a Gemma 2 without soft caps"
    if architecture.graph == "GEMMA3":
        if any(caps):
            return "a Gemma 3 with soft caps"
        local = config.rope_parameters["sliding_attention"]
        if (local["rope_type"], local["rope_theta"]) != ("default", _GEMMA3_LOCAL_BASE):
            return f"rotary positions of sliding windows other than with a base of {_GEMMA3_LOCAL_BASE:g}"
    return None


def rope_of(config: Any) -> dict[str, Any]:
    """Return the parameters of the rotary positions (of the layers that see everything, if they differ)."""
    parameters = config.rope_parameters or {}
    return {"rope_type": "default", "rope_theta": 10_000.0, **parameters.get("full_attention", parameters)}


def head_size(config: Any) -> int:
    """Return the number of elements of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def write_shape(writer: Any, config: Any, architecture: Architecture, notify: Callable[[str], None]) -> None:
    """Write the metadata that llama.cpp builds the graph from.

    Args:
        writer: A ``gguf.GGUFWriter``.
        notify: Called with a line if the context is shorter than the model's.
    """
    size = head_size(config)
    writer.add_context_length(_context(config, architecture, notify))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if architecture.period:
        writer.add_sliding_window(config.sliding_window)
    if architecture.graph == "GEMMA2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    _write_rope(writer, config, size)


def _context(config: Any, architecture: Architecture, notify: Callable[[str], None]) -> int:
    """Return the context length within which llama.cpp computes what transformers computes.

    Within a sliding window that the graph lacks, attention is the same without it. With longrope, transformers has
    other frequencies for a long text, and llama.cpp for a large context: the file has the frequencies of short texts.
    """
    positions, rope, types = int(config.max_position_embeddings), rope_of(config), getattr(config, "layer_types", None)
    limits = [(positions, "")]
    window = getattr(config, "sliding_window", None)
    if window is not None and not architecture.period and (types is None or "sliding_attention" in types):
        limits.append((int(window), "it computes no sliding windows"))
    if rope["rope_type"] == "longrope":
        limits.append((int(rope["original_max_position_embeddings"]), "it has one set of longrope factors at a time"))
    limit, reason = min(limits)
    if limit < positions:
        notify(f"the file has a context of {limit} tokens instead of {positions}: in llama.cpp, {reason}")
    return limit


def _write_rope(writer: Any, config: Any, size: int) -> None:
    from gguf import RopeScalingType

    rope = rope_of(config)
    writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if rope["rope_type"] == "yarn":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        stretch = config.max_position_embeddings / original
        default = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(rope.get("attention_factor") or default))

"""What a run costs: memory, predicted, and arithmetic, as a share of what the GPU could do."""

from __future__ import annotations

from typing import Any

__all__ = ["flops_per_token", "memory", "mfu", "parameters"]

# Dense bfloat16 peak in FLOP/s, from the makers' data sheets, by a part of the device's name.
_PEAK = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12,
    "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


def parameters(config: Any) -> tuple[int, int]:
    """Parameters of a decoder with gated feed-forward layers, as Llama's: (in matrices of the layers, in the head).

    The head counts once, tied to the embedding or not; an embedding of its own, norms and biases are left out.
    """
    width, layers = config.hidden_size, config.num_hidden_layers
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or width // heads
    attention = 2 * width * heads * size + 2 * width * (getattr(config, "num_key_value_heads", None) or heads) * size
    return layers * (attention + 3 * width * config.intermediate_size), width * config.vocab_size


def flops_per_token(config: Any, length: float, *, supervised: float = 1.0, frozen: bool = False) -> float:
    """Floating-point operations of a training step for each token of a document.

    6 P + 6 V s + 6 L H t: P parameters in the layers' matrices, V in the head, which only the share s of supervised
    tokens goes through, L layers of attention H = heads * head size wide over documents of t tokens, causally (so that
    half of the t positions count, twice: scores and values). Forward is a third of it. With frozen weights (LoRA) no
    weight gradients are computed: 4 instead of 6 for P and V. Recomputed activations are not counted: they are no use.
    """
    layers, head = parameters(config)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * size * length
    return (4 if frozen else 6) * (layers + head * supervised) + attention


def mfu(tokens_per_second: float, flops: float, device: str) -> float | None:
    """Share of the peak of the GPU called ``device``; None where its peak is not known."""
    peak = next((value for name, value in _PEAK.items() if name in device), None)
    return None if peak is None else tokens_per_second * flops / peak


def memory(
    config: Any, *, tokens: int, bytes_each: int, trained: int | None = None, recompute: bool = False
) -> dict[str, int]:
    """Bytes of each part at the height of a training step, for a micro-batch of ``tokens`` tokens.

    Args:
        bytes_each: Of a weight and an activation: 2 for bfloat16, 4 for float32.
        trained: Parameters trained, if not all (LoRA; theirs are float32).
        recompute: Whether each layer keeps only its input.

    The activations of a layer are counted as what its backward pass reads: about 10 vectors of the model's width, 4 of
    the key and value's, and 4 of the feed-forward layer's for each token.
    """
    layers, head = parameters(config)
    count = layers + head * (1 if getattr(config, "tie_word_embeddings", False) else 2)
    width = config.hidden_size
    size = getattr(config, "head_dim", None) or width // config.num_attention_heads
    narrow = (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * size
    layer = tokens * bytes_each * (10 * width + 4 * narrow + 4 * config.intermediate_size)
    whole = (
        config.num_hidden_layers * (tokens * width * bytes_each) + layer
        if recompute
        else config.num_hidden_layers * layer
    )
    of_trained = bytes_each if trained is None else 4
    moved = count if trained is None else trained
    masters = 2 if of_trained == 2 else 0
    return {
        "weights": count * bytes_each + (0 if trained is None else trained * 4),
        "gradients": moved * of_trained,
        "optimizer": moved * (8 + masters),
        "activations": whole,
        "logits": min(256 << 20, tokens * config.vocab_size * bytes_each) * 2,
    }

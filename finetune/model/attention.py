"""Attention that isolates packed documents, plugged into the attention interface of transformers.

``sdpa`` makes one call per document: exact, fast on a CPU, and the reference. ``varlen`` is PyTorch's variable-length
flash attention (CUDA, bfloat16 or float16). ``eager`` calls the model's own eager attention once per document, with all
that it adds to plain attention: a soft cap, attention sinks. None of them builds a (T, T) mask.

The document boundaries travel through the model to its attention as the keyword argument ``packed``
(``finetune.data.batch.PackedSequences``). Without them the functions here refuse to guess; generation therefore runs
within ``original_attention``. transformers builds no mask for an implementation name that it doesn't know
(``masking_utils``), so that visibility is decided here alone, and a layer that asks for anything else (a custom mask,
in ``sdpa`` and ``varlen`` also a soft cap or sinks) is refused. ``finetune.training.isolate`` chooses among them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from finetune.data.batch import PackedSequences
from selfinstruct.errors import UsageError

__all__ = [
    "NO_PACKING", "original_attention", "packed_attention", "resolve_attention", "restore_attention",
    "use_packed_attention",
]  # fmt: skip

_PREFIX = "finetune_"
NO_PACKING = "train it one document at a time: --set packing=false"
_USE_SDPA = "use --set attention=sdpa"
# Keyword arguments by which layers change the result of their attention: some are the same for all tokens, so that a
# model's eager attention can take them for one document; others refer to the tokens of the whole call.
_TOKENWISE = ("position_bias", "indices", "block_indices")
_UNSUPPORTED = ("softcap", "s_aux", "sinks", *_TOKENWISE)
_ORIGINAL = "_finetune_original_attention"  # attribute of a switched model that holds its former implementation


def resolve_attention(name: str, device: torch.device | str, dtype: torch.dtype | None = None) -> str:
    """Resolve ``auto``: varlen on CUDA; sdpa elsewhere and in float32, which varlen does not support.

    Raises:
        UsageError: There is no such attention, or it does not run on ``device`` or in ``dtype``.
    """
    cuda = torch.device(device).type == "cuda"
    wide = dtype in (torch.float32, torch.float64)
    if name == "auto":
        return "varlen" if cuda and not wide else "sdpa"
    if name not in ("sdpa", "varlen"):
        raise UsageError(f"attention={name} is not available; use --set attention=auto, varlen (GPU) or sdpa")
    if name == "varlen" and not cuda:
        raise UsageError(f"attention=varlen needs a GPU: it has no backward pass on a CPU; {_USE_SDPA}")
    if name == "varlen" and wide:
        raise UsageError(f"attention=varlen computes in bfloat16 only, not {dtype}; {_USE_SDPA}, or dtype=bfloat16")
    return name


def use_packed_attention(model: Any, name: str) -> None:
    """Switch a model of transformers to ``sdpa``, ``varlen`` or ``eager`` attention over packed documents.

    Raises:
        UsageError: The model bypasses the attention interface.
    """
    function = {"sdpa": _sdpa, "eager": _eager}.get(name) or _varlen_attention()
    AttentionInterface.register(_PREFIX + name, function)
    if name == "sdpa":  # on a GPU, the kernels of cuDNN would be planned anew for each length of a document
        torch.backends.cuda.enable_cudnn_sdp(False)
    original = model.config._attn_implementation
    refusal = UsageError(
        f"packed documents can't be isolated in a model of type {model.config.model_type!r}: its attention does not "
        f"go through the interface of transformers; {NO_PACKING}"
    )
    with suppress(ValueError, AttributeError):
        model.set_attn_implementation(_PREFIX + name)
    if model.config._attn_implementation != _PREFIX + name:  # some models only log that they can't switch
        with suppress(ValueError, AttributeError):
            model.set_attn_implementation(original)  # parts of the model may have switched
        raise refusal
    if not str(original).startswith(_PREFIX):
        setattr(model, _ORIGINAL, original)


def packed_attention(model: Any) -> str:
    """Return the attention over packed documents that a model was switched to; empty for its own."""
    name = str(getattr(model.config, "_attn_implementation", ""))
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""


@contextmanager
def original_attention(model: Any) -> Iterator[None]:
    """Restore the model's original attention, as generation needs it, while the context is open."""
    if not packed_attention(model):
        yield
        return
    packed = model.config._attn_implementation
    restore_attention(model)
    try:
        yield
    finally:
        model.set_attn_implementation(packed)


def restore_attention(model: Any) -> None:
    """Switch a model back to the attention that it was loaded with."""
    if packed_attention(model):
        model.set_attn_implementation(getattr(model, _ORIGINAL, "sdpa"))


def _sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *,
    packed: PackedSequences | None = None, scaling: float | None = None, dropout: float = 0.0, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attend within each document.

    Args:
        query: (1, H, T, D).
        key, value: (1, KV heads, T, D).

    Returns:
        (1, T, H, D), and None for the attention weights.
    """
    packed = _check(module, packed, attention_mask, kwargs)
    window = _window(module, kwargs, packed)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # repeating once for all documents is 10% faster on a CPU than enable_gqa in each call
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    outputs = []
    lengths = list(packed.lengths)
    for q, k, v in zip(*(torch.split(tensor, lengths, 2) for tensor in (query, key, value)), strict=True):
        mask = _window_mask(q.shape[2], window, q.device) if window and q.shape[2] > window else None
        output = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, dropout_p=dropout
        )
        outputs.append(output.transpose(1, 2))  # (1, n, H, D)
    return torch.cat(outputs, 1), None


def _eager(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *,
    packed: PackedSequences | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attend within each document by the model's own eager attention; shapes as ``_sdpa``."""
    packed = _check(module, packed, attention_mask, kwargs, _TOKENWISE)
    window = _window(module, kwargs, packed)
    attend = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if attend is None:
        raise UsageError(f"{type(module).__name__} has no eager attention that can be called; {NO_PACKING}")
    outputs = []
    lengths = list(packed.lengths)
    for q, k, v in zip(*(torch.split(tensor, lengths, 2) for tensor in (query, key, value)), strict=True):
        visible = _window_mask(q.shape[2], window or q.shape[2], q.device)[None, None]  # (1, 1, n, n)
        mask = torch.zeros_like(visible, dtype=q.dtype).masked_fill_(~visible, torch.finfo(q.dtype).min)
        outputs.append(attend(module, q, k, v, mask, **kwargs)[0])  # (1, n, H, D)
    return torch.cat(outputs, 1), None


def _window_mask(tokens: int, window: int, device: torch.device) -> Tensor:
    """Return a (T, T) bool mask by which each token sees itself and the ``window - 1`` tokens before it."""
    distance = torch.arange(tokens, device=device)[:, None] - torch.arange(tokens, device=device)
    return (distance >= 0) & (distance < window)


@cache
def _varlen_attention() -> Callable[..., tuple[Tensor, None]]:
    """Return attention within each document by PyTorch's variable-length flash attention.

    What depends on the version of PyTorch is decided here, once: a compiled layer traces only operations on tensors.
    """
    from torch.nn.attention.varlen import varlen_attn

    # The kernels take fewer heads for keys and values than for queries. Since 2.12 the function asks for a flag.
    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *,
        packed: PackedSequences | None = None, scaling: float | None = None, dropout: float = 0.0, **kwargs: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """Shapes as ``_sdpa``."""
        # ``cu_seqlens`` is the only batch-dependent value that is read here, so one compiled layer serves all batches.
        packed = _check(module, packed, attention_mask, kwargs)
        if dropout:
            raise UsageError(f"variable-length attention has no dropout; {_USE_SDPA}")
        size = query.shape[3]
        if query.dtype not in (torch.bfloat16, torch.float16) or value.shape[3] != size or size > 256 or size % 8:
            raise UsageError(
                "variable-length attention takes bfloat16 heads of a multiple of 8 up to 256, as wide for keys as for "
                f"values, not {query.dtype} heads of {size} and {value.shape[3]}; {_USE_SDPA}"
            )
        window = _window(module, kwargs, packed) or 0
        q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))  # (T, H or KV heads, D)
        longest, boundaries = packed.max_seqlen, packed.cu_seqlens
        output = varlen_attn(
            q, k, v, boundaries, boundaries, longest, longest, scale=scaling, window_size=(window - 1, 0),
            **(grouped if len(k[0]) < len(q[0]) else {}),
        )  # fmt: skip
        assert isinstance(output, Tensor)
        return output[None], None

    return attend


def _check(
    module: Any, packed: PackedSequences | None, mask: Tensor | None, kwargs: dict[str, Any],
    not_implemented: tuple[str, ...] = _UNSUPPORTED,
) -> PackedSequences:  # fmt: skip
    """Return the document boundaries, or refuse a layer whose attention is not plain causal attention within them."""
    layer = type(module).__name__
    if packed is None:
        raise UsageError(
            f"{layer} was called without document boundaries: generate within "
            f"finetune.model.attention.original_attention; if this is training, {NO_PACKING}"
        )
    unsupported = [name for name in not_implemented if kwargs.get(name) is not None]
    unsupported += ["a custom mask"] if mask is not None else []
    if unsupported:
        raise UsageError(
            f"the attention of {layer} has {', '.join(unsupported)}, which packing would ignore; {NO_PACKING}"
        )
    if not getattr(module, "is_causal", True) or kwargs.get("is_causal") is False:
        raise UsageError(f"{layer} is not causal; only causal language models are trained")
    chunk = getattr(getattr(module, "config", None), "attention_chunk_size", None)
    if chunk and packed.max_seqlen > chunk:
        raise UsageError(f"{layer} attends in chunks of {chunk} tokens; {NO_PACKING}, or --set max_length={chunk}")
    return packed


def _window(module: Any, kwargs: dict[str, Any], packed: PackedSequences) -> int:
    """Return the sliding window in tokens, or 0 if no document is longer than it.

    A layer that names none may still have the one of its configuration, if that is the same for all layers.
    """
    config = getattr(module, "config", None)
    common = None if getattr(config, "layer_types", None) else getattr(config, "sliding_window", None)
    window = int(kwargs.get("sliding_window", getattr(module, "sliding_window", common)) or 0)
    return window if packed.max_seqlen > window else 0

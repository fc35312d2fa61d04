"""Attention that keeps packed documents apart, in three ways, behind the attention interface of transformers.

``sdpa`` makes one call for each document: exact, fast on a CPU, and the reference for the others. ``varlen`` is the
variable-length flash attention of PyTorch (CUDA, bfloat16 or float16). ``flex`` compiles a block mask. No way ever
builds a mask of T x T.

The document boundaries pass through the model to its attention as the keyword argument ``packed``
(``finetune.data.batch.Packed``).
A model that has been switched generates under ``unpacked`` only: without borders the functions here refuse to guess.
Under a name that transformers has no mask for, it makes none (``masking_utils``): what a layer may see is decided here
alone, and a layer that asks for anything else (a mask of its own, a soft cap, sinks) is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from finetune.data.batch import Packed
from selfinstruct.errors import UsageError

__all__ = ["block_mask", "choose", "install", "unpacked"]

_PREFIX = "finetune_"
_REMEDY = "train it one document at a time: --set packing=false"
_SDPA = "use --set attention=sdpa"
# What some layers hand to their attention that changes its result, and that no way here computes.
_BEYOND = ("softcap", "s_aux", "sinks", "position_bias", "indices", "block_indices")
_OWN = "_finetune_own_attention"  # attribute of a switched model: the implementation that it came with


def choose(name: str, device: torch.device | str, dtype: torch.dtype | None = None) -> str:
    """``auto`` resolved: varlen on CUDA, sdpa elsewhere and in float32, which varlen does not take.

    Raises:
        UsageError: The way asked for does not run on ``device``, or not in ``dtype``.
    """
    cuda = torch.device(device).type == "cuda"
    wide = dtype in (torch.float32, torch.float64)
    if name == "auto":
        return "varlen" if cuda and not wide else "sdpa"
    if name != "sdpa" and not cuda:
        raise UsageError(f"attention={name} needs a GPU: it has no backward pass on a CPU; {_SDPA}")
    if name == "varlen" and wide:
        raise UsageError(f"attention=varlen computes in bfloat16 only, not {dtype}; {_SDPA}, or dtype=bfloat16")
    return name


def install(model: Any, name: str) -> None:
    """Switch a model of transformers to ``sdpa``, ``varlen`` or ``flex`` over packed documents.

    Raises:
        UsageError: The model does not take its attention from the interface.
    """
    function = {"sdpa": _sdpa, "varlen": _varlen, "flex": _flex}[name]
    AttentionInterface.register(_PREFIX + name, function)
    own = model.config._attn_implementation
    refusal = UsageError(
        f"packed documents can't be kept apart in a model of type {model.config.model_type!r}: its attention does not "
        f"go through the interface of transformers; {_REMEDY}"
    )
    try:
        model.set_attn_implementation(_PREFIX + name)
    except (ValueError, AttributeError):
        raise refusal from None
    if model.config._attn_implementation != _PREFIX + name:  # some models only log that they can't
        raise refusal
    if not str(own).startswith(_PREFIX):
        setattr(model, _OWN, own)


@contextmanager
def unpacked(model: Any) -> Iterator[None]:
    """The attention that the model came with, for generation; the packed one is back afterwards."""
    before = model.config._attn_implementation
    if not str(before).startswith(_PREFIX):
        yield
        return
    model.set_attn_implementation(getattr(model, _OWN, "sdpa"))
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def block_mask(packed: Packed, tokens: int) -> Any:
    """The block mask of flex attention: causal, within documents; made on the device of ``packed.cu_seqlens``."""
    from torch.nn.attention.flex_attention import create_block_mask

    device = packed.cu_seqlens.device
    # Place t lies in the last document that begins at or before it.
    document = torch.searchsorted(packed.cu_seqlens, torch.arange(tokens, device=device, dtype=torch.int32), right=True)

    def within(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document[query] == document[key])

    return create_block_mask(within, None, None, tokens, tokens, device=str(device))


def _sdpa(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *,
    packed: Packed | None = None, scaling: float | None = None, dropout: float = 0.0, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """(1, heads, T, D), (1, kv heads, T, D) twice -> (1, T, heads, D)."""
    borders = _checked(module, packed, attention_mask, more)
    window = _window(module, more, borders)
    lengths = list(borders.lengths)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # repeated once for all documents: on a CPU 10% faster than grouped heads in each call
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    found = []
    for q, k, v in zip(*(torch.split(one, lengths, 2) for one in (query, key, value)), strict=True):
        narrow = _band(q.shape[2], window, q.device) if window and q.shape[2] > window else None
        one = scaled_dot_product_attention(
            q, k, v, attn_mask=narrow, is_causal=narrow is None, scale=scaling, dropout_p=dropout
        )
        found.append(one.transpose(1, 2))
    return torch.cat(found, 1), None


def _band(tokens: int, window: int, device: torch.device) -> Tensor:
    """(T, T) bool: each place sees itself and the ``window - 1`` before it."""
    distance = torch.arange(tokens, device=device)[:, None] - torch.arange(tokens, device=device)
    return (distance >= 0) & (distance < window)


def _varlen(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *,
    packed: Packed | None = None, scaling: float | None = None, dropout: float = 0.0, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    # Nothing that differs between batches is read but ``cu_seqlens``: a compiled layer serves them all.
    borders = _checked(module, packed, attention_mask, more)
    if dropout:
        raise UsageError(f"variable-length attention has no dropout; {_SDPA}")
    size = query.shape[3]
    if query.dtype not in (torch.bfloat16, torch.float16) or value.shape[3] != size or size > 256 or size % 8:
        raise UsageError(
            "variable-length attention takes bfloat16 heads of a multiple of 8 up to 256, as wide for keys as for "
            f"values, not {query.dtype} heads of {size} and {value.shape[3]}; {_SDPA}"
        )
    window = _window(module, more, borders)
    q, k, v = (one[0].transpose(0, 1).contiguous() for one in (query, key, value))  # (T, heads, D)
    return _varlen_call()(q, k, v, borders.cu_seqlens, borders.longest, scaling, (window or 0) - 1)[None], None


@cache
def _varlen_call() -> Callable[..., Tensor]:
    """PyTorch's function; where it does not take fewer heads for keys (before 2.12), they are repeated."""
    from torch.nn.attention.varlen import varlen_attn

    grouped = "enable_gqa" in inspect.signature(varlen_attn).parameters

    def call(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, longest: int, scale: float | None, left: int) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        if groups > 1 and not grouped:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        more: dict[str, Any] = {"enable_gqa": groups > 1} if grouped else {}
        found = varlen_attn(q, k, v, borders, borders, longest, longest, scale=scale, window_size=(left, 0), **more)
        assert isinstance(found, Tensor)
        return found

    return call


def _flex(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *,
    packed: Packed | None = None, scaling: float | None = None, dropout: float = 0.0, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    borders = _checked(module, packed, attention_mask, more)
    if dropout or _window(module, more, borders):
        raise UsageError(f"flex attention is not used with dropout or a sliding window; {_SDPA}")
    if borders.block_mask is None:
        # Batches of any shape, as when evaluating: not compiled, flex would hold T x T scores for each head.
        return _sdpa(module, query, key, value, packed=borders, scaling=scaling)
    groups = query.shape[1] > key.shape[1]
    found: Tensor = _flex_call(query.device.type)(
        query, key, value, block_mask=borders.block_mask, scale=scaling, enable_gqa=groups
    )
    return found.transpose(1, 2), None


@cache
def _flex_call(device: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    found: Any = flex_attention
    if device == "cuda":
        found = torch.compile(flex_attention, dynamic=False)
    call: Callable[..., Any] = found
    return call


def _checked(module: Any, packed: Packed | None, mask: Tensor | None, more: dict[str, Any]) -> Packed:
    kind = type(module).__name__
    if packed is None:
        raise UsageError(
            f"{kind} was called without the borders of packed documents: generate within "
            "finetune.model.attention.unpacked; "
            f"if this is training, {_REMEDY}"
        )
    beyond = [name for name in _BEYOND if more.get(name) is not None] + (
        ["a mask of its own"] if mask is not None else []
    )
    if beyond:
        raise UsageError(f"the attention of {kind} has {', '.join(beyond)}, which packing would leave out; {_REMEDY}")
    if not getattr(module, "is_causal", True) or more.get("is_causal") is False:
        raise UsageError(f"{kind} is not causal; only causal language models are trained")
    chunk = getattr(getattr(module, "config", None), "attention_chunk_size", None)
    if chunk and packed.longest > chunk:
        raise UsageError(f"{kind} attends in chunks of {chunk} tokens; {_REMEDY}, or --set max_length={chunk}")
    return packed


def _window(module: Any, more: dict[str, Any], packed: Packed) -> int:
    """The sliding window in tokens, or 0 where no document is longer than it."""
    window = int(more.get("sliding_window", getattr(module, "sliding_window", None)) or 0)
    return window if packed.longest > window else 0

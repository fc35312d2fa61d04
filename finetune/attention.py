"""Attention that keeps packed documents apart, in three ways, behind the attention interface of transformers.

``sdpa`` makes one call for each document: exact, fast on a CPU, and the reference for the others. ``varlen`` is the
variable-length flash attention of PyTorch (CUDA, bfloat16 or float16). ``flex`` compiles a block mask. No way ever
builds a mask of T x T.

The borders travel as the keyword argument ``packed`` (``finetune.batch.Packed``) through the model to its attention.
A model that has been switched generates under ``unpacked`` only: without borders the functions here refuse to guess.
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

from finetune.batch import Packed
from selfinstruct.errors import UsageError

__all__ = ["block_mask", "choose", "install", "unpacked"]

_PREFIX = "finetune_"
_REMEDY = "train it one document at a time: --set packing=false"


def choose(name: str, device: torch.device | str) -> str:
    """``auto`` resolved: varlen on CUDA, sdpa elsewhere.

    Raises:
        UsageError: The way asked for does not run on ``device``.
    """
    cuda = torch.device(device).type == "cuda"
    if name == "auto":
        return "varlen" if cuda else "sdpa"
    if name != "sdpa" and not cuda:
        raise UsageError(f"attention={name} needs a GPU: it has no backward pass on a CPU; use attention=sdpa")
    return name


def install(model: Any, name: str) -> None:
    """Switch a model of transformers to ``sdpa``, ``varlen`` or ``flex`` over packed documents.

    Raises:
        UsageError: The model does not take its attention from the interface.
    """
    function = {"sdpa": _sdpa, "varlen": _varlen, "flex": _flex}[name]
    AttentionInterface.register(_PREFIX + name, function)
    try:
        model.set_attn_implementation(_PREFIX + name)
    except (ValueError, AttributeError) as error:
        kind = model.config.model_type
        raise UsageError(f"the layers of {kind!r} can't keep packed documents apart ({error}); {_REMEDY}") from None


@contextmanager
def unpacked(model: Any) -> Iterator[None]:
    """The model's ordinary attention, for generation; the packed one is back afterwards."""
    before = model.config._attn_implementation
    if not str(before).startswith(_PREFIX):
        yield
        return
    model.set_attn_implementation("sdpa")
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
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, *, packed: Packed | None = None,
    scaling: float | None = None, dropout: float = 0.0, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """(1, heads, T, D), (1, kv heads, T, D) twice -> (1, T, heads, D)."""
    borders = _checked(module, packed, more)
    window = _window(more, borders)
    lengths = list(borders.lengths)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # repeated once for all documents, rather than in each call
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
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, *, packed: Packed | None = None,
    scaling: float | None = None, dropout: float = 0.0, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    borders = _checked(module, packed, more)
    if dropout:
        raise UsageError("variable-length attention has no dropout; use attention=sdpa")
    window = _window(more, borders)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    q, k, v = (one[0].transpose(0, 1) for one in (query, key, value))  # (T, heads, D)
    call = _varlen_call()
    return call(q, k, v, borders.cu_seqlens, borders.longest, scaling, (window or 0) - 1)[None], None


@cache
def _varlen_call() -> Callable[..., Tensor]:
    """PyTorch's function with the arguments of its release: older ones know ``is_causal``, newer ``window_size``."""
    from torch.nn.attention.varlen import varlen_attn

    windowed = "window_size" in inspect.signature(varlen_attn).parameters

    def call(q: Tensor, k: Tensor, v: Tensor, borders: Tensor, longest: int, scale: float | None, left: int) -> Tensor:
        how: dict[str, Any] = {"window_size": (left, 0)} if windowed else {"is_causal": True}
        found = varlen_attn(q, k, v, borders, borders, longest, longest, scale=scale, **how)
        assert isinstance(found, Tensor)
        return found

    return call


def _flex(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, *, packed: Packed | None = None,
    scaling: float | None = None, dropout: float = 0.0, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    borders = _checked(module, packed, more)
    if dropout or _window(more, borders):
        raise UsageError("flex attention is not used with dropout or a sliding window; use attention=sdpa")
    mask = borders.block_mask or block_mask(borders, query.shape[2])
    groups = query.shape[1] > key.shape[1]
    found: Tensor = _flex_call(query.device.type)(query, key, value, block_mask=mask, scale=scaling, enable_gqa=groups)
    return found.transpose(1, 2), None


@cache
def _flex_call(device: str) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    found: Any = flex_attention
    if device == "cuda":
        found = torch.compile(flex_attention, dynamic=False)
    call: Callable[..., Any] = found
    return call


def _checked(module: Any, packed: Packed | None, more: dict[str, Any]) -> Packed:
    if packed is None:
        raise UsageError("packed attention was called without borders; generate within finetune.attention.unpacked")
    kind = type(module).__name__
    if more.get("softcap") is not None or more.get("s_aux") is not None:
        raise UsageError(
            f"{kind} caps its attention scores or has attention sinks, which packing leaves out; {_REMEDY}"
        )
    if not getattr(module, "is_causal", True) or more.get("is_causal") is False:
        raise UsageError(f"{kind} is not causal; only causal language models are trained")
    return packed


def _window(more: dict[str, Any], packed: Packed) -> int:
    """The sliding window in tokens, or 0 where no document is longer than it."""
    window = int(more.get("sliding_window") or 0)
    return window if packed.longest > window else 0

"""Cross entropy of a linear head, without ever holding all logits.

The logits of a chunk of rows become loss and gradients before those of the next are computed, in the forward pass, as
in Liger (Hsu et al. 2024, arXiv:2410.10989) and Cut Cross-Entropy (Wijmans et al. 2024, arXiv:2411.09009): for a
vocabulary of 128,256 and 32,768 rows, float32 logits and their gradients would take 33 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["linear_cross_entropy", "token_losses"]

# Of logits at once. Each chunk's share of the weights' gradient, (V, H), is added to a float32 sum: with few rows to a
# chunk, these passes over the memory take longer than the matrix products.
_CHUNK_BYTES = 512 << 20


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: float | Tensor = 1.0,
    chunk: int | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """``scale * cross_entropy(hidden @ weight.T + bias, labels, reduction="sum")`` as a float32 scalar.

    Differentiable once, in ``hidden``, ``weight`` and ``bias``. Logits are computed in the weights' dtype and
    normalised in float32 (float64 stays float64). No rows at all give a loss and gradients of exactly zero. A label
    outside [0, V), -100 too, is an error of ``gather``: rows without a target have no place here.

    Args:
        hidden: (M, H).
        weight: (V, H), the output embedding.
        labels: (M,) int64, each in [0, V).
        chunk: Rows at a time; by default what makes 512 MB of logits.
        bias: (V,), or None.
    """
    rows = chunk or _rows(weight)
    return _LinearCrossEntropy.apply(hidden, weight, bias, labels, scale, rows)  # type: ignore[no-any-return,no-untyped-call]


@torch.no_grad()
def token_losses(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, chunk: int | None = None, bias: Tensor | None = None
) -> Tensor:
    """(M,) the cross entropy of each row, in float32 or wider; no gradients. Arguments as ``linear_cross_entropy``."""
    found = [_wide(hidden.new_zeros(0))]
    for part in _parts(len(hidden), chunk or _rows(weight)):
        logits = _wide(_logits(hidden[part], weight, bias))
        found.append(torch.logsumexp(logits, 1) - logits.gather(1, labels[part, None])[:, 0])
    return torch.cat(found)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, scale: float | Tensor, rows: int
    ) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        total = _wide(hidden.new_zeros(()))
        # As a tensor of the device (a copy from the host would wait for it): compiled code is not made for one number.
        scale = scale.to(total) if isinstance(scale, Tensor) else total.new_full((), scale)
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        parts = list(_parts(len(hidden), rows))
        # Sums over several chunks are kept in float32: in bfloat16, the small ones would be lost in the large.
        several = total.dtype if len(parts) > 1 else weight.dtype
        d_weight = torch.zeros_like(weight, dtype=several) if wants_weight else None
        d_bias = torch.zeros_like(bias, dtype=total.dtype) if bias is not None and ctx.needs_input_grad[2] else None
        for part in parts:
            logits = _logits(hidden[part], weight, bias)
            total += _differentiate(logits)(logits, labels[part], scale)
            if d_hidden is not None:
                torch.mm(logits, weight, out=d_hidden[part])
            if d_weight is not None:
                if d_weight.dtype == logits.dtype:
                    d_weight.addmm_(logits.T, hidden[part])
                else:
                    d_weight += logits.T @ hidden[part]
            if d_bias is not None:
                d_bias += logits.sum(0, dtype=d_bias.dtype)
        ctx.save_for_backward(  # given free as soon as they are used, where an attribute lives as long as the loss
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # Usually the upstream gradient is 1. Asking would make the host wait for the device, so that a GPU multiplies.
        gradients = ctx.saved_tensors
        if upstream.device.type != "cpu" or upstream.item() != 1:
            gradients = tuple(None if one is None else one * upstream.to(one.dtype) for one in gradients)
        return (*gradients, None, None, None)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)


def _into_gradient(logits: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Overwrite (C, V) logits by the gradient of ``scale`` times their summed cross entropy, which is returned."""
    places = labels[:, None]
    if logits.dtype in (torch.float32, torch.float64):  # as few passes over the memory as there can be
        logits -= logits.amax(1, keepdim=True)
        chosen = logits.gather(1, places)
        total = logits.exp_().sum(1, keepdim=True)
        loss = ((total.log() - chosen).sum()) * scale
        logits *= scale / total
        logits.scatter_add_(1, places, torch.zeros_like(chosen) - scale)
        return loss
    wide = logits.float()
    normal = torch.logsumexp(wide, 1, keepdim=True)
    loss = (normal - wide.gather(1, places)).sum() * scale
    gradient = torch.exp(wide - normal)
    column = torch.arange(logits.shape[1], device=logits.device)
    logits.copy_((gradient - (column == places).float()) * scale)
    return loss


def _differentiate(logits: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return _compiled() if logits.device.type == "cuda" else _into_gradient


@cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """On a GPU the passes over the logits are fused into two; the number of rows may change without compiling anew."""
    return torch.compile(_into_gradient, dynamic=True) if find_spec("triton") else _into_gradient


def _rows(weight: Tensor) -> int:
    return max(1, _CHUNK_BYTES // (weight.shape[0] * weight.element_size()))


def _parts(count: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()

"""Cross entropy and log-probabilities of a linear head that never materialises all logits.

In the forward pass, the logits of a chunk of rows become loss and gradients before the next chunk is computed, as in
Liger (Hsu et al. 2024, arXiv:2410.10989) and Cut Cross-Entropy (Wijmans et al. 2024, arXiv:2411.09009).
For a vocabulary of 128,256 and 32,768 rows, float32 logits and their gradients would take 33 GB.

The gradient of a log-probability depends on what is computed from it, which is known in the backward pass only. There
the logits of each chunk are computed again, unless they all fit in one chunk and were kept.

Shapes: M rows (supervised tokens), C rows of a chunk, V the vocabulary, H the hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["CHUNK_BYTES", "chunk_bytes", "chunk_rows", "linear_cross_entropy", "linear_log_probs", "token_losses"]

CHUNK_BYTES = 512 << 20
"""Bytes of the logits of a chunk; a GPU with much memory takes more (``chunk_bytes``).

The weight gradient of each chunk, (V, H), is added to a float32 sum: with few rows per chunk, these passes over memory
would take longer than the matrix products.
"""

_MOST_CHUNK_BYTES = 2 << 30
_ROWS_MULTIPLE = 256  # rows of a chunk, for the tiles of a GPU's matrix product


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: float | Tensor = 1.0,
    chunk: int | None = None,
    bias: Tensor | None = None,
    unscaled: bool = False,
) -> Tensor:
    """Return ``scale * cross_entropy(hidden @ weight.T + bias, labels, reduction="sum")`` as a float32 scalar.

    The result can be differentiated once, in ``hidden``, ``weight`` and ``bias``. Logits are computed in the dtype of
    the weight and normalised in float32 (float64 stays float64). Without rows, loss and gradients are exactly zero. A
    label outside [0, V), including -100, makes ``gather`` fail: the caller selects the supervised rows.

    Args:
        hidden: (M, H).
        weight: (V, H), the output embedding.
        labels: (M,) int64, each in [0, V).
        chunk: Maximum rows of a chunk; by default as many as make ``chunk_bytes`` of logits.
        bias: (V,), or None.
        unscaled: Whether the caller promises that the gradient of the result is 1, as it is in ``loss.backward()``. A
            GPU then saves a pass over the gradients; a CPU checks the promise.

    Raises:
        RuntimeError: In the backward pass on a CPU, if the promise is broken.
    """
    rows = chunk or chunk_rows(weight.shape[0], weight.element_size(), weight.device)
    return _LinearCrossEntropy.apply(hidden, weight, bias, labels, scale, rows, unscaled)  # type: ignore[no-any-return,no-untyped-call]


@torch.no_grad()
def token_losses(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, chunk: int | None = None, bias: Tensor | None = None
) -> Tensor:
    """Return (M,) the cross entropy of each row, in float32 or wider, without gradients.

    The arguments are the same as for ``linear_cross_entropy``.
    """
    return -linear_log_probs(hidden, weight, labels, chunk=chunk, bias=bias)


def linear_log_probs(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, chunk: int | None = None, bias: Tensor | None = None
) -> Tensor:
    """Return (M,) the log-probability of each label, in float32 or wider.

    It can be differentiated once. The arguments are the same as for ``linear_cross_entropy``.
    """
    rows = chunk or chunk_rows(weight.shape[0], weight.element_size())
    return _LinearLogProbs.apply(hidden, weight, bias, labels, rows)  # type: ignore[no-any-return,no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, scale: float | Tensor, rows: int,
        unscaled: bool,
    ) -> Tensor:  # fmt: skip
        ctx.unscaled = unscaled
        total = _widen(hidden.new_zeros(()))
        # A tensor on the device, so that compiled code is not specialised to one value; a transfer would synchronise.
        scale = scale.to(total) if isinstance(scale, Tensor) else total.new_full((), scale)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None  # (M, H)
        chunks = list(_chunks(len(hidden), rows))
        # Sums over several chunks are kept in float32: bfloat16 would lose small terms.
        sum_dtype = total.dtype if len(chunks) > 1 else weight.dtype
        d_weight = torch.zeros_like(weight, dtype=sum_dtype) if ctx.needs_input_grad[1] else None  # (V, H)
        d_bias = torch.zeros_like(bias, dtype=total.dtype) if bias is not None and ctx.needs_input_grad[2] else None
        for chunk in chunks:
            logits = _logits(hidden[chunk], weight, bias)  # (C, V), which becomes its own gradient
            total += _gradient_function(logits)(logits, labels[chunk], scale)
            if d_hidden is not None:
                torch.mm(logits, weight, out=d_hidden[chunk])
            if d_weight is not None:
                _add_product(d_weight, logits.T, hidden[chunk])
            if d_bias is not None:
                d_bias += logits.sum(0, dtype=d_bias.dtype)
            del logits  # otherwise it would live on while the next chunk is computed
        ctx.save_for_backward(  # saved tensors are freed after use, whereas an attribute lives as long as the loss
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # The upstream gradient is usually 1. On a GPU, reading it would synchronise, so there a promise has to do.
        gradients = ctx.saved_tensors
        one = upstream.item() == 1 if upstream.device.type == "cpu" else ctx.unscaled
        if ctx.unscaled and not one:
            raise RuntimeError("the loss was multiplied before backward(), although unscaled=True promised otherwise")
        if not one:
            gradients = tuple(None if grad is None else grad * upstream.to(grad.dtype) for grad in gradients)
        return (*gradients, None, None, None, None)


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, rows: int
    ) -> Tensor:  # fmt: skip
        log_probs = _widen(hidden.new_empty(len(hidden)))
        normalizers, kept = torch.empty_like(log_probs), None
        for chunk in _chunks(len(hidden), rows):
            logits = _logits(hidden[chunk], weight, bias)  # (C, V)
            wide = _widen(logits)
            normalizers[chunk] = torch.logsumexp(wide, 1)
            log_probs[chunk] = wide.gather(1, labels[chunk, None])[:, 0] - normalizers[chunk]
            kept = logits if len(hidden) <= rows else None
        ctx.save_for_backward(hidden, weight, bias, labels, normalizers, kept)
        ctx.rows = rows
        return log_probs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, normalizers, kept = ctx.saved_tensors
        chunks = list(_chunks(len(hidden), ctx.rows))
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None  # (M, H)
        sum_dtype = normalizers.dtype if len(chunks) > 1 else weight.dtype
        d_weight = torch.zeros_like(weight, dtype=sum_dtype) if ctx.needs_input_grad[1] else None  # (V, H)
        d_bias = torch.zeros_like(bias, dtype=normalizers.dtype) if ctx.needs_input_grad[2] else None
        for chunk in chunks:
            logits = _logits(hidden[chunk], weight, bias) if kept is None else kept
            gradient = _log_prob_gradient(logits, labels[chunk], normalizers[chunk], upstream[chunk])
            if d_hidden is not None:
                torch.mm(gradient, weight, out=d_hidden[chunk])
            if d_weight is not None:
                _add_product(d_weight, gradient.T, hidden[chunk])
            if d_bias is not None:
                d_bias += gradient.sum(0, dtype=d_bias.dtype)
        narrow = (None if sums is None else sums.to(weight.dtype) for sums in (d_weight, d_bias))
        return (d_hidden, *narrow, None, None)


def _log_prob_gradient(logits: Tensor, labels: Tensor, normalizers: Tensor, upstream: Tensor) -> Tensor:
    """Return (C, V) the gradient of ``upstream @ log_probs`` in the logits, which it may overwrite."""
    wide = _widen(logits).sub_(normalizers[:, None]).exp_().mul_(-upstream[:, None])
    return wide.scatter_add_(1, labels[:, None], upstream[:, None]).to(logits.dtype)


def _add_product(total: Tensor, first: Tensor, second: Tensor) -> None:
    """Add ``first @ second`` to ``total``, which may be wider."""
    if total.dtype == first.dtype:
        total.addmm_(first, second)
    else:
        total += first @ second


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)


def _replace_by_gradient(logits: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Overwrite (C, V) logits by the gradient of ``scale`` times their summed cross entropy, and return that loss."""
    columns = labels[:, None]  # (C, 1)
    if logits.dtype in (torch.float32, torch.float64):  # in place, with as few passes over memory as possible
        logits -= logits.amax(1, keepdim=True)
        target = logits.gather(1, columns)
        total = logits.exp_().sum(1, keepdim=True)
        loss = ((total.log() - target).sum()) * scale
        logits *= scale / total
        logits.scatter_add_(1, columns, torch.zeros_like(target) - scale)
        return loss
    wide = logits.float()
    normalizer = torch.logsumexp(wide, 1, keepdim=True)
    loss = (normalizer - wide.gather(1, columns)).sum() * scale
    gradient = torch.exp(wide - normalizer)
    vocabulary = torch.arange(logits.shape[1], device=logits.device)
    logits.copy_((gradient - (vocabulary == columns).float()) * scale)
    return loss


def _gradient_function(logits: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return _compiled() if logits.device.type == "cuda" else _replace_by_gradient


@cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the gradient function compiled for a GPU, which fuses the passes over the logits into two.

    The number of rows is dynamic, so that chunks of other sizes don't recompile it. Timing configurations at the first
    call would copy the logits, which the function overwrites.
    """
    if find_spec("triton") is None:
        return _replace_by_gradient
    return torch.compile(_replace_by_gradient, dynamic=True, options={"triton.autotune_pointwise": False})


def chunk_bytes(memory: int | None = None) -> int:
    """Return the bytes of a chunk's logits on a GPU with ``memory`` bytes, or on a CPU (None)."""
    return CHUNK_BYTES if memory is None else min(max(CHUNK_BYTES, memory // 64), _MOST_CHUNK_BYTES)


def chunk_rows(vocabulary: int, element_size: int, device: torch.device | None = None) -> int:
    """Return the maximum number of rows of a chunk, at least 1."""
    compiled = device is not None and device.type == "cuda" and find_spec("triton") is not None
    memory = torch.cuda.get_device_properties(device).total_memory if compiled else None
    return max(1, chunk_bytes(memory) // (vocabulary * element_size))


def _chunks(count: int, rows: int) -> Iterator[slice]:
    """Yield slices of at most ``rows`` rows that differ by at most 256 rows, in multiples of 256 where rows suffice.

    A last chunk of a few rows would cost another pass over the head's weight.
    """
    unit = _ROWS_MULTIPLE if rows >= _ROWS_MULTIPLE else 1
    units = -(-count // unit)
    chunks = -(-units // (rows // unit))
    bounds = [min(count, units * number // chunks * unit) for number in range(chunks + 1)] if chunks else []
    return (slice(start, end) for start, end in pairwise(bounds))


def _widen(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()

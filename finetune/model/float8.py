"""Linear layers whose matrix products are in 8-bit floating point, an opt-in that changes the numbers of a training.

Inputs and weights are rounded to E4M3 and gradients to E5M2, each tensor scaled by its largest value at that moment
(Micikevicius et al. 2022, arXiv:2209.05433). Products are summed in float32 and returned in the dtype of the input.
Weights, optimizer, attention, norms and the head keep their precision, and a pass without gradients (held-out losses,
sample answers) computes as the saved model will.

Shapes: T tokens, K inputs, N outputs of a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from selfinstruct.errors import UsageError

__all__ = ["Float8Linear", "check_float8", "use_float8"]

_MULTIPLE = 16  # of each dimension, for the kernels


def check_float8(device: torch.device, dtype: torch.dtype) -> None:
    """Check that ``device`` multiplies in 8 bits.

    Raises:
        UsageError: It doesn't, or the model is not in bfloat16.
    """
    if dtype != torch.bfloat16:
        raise UsageError("fp8=true needs a model in bfloat16: --set dtype=bfloat16")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise UsageError(
            f"fp8=true needs a GPU with 8-bit units (Ada, Hopper or newer), not {torch.cuda.get_device_name(device)}"
        )


def use_float8(layers: nn.Module) -> int:
    """Let the linear layers in ``layers`` multiply in 8 bits while training, and return their number.

    Adapters are left out: their matrices are too small to gain anything. So are layers whose dimensions are not
    multiples of 16.

    Raises:
        UsageError: There is no such layer.
    """
    count = 0
    for name, layer in layers.named_modules():
        if (
            type(layer) is nn.Linear
            and "lora_" not in name
            and not any(size % _MULTIPLE for size in layer.weight.shape)
        ):
            layer.__class__ = Float8Linear
            count += 1
    if not count:
        raise UsageError("fp8=true: the model has no linear layer whose dimensions are multiples of 16")
    return count


class Float8Linear(nn.Linear):
    """A linear layer with products in 8 bits where gradients are computed and T is a multiple of 16."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 the name in torch
        """Return (..., N) for an input of (..., K)."""
        rows = input.flatten(0, -2)  # (T, K)
        if not torch.is_grad_enabled() or len(rows) % _MULTIPLE:
            return functional.linear(input, self.weight, self.bias)
        output: Tensor = _Product.apply(rows, self.weight)  # type: ignore[no-untyped-call]  # as in torch
        output = output.view(*input.shape[:-1], -1)
        return output if self.bias is None else output + self.bias


class _Product(torch.autograd.Function):
    """``rows @ weight.T`` and its gradients, each operand rounded to 8 bits."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        a, a_scale = _round(rows, torch.float8_e4m3fn)
        b, b_scale = _round(weight, torch.float8_e4m3fn)
        ctx.save_for_backward(a, a_scale, weight)
        return torch._scaled_mm(a, b.T, a_scale, b_scale, out_dtype=rows.dtype, use_fast_accum=True)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, rows_scale, weight = ctx.saved_tensors
        gradient, scale = _round(upstream.contiguous(), torch.float8_e5m2)  # (T, N)
        d_rows = d_weight = None
        if ctx.needs_input_grad[0]:
            b, b_scale = _round(weight, torch.float8_e4m3fn)
            d_rows = torch._scaled_mm(gradient, _by_columns(b), scale, b_scale, out_dtype=upstream.dtype)
        if ctx.needs_input_grad[1]:
            transposed = gradient.T.contiguous()  # (N, T)
            d_weight = torch._scaled_mm(transposed, _by_columns(rows), scale, rows_scale, out_dtype=weight.dtype)
        return d_rows, d_weight


def _round(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return ``values`` in an 8-bit dtype, and the 0-d float32 factor by which they must be multiplied."""
    limit = torch.finfo(dtype).max
    scale = values.abs().amax().float().clamp(min=1e-12) / limit
    return (values.float() / scale).clamp(-limit, limit).to(dtype), scale


def _by_columns(matrix: Tensor) -> Tensor:
    """Return a matrix whose columns are contiguous, as the kernels want the second operand."""
    return matrix.T.contiguous().T

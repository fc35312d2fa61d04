"""AdamW over flat buffers of parameters, with exact float32 weights behind bfloat16 ones.

All trainable parameters of one dtype and weight decay become views of a single buffer, and so do their gradients:
zeroing, the norm and the update are one pass each, and a checkpoint is a handful of arrays. In a sharded model
(``finetune.training.distributed``), each parameter's shard has its own buffer.

A bfloat16 weight is the upper half of a float32 one, rounded to nearest; the difference fits in 16 bits. Keeping those
bits next to the weight is equivalent to float32 master weights, to the last bit, in half the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from finetune.options import TrainingOptions

__all__ = ["FlatAdamW", "join_float32", "split_float32"]

_ALIGNMENT = 64  # elements; each parameter begins at a multiple of 128 bytes, for vectorised loads

# Inductor would time two configurations of a kernel at its first call, and keep copies of the tensors that the kernel
# overwrites in pinned host memory while it does: for AdamW, weights and moments of the whole model.
_COMPILE_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"triton.autotune_pointwise": False}


def split_float32(exact: Tensor) -> tuple[Tensor, Tensor]:
    """Split float32 values into bfloat16 (rounded to nearest, ties away from zero) and the lost 16 bits (int16)."""
    bits = exact.view(torch.int32)
    upper = (bits + 0x8000) >> 16
    return upper.to(torch.int16).view(torch.bfloat16), (bits - (upper << 16)).to(torch.int16)


def join_float32(upper: Tensor, remainder: Tensor) -> Tensor:
    """Return the float32 values that ``split_float32`` split."""
    return ((upper.view(torch.int16).to(torch.int32) << 16) + remainder.to(torch.int32)).view(torch.float32)


def _adamw(
    weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, grad_scale: Tensor, finite: Tensor, rates: Tensor,
    decay: float, beta1: float, beta2: float, epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return weight and moments after a step of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2).

    Args:
        weight: Float32 weights.
        first, second: Moments.
        grad_scale: 0-d clipping factor of the gradient.
        finite: 0-d bool; where False, nothing changes.
        rates: (3,) learning rate, and the bias corrections of both moments.
    """
    scaled = gradient.float() * grad_scale
    new_first = torch.where(finite, first + (1 - beta1) * (scaled - first), first)
    new_second = torch.where(finite, second * beta2 + (1 - beta2) * scaled * scaled, second)
    root = (new_second / rates[2]).sqrt() + epsilon
    new_weight = weight * (1 - rates[0] * decay) - rates[0] / rates[1] * new_first / root
    return torch.where(finite, new_weight, weight), new_first, new_second


def _step_bfloat16(weight: Tensor, remainder: Tensor, first: Tensor, second: Tensor, *args: Tensor | float) -> None:
    gradient, *others = args
    exact = join_float32(weight, remainder)
    new_weight, new_first, new_second = _adamw(exact, gradient, first, second, *others)  # type: ignore[arg-type]
    upper, lower = split_float32(new_weight)
    weight.copy_(upper)
    remainder.copy_(lower)
    first.copy_(new_first)
    second.copy_(new_second)


def _step_float32(weight: Tensor, first: Tensor, second: Tensor, *args: Tensor | float) -> None:
    gradient, *others = args
    new_weight, new_first, new_second = _adamw(weight, gradient, first, second, *others)  # type: ignore[arg-type]
    weight.copy_(new_weight)
    first.copy_(new_first)
    second.copy_(new_second)


@dataclass
class _Group:
    """Parameters of one dtype and weight decay in flat buffers, or this process's shard of one parameter.

    Attributes:
        weight: (n,) weights.
        first, second: (n,) float32 moments.
        remainder: (n,) int16 low bits of bfloat16 weights; None for float32.
        decay: Weight decay.
        gradients: (n,) gradients; None for a shard, whose gradient is where FSDP puts it.
        parameter: The sharded parameter, for a shard.
    """

    weight: Tensor
    first: Tensor
    second: Tensor
    remainder: Tensor | None
    decay: float
    gradients: Tensor | None = None
    parameter: nn.Parameter | None = None

    @classmethod
    def flatten(cls, parameters: list[nn.Parameter], decay: float) -> _Group:
        """Move parameters and gradients into flat buffers, and make them views of these."""
        starts, size = [], 0
        for parameter in parameters:
            starts.append(size)
            size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        weight = torch.zeros(size, dtype=parameters[0].dtype, device=parameters[0].device)
        gradients = torch.zeros_like(weight)
        for start, parameter in zip(starts, parameters, strict=True):
            span = slice(start, start + parameter.numel())
            weight[span].copy_(parameter.data.reshape(-1))
            parameter.data = weight[span].view_as(parameter)
            parameter.grad = gradients[span].view_as(parameter)
        return cls(weight, *_moments(weight), decay, gradients=gradients)

    @classmethod
    def of_shard(cls, parameter: nn.Parameter, decay: float) -> _Group:
        """Wrap this process's shard of a parameter."""
        weight = _local_shard(parameter.detach())
        return cls(weight, *_moments(weight), decay, parameter=parameter)

    @property
    def gradient(self) -> Tensor:
        """(n,) the gradient of ``weight``."""
        if self.gradients is not None:
            return self.gradients
        assert self.parameter is not None
        gradient = self.parameter.grad
        return torch.zeros_like(self.weight) if gradient is None else _local_shard(gradient)

    def zero_grad(self) -> None:
        if self.gradients is not None:
            self.gradients.zero_()
        elif self.parameter is not None:
            self.parameter.grad = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from (("weight", self.weight), ("first", self.first), ("second", self.second))
        if self.remainder is not None:
            yield "rest", self.remainder


def _moments(weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return zero moments, and the remainder that bfloat16 weights need."""
    first, second = (torch.zeros_like(weight, dtype=torch.float32) for _ in range(2))
    return first, second, torch.zeros_like(weight, dtype=torch.int16) if weight.dtype == torch.bfloat16 else None


def _local_shard(tensor: Tensor) -> Tensor:
    """Return a flat view of this process's shard of a tensor."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local().view(-1)


class FlatAdamW:
    """AdamW over the trainable parameters of a model, in float32 or bfloat16.

    From construction on, the parameters and their ``.grad`` are views of flat buffers and must not be replaced.

    Args:
        parameters: Parameters of a model; frozen ones are skipped. Matrices have weight decay, vectors do not.
        all_reduce: Sums a tensor over the processes of a sharded model; the identity for a single process.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        options: TrainingOptions,
        all_reduce: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        by_kind: dict[tuple[torch.dtype, bool], list[nn.Parameter]] = {}
        decay = {True: options.weight_decay, False: 0.0}
        self.groups: list[_Group] = []
        for parameter in parameters:
            matrix = parameter.ndim >= 2
            if parameter.requires_grad and isinstance(parameter, DTensor):
                self.groups.append(_Group.of_shard(parameter, decay[matrix]))
            elif parameter.requires_grad:
                by_kind.setdefault((parameter.dtype, matrix), []).append(parameter)
        self._sharded = bool(self.groups)
        self.groups += [_Group.flatten(group, decay[matrix]) for (_, matrix), group in by_kind.items()]
        self._options = options
        self._all_reduce = all_reduce

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for group in self.groups:
            group.zero_grad()

    def grad_norm(self) -> Tensor:
        """Return the L2 norm of all gradients over all processes, 0-d float32."""
        norms = torch.stack([torch.linalg.vector_norm(group.gradient, dtype=torch.float32) for group in self.groups])
        if not self._sharded:
            norm: Tensor = torch.linalg.vector_norm(norms)
            return norm
        return self._all_reduce((norms**2).sum()).sqrt()

    def step(self, step: int, rate: float, grad_scale: Tensor, finite: Tensor) -> None:
        """Update the weights.

        Args:
            step: Number of this step, from 1.
            rate: Learning rate.
            grad_scale: 0-d clipping factor of the gradients.
            finite: 0-d bool; if False, neither weights nor moments change.
        """
        options = self._options
        device = self.groups[0].weight.device
        # From pinned memory, since the host would wait for a transfer from pageable memory.
        rates = torch.tensor(
            [rate, 1 - options.beta1**step, 1 - options.beta2**step],
            dtype=torch.float32,
            pin_memory=device.type == "cuda",
        ).to(device, non_blocking=True)
        for group in self.groups:
            if self._fused and group.remainder is None:
                self._step_fused(group, step, rate, grad_scale, finite)
                continue
            tensors = (group.first, group.second, group.gradient, grad_scale, finite, rates)
            numbers = (group.decay, options.beta1, options.beta2, options.epsilon)
            step_float32, step_bfloat16 = self._kernels
            if group.remainder is None:
                step_float32(group.weight, *tensors, *numbers)
            else:
                step_bfloat16(group.weight, group.remainder, *tensors, *numbers)

    @cached_property
    def _fused(self) -> bool:
        """Whether to use PyTorch's fused kernel: on a CPU it makes one pass where the code here would make ten."""
        return all(group.weight.device.type == "cpu" for group in self.groups)

    @cached_property
    def _kernels(self) -> tuple[Callable[..., None], Callable[..., None]]:
        """The step functions for float32 and bfloat16 weights, compiled on a GPU."""
        if any(group.weight.device.type == "cuda" for group in self.groups):
            return self._compile(_step_float32), self._compile(_step_bfloat16)
        return _step_float32, _step_bfloat16

    def _compile(self, function: Callable[..., None]) -> Callable[..., None]:
        # Flat buffers have few sizes; shards of parameters have many, hence dynamic shapes.
        return torch.compile(function, dynamic=self._sharded, options=_COMPILE_OPTIONS)

    def _step_fused(self, group: _Group, step: int, rate: float, grad_scale: Tensor, finite: Tensor) -> None:
        if not finite:  # reading a CPU tensor does not synchronise anything
            return
        options, gradient = self._options, group.gradient
        if grad_scale != 1:
            gradient.mul_(grad_scale)
        torch._fused_adamw_(  # the kernel of torch.optim.AdamW(fused=True), without its bookkeeping
            [group.weight], [gradient], [group.first], [group.second], [], [torch.tensor(float(step))],
            lr=rate, beta1=options.beta1, beta2=options.beta2, weight_decay=group.decay, eps=options.epsilon,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint (weights, moments, remainders), without copying them."""
        return {
            f"{number}.{name}": tensor for number, group in enumerate(self.groups) for name, tensor in group.tensors()
        }

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors of ``state`` that determine the weights, without copying them."""
        return {name: tensor for name, tensor in self.state().items() if name.endswith((".weight", ".rest"))}

    def restore_weights(self, state: dict[str, Tensor]) -> None:
        """Copy the tensors of ``weights`` into the buffers; raises as ``restore``."""
        self.restore({**self.state(), **{name: state[name] for name in self.weights()}})

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Copy the tensors of a checkpoint into the buffers.

        Raises:
            KeyError, RuntimeError: The state is of another model.
        """
        for name, tensor in self.state().items():
            if state[name].shape != tensor.shape:  # copy_ would broadcast a smaller one
                raise RuntimeError(f"{name} has the shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(state[name])

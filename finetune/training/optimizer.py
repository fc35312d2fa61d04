"""AdamW over one flat buffer of parameters, with exact float32 weights behind bfloat16 ones.

All trainable parameters of a kind become views of one buffer, and so do their gradients: clearing, the norm and the
update are one pass each, and a checkpoint is a handful of arrays. Of a model that is spread over processes
(``finetune.training.distributed``), each parameter's part is a buffer of its own.

A bfloat16 weight is the upper half of a float32 one, rounded to nearest; the difference fits 16 bits. Keeping those
bits beside the weight is the same as keeping float32 master weights, to the last bit, in half the room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from finetune.options import Options

__all__ = ["FlatAdamW", "join", "split"]

_ALIGN = 64  # elements: each parameter begins at a multiple of 128 bytes, as vector loads like it


def split(exact: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 as its bfloat16 rounding (to nearest, ties away from zero) and the 16 bits that this lost (int16)."""
    bits = exact.view(torch.int32)
    upper = (bits + 0x8000) >> 16
    return upper.to(torch.int16).view(torch.bfloat16), (bits - (upper << 16)).to(torch.int16)


def join(upper: Tensor, rest: Tensor) -> Tensor:
    """The float32 that ``split`` took apart."""
    return ((upper.view(torch.int16).to(torch.int32) << 16) + rest.to(torch.int32)).view(torch.float32)


def _moved(
    exact: Tensor, gradient: Tensor, first: Tensor, second: Tensor, factor: Tensor, sound: Tensor, rates: Tensor,
    decay: float, beta1: float, beta2: float, epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2); where not ``sound``, nothing moves.

    Args:
        factor: 0-d; what clipping multiplies the gradient by.
        rates: (3,) learning rate, and the bias corrections of both moments.
    """
    scaled = gradient.float() * factor
    new_first = torch.where(sound, first + (1 - beta1) * (scaled - first), first)
    new_second = torch.where(sound, second * beta2 + (1 - beta2) * scaled * scaled, second)
    root = (new_second / rates[2]).sqrt() + epsilon
    moved = exact * (1 - rates[0] * decay) - rates[0] / rates[1] * new_first / root
    return torch.where(sound, moved, exact), new_first, new_second


def _step_bfloat16(weight: Tensor, rest: Tensor, first: Tensor, second: Tensor, *more: Tensor | float) -> None:
    gradient, *others = more
    exact, new_first, new_second = _moved(join(weight, rest), gradient, first, second, *others)  # type: ignore[arg-type]
    upper, lower = split(exact)
    weight.copy_(upper)
    rest.copy_(lower)
    first.copy_(new_first)
    second.copy_(new_second)


def _step_float32(weight: Tensor, first: Tensor, second: Tensor, *more: Tensor | float) -> None:
    gradient, *others = more
    exact, new_first, new_second = _moved(weight, gradient, first, second, *others)  # type: ignore[arg-type]
    weight.copy_(exact)
    first.copy_(new_first)
    second.copy_(new_second)


@dataclass
class _Group:
    """Parameters of one dtype and one decay, after each other in flat buffers; or this process's part of one."""

    weight: Tensor
    first: Tensor
    second: Tensor
    rest: Tensor | None
    decay: float
    whole: Tensor | None = None  # all gradients; of a part, they are where FSDP leaves them
    parameter: nn.Parameter | None = None  # whose part it is

    @classmethod
    def of(cls, parameters: list[nn.Parameter], decay: float) -> _Group:
        starts, size = [], 0
        for parameter in parameters:
            starts.append(size)
            size += -(-parameter.numel() // _ALIGN) * _ALIGN
        kind, device = parameters[0].dtype, parameters[0].device
        weight = torch.zeros(size, dtype=kind, device=device)
        gradient = torch.zeros_like(weight)
        for start, parameter in zip(starts, parameters, strict=True):
            part = slice(start, start + parameter.numel())
            weight[part].copy_(parameter.data.reshape(-1))
            parameter.data = weight[part].view_as(parameter)
            parameter.grad = gradient[part].view_as(parameter)
        return cls(weight, *_moments(weight), decay, whole=gradient)

    @classmethod
    def of_part(cls, parameter: nn.Parameter, decay: float) -> _Group:
        weight = _local(parameter.detach())
        return cls(weight, *_moments(weight), decay, parameter=parameter)

    @property
    def gradient(self) -> Tensor:
        if self.whole is not None:
            return self.whole
        assert self.parameter is not None
        found = self.parameter.grad
        return torch.zeros_like(self.weight) if found is None else _local(found)

    def clear(self) -> None:
        if self.whole is not None:
            self.whole.zero_()
        elif self.parameter is not None:
            self.parameter.grad = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from (("weight", self.weight), ("first", self.first), ("second", self.second))
        if self.rest is not None:
            yield "rest", self.rest


def _moments(weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    first, second = (torch.zeros_like(weight, dtype=torch.float32) for _ in range(2))
    return first, second, torch.zeros_like(weight, dtype=torch.int16) if weight.dtype == torch.bfloat16 else None


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, flat; a view."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local().view(-1)


class FlatAdamW:
    """AdamW over the parameters that want gradients, in float32 or bfloat16.

    From construction on, the parameters and their ``.grad`` are views of flat buffers: set neither anew.

    Args:
        parameters: Those of a model; the frozen ones are passed over. Matrices decay, vectors do not.
        total: Adds up a tensor over the processes that a model is spread over; the identity for one.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], options: Options, total: Callable[[Tensor], Tensor] = lambda one: one
    ) -> None:
        kinds: dict[tuple[torch.dtype, bool], list[nn.Parameter]] = {}
        decay = {True: options.weight_decay, False: 0.0}
        self.groups: list[_Group] = []
        for parameter in parameters:
            matrix = parameter.ndim >= 2
            if parameter.requires_grad and isinstance(parameter, DTensor):
                self.groups.append(_Group.of_part(parameter, decay[matrix]))
            elif parameter.requires_grad:
                kinds.setdefault((parameter.dtype, matrix), []).append(parameter)
        self._parts = bool(self.groups)
        self.groups += [_Group.of(found, decay[matrix]) for (_, matrix), found in kinds.items()]
        self._options = options
        self._total = total

    def clear(self) -> None:
        """Set all gradients to zero."""
        for group in self.groups:
            group.clear()

    def norm(self) -> Tensor:
        """0-d float32: the L2 norm of all gradients together, over all processes."""
        norms = torch.stack([torch.linalg.vector_norm(group.gradient, dtype=torch.float32) for group in self.groups])
        if not self._parts:
            whole: Tensor = torch.linalg.vector_norm(norms)
            return whole
        return self._total((norms**2).sum()).sqrt()

    def step(self, step: int, rate: float, factor: Tensor, sound: Tensor) -> None:
        """Move the weights.

        Args:
            step: Steps made so far, this one included (from 1).
            rate: Learning rate.
            factor: 0-d; gradients are multiplied by it.
            sound: 0-d bool; where False, neither weights nor moments change.
        """
        options = self._options
        values = [rate, 1 - options.beta1**step, 1 - options.beta2**step]
        for group in self.groups:
            if self._fused and group.rest is None:
                self._step_fused(group, step, rate, factor, sound)
                continue
            rates = torch.tensor(values, dtype=torch.float32).to(group.weight.device, non_blocking=True)
            moments = (group.first, group.second, group.gradient, factor, sound, rates)
            numbers = (group.decay, options.beta1, options.beta2, options.epsilon)
            if group.rest is None:
                self._kernels[0](group.weight, *moments, *numbers)
            else:
                self._kernels[1](group.weight, group.rest, *moments, *numbers)

    @cached_property
    def _fused(self) -> bool:
        """On a CPU, PyTorch's own kernel makes one pass where ours would make ten."""
        return all(group.weight.device.type == "cpu" for group in self.groups)

    @cached_property
    def _kernels(self) -> tuple[Callable[..., None], Callable[..., None]]:
        if any(group.weight.device.type == "cuda" for group in self.groups):
            # Flat buffers have few sizes, parts of parameters many.
            compiled = partial(torch.compile, dynamic=self._parts)
            return compiled(_step_float32), compiled(_step_bfloat16)
        return _step_float32, _step_bfloat16

    def _step_fused(self, group: _Group, step: int, rate: float, factor: Tensor, sound: Tensor) -> None:
        if not sound:  # on a CPU, asking costs nothing
            return
        options, gradient = self._options, group.gradient
        if factor != 1:
            gradient.mul_(factor)
        torch._fused_adamw_(  # the kernel below torch.optim.AdamW(fused=True), without its bookkeeping
            [group.weight], [gradient], [group.first], [group.second], [], [torch.tensor(float(step))],
            lr=rate, beta1=options.beta1, beta2=options.beta2, weight_decay=group.decay, eps=options.epsilon,
            amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: weights, moments and remainders; the tensors themselves, not copies."""
        return {
            f"{number}.{name}": tensor for number, group in enumerate(self.groups) for name, tensor in group.tensors()
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a checkpoint's ``state``.

        Raises:
            KeyError, RuntimeError: It is that of another model.
        """
        for name, tensor in self.state().items():
            if state[name].shape != tensor.shape:  # copy_ would spread a smaller one
                raise RuntimeError(f"{name} has the shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(state[name])

"""The arithmetic of an adapted linear layer in 16 bits.

peft converts the input of each adapter to the adapter's float32, and multiplies in float32: on a GPU outside of its
tensor cores. Here the small matrices are converted instead, as autocast does; their gradients and the optimizer's
steps stay float32. With float32 activations, the code of peft runs unchanged.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["compute_in_input_dtype"]


def compute_in_input_dtype(model: nn.Module) -> None:
    """Let the adapters of linear layers compute in the dtype of their inputs."""
    from peft.tuners.lora import Linear

    for layer in model.modules():
        if type(layer) is Linear and not layer.lora_variant:
            layer.__class__ = _adapted_linear()


@cache
def _adapted_linear() -> Any:
    from peft.tuners.lora import Linear

    class AdaptedLinear(Linear):  # type: ignore[misc]  # peft has no types
        """The layer of peft with another forward pass."""

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            names = [name for name in self.active_adapters if name in self.lora_A]
            usual = self.disable_adapters or self.merged or len(names) != 1 or args or kwargs
            if usual or self.lora_A[names[0]].weight.dtype == x.dtype:
                return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]  # as above
            (name,) = names
            base: Tensor = self.base_layer(x)  # (..., out)
            down, up = (matrix[name].weight.to(x.dtype) for matrix in (self.lora_A, self.lora_B))
            low_rank = functional.linear(self.lora_dropout[name](x), down)  # (..., rank)
            rows = torch.addmm(base.flatten(0, -2), low_rank.flatten(0, -2), up.T, alpha=self.scaling[name])
            return rows.view_as(base)

    return AdaptedLinear

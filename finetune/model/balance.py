"""The load-balancing loss of mixtures of experts, exact for any split of a step into micro-batches.

For a step with R rows (tokens times layers), of which c_e are routed to expert e, and router probabilities p::

    loss = coefficient * E * sum_e (c_e / R) * (sum_rows p_e / R)

as in Switch Transformer (Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6) and ``load_balancing_loss_func`` of
transformers. It is not a sum over micro-batches: the counts of the whole step, which have no gradient, are needed
before its first backward pass, and come from a separate forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.model.anatomy import text_config
from selfinstruct.errors import UsageError

__all__ = ["ExpertLoad", "LoadBalancing"]

_COEFFICIENT = ("router_aux_loss_coef", "aux_loss_coef")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "moe_k", "top_k", "moe_top_k")


@dataclass(frozen=True)
class LoadBalancing:
    """The load-balancing loss that a model's configuration asks for.

    Attributes:
        coefficient: Its factor in the loss of a step.
        experts: Number of experts, E.
        chosen: Number of experts that a token is routed to.
    """

    coefficient: float
    experts: int
    chosen: int

    @classmethod
    def of(cls, causal: Any) -> LoadBalancing | None:
        """Return the loss that transformers adds for this model by its configuration; None if it adds none.

        Raises:
            UsageError: The configuration asks for it and does not say how many experts there are.
        """
        config = text_config(causal.config)
        if not getattr(config, "output_router_logits", False):
            return None
        coefficient = _first(_COEFFICIENT, causal, config)
        if not coefficient:
            return None
        experts, chosen = _first(_EXPERTS, causal, config), _first(_CHOSEN, causal, config)
        if not (experts and chosen):
            raise UsageError(
                f"a model of type {causal.config.model_type!r} asks for a load-balancing loss, and its experts can't "
                "be counted; to train without it, set output_router_logits to false in its config.json"
            )
        return cls(float(coefficient), int(experts), int(chosen))

    def count(self, router_logits: Sequence[Tensor], tokens: int) -> Tensor:
        """Return (E + 1,) float64: routed tokens of each expert over all layers, and the number of rows.

        Args:
            router_logits: For each layer (T, E).
            tokens: Number of tokens before the padding.
        """
        counts = torch.zeros(self.experts + 1, dtype=torch.float64, device=router_logits[0].device)
        for probabilities in self._probabilities(router_logits, tokens):
            chosen = probabilities.topk(self.chosen, -1).indices.flatten()
            counts[:-1] += torch.bincount(chosen, minlength=self.experts)
            counts[-1] += len(probabilities)
        return counts

    def load(self, counts: Tensor, factor: float = 1.0) -> ExpertLoad:
        """Return the load of a step from the sum of the counts of its micro-batches.

        Args:
            factor: Multiplies the loss.
        """
        rows = counts[-1].clamp(min=1)
        weights = factor * self.coefficient * self.experts * counts[:-1] / rows**2
        return ExpertLoad(self, weights.float())

    def _probabilities(self, router_logits: Sequence[Tensor], tokens: int) -> list[Tensor]:
        """Return for each layer (tokens, E) float32 probabilities of the experts."""
        return [
            torch.softmax(logits.reshape(-1, logits.shape[-1])[:tokens], -1).float() for logits in router_logits
        ]  # fmt: skip


@dataclass(frozen=True)
class ExpertLoad:
    """How much the experts of a step are used.

    Attributes:
        balancing: The loss.
        weights: (E,) gradient of the loss with respect to the summed probability of each expert.
    """

    balancing: LoadBalancing
    weights: Tensor

    def share(self, router_logits: Sequence[Tensor], tokens: int) -> Tensor:
        """Return the share of a micro-batch in the loss of the step; arguments as in ``LoadBalancing.count``."""
        probabilities = self.balancing._probabilities(router_logits, tokens)
        return torch.stack([layer.sum(0) for layer in probabilities]).sum(0) @ self.weights


def _first(names: Sequence[str], *holders: Any) -> Any:
    """Return the first of the attributes that one of the objects has."""
    return next((getattr(holder, name) for holder in holders for name in names if getattr(holder, name, None)), None)

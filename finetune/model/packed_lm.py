"""The model as the loop sees it: a micro-batch in, the summed loss of its supervised tokens out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from finetune.data.batch import Batch
from finetune.model.loss import linear_cross_entropy, token_losses

__all__ = ["PackedCausalLM"]


class PackedCausalLM(nn.Module):
    """A causal language model of transformers, with or without adapters of peft around it.

    The head is applied to the rows that are predicted from and to nothing else, and the loss is taken chunk by chunk
    (``finetune.model.loss``). A model that does more to its logits than one matrix product (a soft cap, a scale) goes
    through its own head instead.

    Args:
        model: The model, switched to a packed attention (``finetune.model.attention.install``).
        own_head: Whether its logits are ``hidden @ lm_head.weight.T`` (``finetune.model.isolation.check_head``).
    """

    def __init__(self, model: Any, *, own_head: bool = True) -> None:
        super().__init__()
        self.model = model
        self.own_head = own_head

    @property
    def causal(self) -> Any:
        """The ``...ForCausalLM`` itself, without what peft puts around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def decoder(self) -> Any:
        """The layers below the head."""
        return getattr(self.causal, self.causal.base_model_prefix)

    @property
    def head(self) -> nn.Linear:
        """The output embedding: (vocabulary, hidden)."""
        return self.causal.get_output_embeddings()  # type: ignore[no-any-return]

    # Of a model that is spread over processes, what is called from outside gathers weights first
    # (``finetune.training.distributed``); it calls nothing else that does.

    def hidden(self, batch: Batch) -> Tensor:
        """(M, hidden): the last hidden states at the places that are predicted from."""
        return self._hidden(batch)

    def _hidden(self, batch: Batch) -> Tensor:
        states: Tensor = self.decoder(**_inputs(batch)).last_hidden_state
        return states[0].index_select(0, batch.predict)

    def logits(self, batch: Batch) -> Tensor:
        """(M, vocabulary) by the model's own head, in float32."""
        return self._logits(batch)

    def _logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.causal(**_inputs(batch)).logits
        return logits[0].index_select(0, batch.predict).float()

    def forward(self, batch: Batch, scale: float | Tensor) -> Tensor:
        """``scale`` times the sum of the cross entropies of the M supervised tokens, a float32 scalar."""
        if self.own_head:
            head = self.head
            return linear_cross_entropy(self._hidden(batch), head.weight, batch.labels, scale=scale, bias=head.bias)
        return functional.cross_entropy(self._logits(batch), batch.labels, reduction="sum") * scale

    @torch.no_grad()
    def token_losses(self, batch: Batch) -> Tensor:
        """(M,) float32: the cross entropy of each supervised token."""
        if self.own_head:
            return token_losses(self._hidden(batch), self.head.weight, batch.labels, bias=self.head.bias)
        return functional.cross_entropy(self._logits(batch), batch.labels, reduction="none")

    def generate(self, **options: Any) -> Tensor:
        """As ``generate`` of transformers; of several processes, each goes on until all have done."""
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        return self.model.generate(**options, synced_gpus=several)  # type: ignore[no-any-return]


def _inputs(batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch.ids[None],
        "position_ids": batch.positions[None],
        "use_cache": False,
        "packed": batch.packed,
    }

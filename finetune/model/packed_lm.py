"""The model in the shape that the training loop needs: a micro-batch in, the summed loss of its supervised tokens out.

Shapes: T tokens in a micro-batch, M supervised tokens, V the vocabulary, H the hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from finetune.data.batch import Batch
from finetune.model.loss import linear_cross_entropy, token_losses

__all__ = ["PackedCausalLM"]


class PackedCausalLM(nn.Module):
    """A causal language model of transformers, possibly wrapped in adapters of peft, over packed documents.

    The head is applied only to the positions that predict a supervised token, and the loss is computed chunk by chunk
    (``finetune.model.loss``). A model whose logits involve more than one matrix product (a soft cap, a scale) uses its
    own head instead.

    Args:
        model: The model, switched to packed attention (``finetune.model.attention.use_packed_attention``).
        chunked_head: Whether its logits are exactly ``hidden @ lm_head.weight.T``
            (``finetune.model.isolation.check_head``).
    """

    def __init__(self, model: Any, *, chunked_head: bool = True) -> None:
        super().__init__()
        self.model = model
        self.chunked_head = chunked_head

    @property
    def causal(self) -> Any:
        """The ``...ForCausalLM`` itself, without the wrapper of peft."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def decoder(self) -> Any:
        """The model below the head."""
        return getattr(self.causal, self.causal.base_model_prefix)

    @property
    def head(self) -> nn.Linear:
        """The output embedding, with a weight of shape (V, H)."""
        return self.causal.get_output_embeddings()  # type: ignore[no-any-return]

    # In a sharded model, every method called from outside all-gathers weights first
    # (``finetune.training.distributed``). Such a method must not call another one, hence the private twins.

    def hidden(self, batch: Batch) -> Tensor:
        """Return (M, H): the last hidden states at the positions that predict a supervised token."""
        return self._hidden(batch)

    def _hidden(self, batch: Batch) -> Tensor:
        states: Tensor = self.decoder(**_inputs(batch)).last_hidden_state  # (1, T, H)
        return states[0].index_select(0, batch.logit_indices)

    def logits(self, batch: Batch) -> Tensor:
        """Return (M, V) float32 logits of the model's own head."""
        return self._logits(batch)

    def _logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.causal(**_inputs(batch)).logits  # (1, T, V)
        return logits[0].index_select(0, batch.logit_indices).float()

    def forward(self, batch: Batch, scale: float | Tensor) -> Tensor:
        """Return ``scale`` times the summed cross entropy of the M supervised tokens, a float32 scalar.

        Call ``backward()`` on it as it is: the chunked head relies on a gradient of 1.
        """
        if self.chunked_head:
            head = self.head
            return linear_cross_entropy(
                self._hidden(batch), head.weight, batch.labels, scale=scale, bias=head.bias, unscaled=True
            )
        return functional.cross_entropy(self._logits(batch), batch.labels, reduction="sum") * scale

    @torch.no_grad()
    def token_losses(self, batch: Batch) -> Tensor:
        """Return (M,) float32: the cross entropy of each supervised token."""
        if self.chunked_head:
            return token_losses(self._hidden(batch), self.head.weight, batch.labels, bias=self.head.bias)
        return functional.cross_entropy(self._logits(batch), batch.labels, reduction="none")

    def generate(self, **kwargs: Any) -> Tensor:
        """Call ``generate`` of transformers; with several processes, each continues until all have finished."""
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        return self.model.generate(**kwargs, synced_gpus=several)  # type: ignore[no-any-return]


def _inputs(batch: Batch) -> dict[str, Any]:
    """Return the arguments of the model's forward pass; ``packed`` reaches the attention functions."""
    return {
        "input_ids": batch.input_ids[None],  # (1, T)
        "position_ids": batch.position_ids[None],  # (1, T)
        "use_cache": False,
        "packed": batch.packed,
    }

"""The model in the shape that the training loop needs: a micro-batch in, the summed loss of its supervised tokens out.

Shapes: T tokens in a micro-batch, M supervised tokens, V the vocabulary, H the hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from finetune.data.batch import Batch
from finetune.model.attention import is_packed
from finetune.model.loss import linear_cross_entropy, linear_log_probs

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
        return self._states(batch).index_select(0, batch.logit_indices)

    def _states(self, batch: Batch) -> Tensor:
        """Return (T, H): the last hidden states of all tokens."""
        return _join([self.decoder(**inputs).last_hidden_state[0] for inputs in self._inputs(batch)])

    def _inputs(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """Yield the arguments of one forward pass, or of one per document if the model can't isolate documents.

        ``packed`` reaches the attention functions.
        """
        lengths = [len(batch.input_ids)] if is_packed(self.causal) else list(batch.packed.lengths)
        split = (torch.split(tensor, lengths) for tensor in (batch.input_ids, batch.position_ids))
        for ids, positions in zip(*split, strict=True):
            yield {
                "input_ids": ids[None],  # (1, T)
                "position_ids": positions[None],  # (1, T)
                "use_cache": False,
                "packed": batch.packed,
            }

    def logits(self, batch: Batch) -> Tensor:
        """Return (M, V) float32 logits of the model's own head."""
        return self._logits(batch)

    def _logits(self, batch: Batch) -> Tensor:
        logits = _join([self.causal(**inputs).logits[0] for inputs in self._inputs(batch)])  # (T, V)
        return logits.index_select(0, batch.logit_indices).float()

    def forward(self, batch: Batch, scale: float | Tensor) -> Tensor:
        """Return ``scale`` times the summed cross entropy of the M supervised tokens, a float32 scalar."""
        if self.chunked_head:
            head = self.head
            return linear_cross_entropy(self._hidden(batch), head.weight, batch.labels, scale=scale, bias=head.bias)
        return functional.cross_entropy(self._logits(batch), batch.labels, reduction="sum") * scale

    @torch.no_grad()
    def token_losses(self, batch: Batch) -> Tensor:
        """Return (M,) float32: the cross entropy of each supervised token, without gradients."""
        return -self._log_probs(batch)

    def log_probs(self, batch: Batch) -> Tensor:
        """Return (M,) float32: the log-probability of each supervised token."""
        return self._log_probs(batch)

    def _log_probs(self, batch: Batch) -> Tensor:
        if self.chunked_head:
            return linear_log_probs(self._hidden(batch), self.head.weight, batch.labels, bias=self.head.bias)
        return -functional.cross_entropy(self._logits(batch), batch.labels, reduction="none")

    def generate(self, **kwargs: Any) -> Tensor:
        """Call ``generate`` of transformers; with several processes, each continues until all have finished."""
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        return self.model.generate(**kwargs, synced_gpus=several)  # type: ignore[no-any-return]


def _join(parts: list[Tensor]) -> Tensor:
    """Concatenate tensors; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)

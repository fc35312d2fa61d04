"""The model in the shape that the training loop needs: a micro-batch in, the summed loss of its supervised tokens out.

Shapes: T tokens in a micro-batch, M supervised tokens, V the vocabulary, H the hidden size.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from finetune.data.batch import Batch
from finetune.model.anatomy import find_decoder, text_config
from finetune.model.attention import original_attention, packed_attention
from finetune.model.balance import ExpertLoad, LoadBalancing
from finetune.model.loss import linear_cross_entropy, linear_log_probs
from selfinstruct.errors import UsageError

__all__ = ["BLOCK_MASK_TOKENS", "PackedCausalLM"]

BLOCK_MASK_TOKENS = 2048
"""Tokens of a micro-batch with a (T, T) mask, whose memory and arithmetic grow with their square."""


class PackedCausalLM(nn.Module):
    """A causal language model of transformers, possibly wrapped in adapters of peft, over packed documents.

    The head is applied only to the positions that predict a supervised token, and the loss is computed chunk by chunk
    (``finetune.model.loss``). A model whose logits involve more than one matrix product (a soft cap, a scale) uses its
    own head instead.

    Args:
        model: The model, switched to packed attention (``finetune.model.attention.use_packed_attention``).
        chunked_head: Whether its logits are exactly ``hidden @ lm_head.weight.T``
            (``finetune.model.isolation.check_head``).

    Attributes:
        block_mask: Whether the model isolates packed documents itself, by a (T, T) mask that it derives from the
            positions. Without it, and without packed attention, each micro-batch is a single document.
        balancing: The load-balancing loss that is added to the cross entropy; None adds none.
    """

    def __init__(self, model: Any, *, chunked_head: bool = True) -> None:
        super().__init__()
        self.model = model
        self.block_mask = False
        self.balancing: LoadBalancing | None = None
        self._chunked_head = chunked_head

    @property
    def causal(self) -> Any:
        """The ``...ForCausalLM`` itself, without the wrapper of peft."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def decoder(self) -> Any:
        """The text model below the head; the whole model if the two are one module."""
        return self._parts[0] or self.causal

    @cached_property
    def _parts(self) -> tuple[Any]:  # a tuple, because nn.Module would register a module as a submodule
        return (find_decoder(self.causal),)

    @property
    def chunked_head(self) -> bool:
        """Whether the head is applied chunk by chunk, which needs the hidden states below it."""
        return self._chunked_head and self._parts[0] is not None

    @chunked_head.setter
    def chunked_head(self, value: bool) -> None:
        self._chunked_head = value

    @property
    def packs(self) -> bool:
        """Whether several documents may share a micro-batch."""
        return self.block_mask or bool(self.attention)

    @property
    def attention(self) -> str:
        """The packed attention: ``varlen``, ``sdpa`` or ``eager``; empty if attention is the model's own."""
        return packed_attention(self.causal)

    def token_budget(self, budget: int) -> int:
        """Return the tokens of a micro-batch, at most ``budget``; 0 for one document each."""
        if self.block_mask:
            return min(budget, BLOCK_MASK_TOKENS)
        return budget if self.packs else 0

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model has embeddings for."""
        rows = int(self.causal.get_input_embeddings().weight.shape[0])
        return min(rows, getattr(text_config(self.causal.config), "vocab_size", None) or rows)

    @property
    def head(self) -> nn.Linear:
        """The output embedding, with a weight of shape (V, H)."""
        return self.causal.get_output_embeddings()  # type: ignore[no-any-return]

    # In a sharded model, every method called from outside all-gathers weights first
    # (``finetune.training.distributed``). Such a method must not call another one, hence the private twins.

    def hidden(self, batch: Batch) -> Tensor:
        """Return (M, H): the last hidden states at the positions that predict a supervised token.

        A model without a module below its head has its logits instead, (M, V).
        """
        return self._hidden(batch) if self._parts[0] is not None else self._logits(batch)

    def _hidden(self, batch: Batch) -> Tensor:
        return self._states(batch).index_select(0, batch.logit_indices)

    def _states(self, batch: Batch) -> Tensor:
        """Return (T, H): the last hidden states of all tokens."""
        return _join([outputs.last_hidden_state[0] for outputs in self._passes(self.decoder, batch)])

    def logits(self, batch: Batch) -> Tensor:
        """Return (M, V) float32 logits of the model's own head."""
        return self._logits(batch)

    def _logits(self, batch: Batch) -> Tensor:
        logits = _join([outputs.logits[0] for outputs in self._passes(self.causal, batch)])  # (T, V)
        return logits.index_select(0, batch.logit_indices).float()

    def _passes(self, module: Any, batch: Batch) -> list[Any]:
        """Return the outputs of one forward pass, or of one per document if the model can't isolate documents."""
        inputs = self._inputs(module, batch)
        if self.packs:
            return [module(**inputs)]
        ids = inputs.pop("input_ids")  # (1, T)
        return [module(input_ids=document, **inputs) for document in ids.split(_separate_lengths(batch), dim=1)]

    def forward(self, batch: Batch, scale: float | Tensor, load: ExpertLoad | None = None) -> Tensor:
        """Return ``scale`` times the summed cross entropy of the M supervised tokens, a float32 scalar.

        Args:
            load: Adds this micro-batch's share of the load-balancing loss of a step.
        """
        if load is not None:
            return self._balanced(batch, scale, load)
        if self.chunked_head:
            head = self.head
            return linear_cross_entropy(
                self._hidden(batch), head.weight, batch.labels, scale=scale, bias=head.bias, unscaled=True
            )
        return functional.cross_entropy(self._logits(batch), batch.labels, reduction="sum") * scale

    def _balanced(self, batch: Batch, scale: float | Tensor, load: ExpertLoad) -> Tensor:
        outputs = self._routed(batch)
        if self.chunked_head:
            hidden, head = outputs.last_hidden_state[0].index_select(0, batch.logit_indices), self.head
            loss = linear_cross_entropy(hidden, head.weight, batch.labels, scale=scale, bias=head.bias, unscaled=True)
        else:
            logits = outputs.logits[0].index_select(0, batch.logit_indices).float()
            loss = functional.cross_entropy(logits, batch.labels, reduction="sum") * scale
        return loss + load.share(outputs.router_logits, batch.num_tokens)

    def _routed(self, batch: Batch) -> Any:
        module = self.decoder if self.chunked_head else self.causal
        return module(**self._inputs(module, batch), output_router_logits=True)

    @torch.no_grad()
    def expert_counts(self, batch: Batch) -> Tensor:
        """Return (E + 1,) float64: the tokens that are routed to each expert, over all layers, and their rows."""
        assert self.balancing is not None, "this model has no load-balancing loss"
        return self.balancing.count(self._routed(batch).router_logits, batch.num_tokens)

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

    @torch.no_grad()
    def own_losses(self, batch: Batch) -> tuple[float, float | None]:
        """Return the loss that transformers computes for a single document, and its load-balancing loss if it has one.

        All tokens but the first count as supervised, and attention is the model's own.
        """
        with original_attention(self.causal):
            inputs = self._inputs(self.causal, batch)
            options = {"output_router_logits": True} if self.balancing is not None else {}
            outputs = self.causal(**inputs, **options, labels=inputs["input_ids"])
        balance = getattr(outputs, "aux_loss", None)
        return float(outputs.loss), None if balance is None else float(balance)

    def generate(self, **kwargs: Any) -> Tensor:
        """Call ``generate`` of transformers; with several processes, each continues until all have finished."""
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        return self.model.generate(**kwargs, synced_gpus=several)  # type: ignore[no-any-return]

    def _inputs(self, module: Any, batch: Batch) -> dict[str, Any]:
        """Return the arguments of a forward pass; ``packed`` reaches the attention functions.

        Raises:
            UsageError: The module takes no positions or boundaries, and documents are packed.
        """
        inputs: dict[str, Any] = {"input_ids": batch.input_ids[None], "use_cache": False}  # (1, T)
        if self.packs:
            inputs["position_ids"] = batch.position_ids[None]  # (1, T)
        if self.attention:
            inputs["packed"] = batch.packed
        names = inspect.signature(module.forward).parameters
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in names.values()):
            missing = [name for name in inputs if name not in names]
            if missing not in ([], ["use_cache"]):
                raise UsageError(f"{type(module).__name__} does not accept {', '.join(missing)}")
            inputs = {name: value for name, value in inputs.items() if name in names}
        return inputs


def _separate_lengths(batch: Batch) -> list[int]:
    """Return the tokens of each document; the last one includes the padding, which no earlier token attends to."""
    lengths = list(batch.packed.lengths)
    while len(lengths) > 1 and sum(lengths[:-1]) >= batch.num_tokens:
        lengths[-2:] = [sum(lengths[-2:])]
    return lengths


def _join(parts: list[Tensor]) -> Tensor:
    """Concatenate tensors; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)

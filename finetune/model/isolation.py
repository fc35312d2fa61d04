"""What is tried on a model before it is trained: that packing and our own head give what the model itself gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from finetune.data.batch import collate
from finetune.data.corpus import Corpus, Document
from finetune.model.attention import block_mask
from finetune.model.packed_lm import PackedCausalLM
from selfinstruct.common.rng import Rng
from selfinstruct.errors import UsageError

__all__ = ["check_head", "check_isolation"]

_REMEDY = "train it one document at a time: --set packing=false"
# Most by which a hidden state may differ, as a share of its size, in float32 and in 16 bits. A document with another
# one beside it, of the same length: equal to the last bit, but for experts, whose products change their shapes. A
# document alone: the same sums in another order.
_BESIDE = (1e-4, 2e-2)
_ALONE = (1e-3, 1e-1)


@torch.no_grad()
def check_isolation(trainee: PackedCausalLM, device: torch.device | str = "cpu") -> None:
    """Compare the hidden states of packed documents beside different ones, and alone.

    Raises:
        UsageError: They differ, or the model does not take the borders: its layers (a recurrence, a convolution) see
            across documents, or it counts positions through.
    """
    kind = trainee.causal.config.model_type
    corpus = _random(trainee, (7, 11, 7, 11))
    exact = next(trainee.model.parameters()).dtype == torch.float32
    try:
        with _evaluating(trainee):
            first, second = _states(trainee, corpus, (0, 1), device)
            after_another = _states(trainee, corpus, (2, 1), device)[1]
            before_another = _states(trainee, corpus, (0, 3), device)[0]
            (first_alone,), (second_alone,) = (_states(trainee, corpus, (one,), device) for one in (0, 1))
    except TypeError as error:
        raise UsageError(
            f"a model of type {kind!r} does not say where packed documents end ({error}); {_REMEDY}"
        ) from None
    beside = max(_off(second, after_another), _off(first, before_another))
    if not beside <= _BESIDE[not exact]:
        raise UsageError(
            f"packed documents see each other in a model of type {kind!r} (states differ by {beside:.1%}); {_REMEDY}"
        )
    alone = max(_off(first, first_alone), _off(second, second_alone))
    if not alone <= _ALONE[not exact]:
        raise UsageError(
            f"a packed document is not what it is alone in a model of type {kind!r} (states differ by {alone:.1%}); "
            f"{_REMEDY}"
        )


@torch.no_grad()
def check_head(trainee: PackedCausalLM, device: torch.device | str = "cpu") -> bool:
    """Whether the model's losses are those of logits ``hidden @ lm_head.weight.T`` and nothing more."""
    head = trainee.causal.get_output_embeddings()
    if head is None or type(head) is not torch.nn.Linear:
        return False
    batch = collate(_random(trainee, (16,)), (0,), longest=16).to(device)
    with _evaluating(trainee):
        before, trainee.own_head = trainee.own_head, True
        ours = trainee.token_losses(batch)
        trainee.own_head = before
        theirs = functional.cross_entropy(trainee.logits(batch), batch.labels, reduction="none")
    exact = head.weight.dtype == torch.float32
    return bool(torch.allclose(ours, theirs, rtol=1e-4 if exact else 2e-2, atol=1e-4 if exact else 2e-2))


def _random(trainee: PackedCausalLM, lengths: tuple[int, ...]) -> Corpus:
    rng, words = Rng("isolation"), trainee.causal.config.vocab_size
    ids = [np.array([rng.below(words) for _ in range(length)], dtype=np.int32) for length in lengths]
    return Corpus.of(Document(one, np.arange(len(one)) > 0, "random") for one in ids)


def _states(
    trainee: PackedCausalLM, corpus: Corpus, indices: tuple[int, ...], device: torch.device | str
) -> list[Tensor]:
    """For each document (its places but the last, hidden) float32, packed as training packs them."""
    batch = collate(corpus, indices, longest=16).to(device)
    if trainee.causal.config._attn_implementation == "finetune_flex":
        mask = block_mask(batch.packed, len(batch.ids))
        batch = replace(batch, packed=replace(batch.packed, block_mask=mask))
    return list(torch.split(trainee.hidden(batch).float(), [len(corpus[index]) - 1 for index in indices]))


def _off(found: Tensor, expected: Tensor) -> float:
    """The largest difference of a row, as a share of that row; infinite where something is not a number."""
    size = torch.linalg.vector_norm(expected, dim=1).clamp(min=1e-6)
    return float((torch.linalg.vector_norm(found - expected, dim=1) / size).max().nan_to_num(torch.inf))


class _evaluating:  # noqa: N801 used as a function
    """Dropout off, and back as it was."""

    def __init__(self, trainee: Any) -> None:
        self.trainee, self.training = trainee, trainee.training

    def __enter__(self) -> None:
        self.trainee.eval()

    def __exit__(self, *_: object) -> None:
        self.trainee.train(self.training)

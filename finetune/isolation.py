"""What is tried on a model before it is trained: that packing and our own head give what the model itself gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from finetune.batch import Batch, collate
from finetune.corpus import Corpus, Document
from finetune.trainee import Trainee
from selfinstruct.errors import UsageError
from selfinstruct.rng import Rng

__all__ = ["check_head", "check_isolation"]

_REMEDY = "train it one document at a time: --set packing=false"


@torch.no_grad()
def check_isolation(trainee: Trainee, device: torch.device | str = "cpu") -> None:
    """Compare the hidden states of two short documents packed together with those of each alone.

    Raises:
        UsageError: They differ by more than rounding, or the model does not take the borders: its layers (a
            recurrence, a convolution) see across documents.
    """
    kind = trainee.causal.config.model_type
    corpus = _random(trainee, 2)
    try:
        with _evaluating(trainee):
            together = trainee.hidden(_batch(corpus, (0, 1), device)).float()
            alone = torch.cat([trainee.hidden(_batch(corpus, (one,), device)).float() for one in (0, 1)])
    except TypeError as error:
        raise UsageError(
            f"a model of type {kind!r} does not say where packed documents end ({error}); {_REMEDY}"
        ) from None
    size = alone.abs().max().clamp(min=1e-6)
    off = float((together - alone).abs().max() / size)
    allowed = 1e-3 if next(trainee.model.parameters()).dtype == torch.float32 else 0.1
    if not off <= allowed:
        raise UsageError(
            f"packed documents see each other in a model of type {kind!r} (states differ by {off:.1%}); {_REMEDY}"
        )


@torch.no_grad()
def check_head(trainee: Trainee, device: torch.device | str = "cpu") -> bool:
    """Whether the model's logits are ``hidden @ lm_head.weight.T`` and nothing more."""
    head = trainee.causal.get_output_embeddings()
    if head is None or type(head) is not torch.nn.Linear:
        return False
    batch = _batch(_random(trainee, 1), (0,), device)
    with _evaluating(trainee):
        ours = torch.nn.functional.linear(trainee.hidden(batch), head.weight, head.bias).float()
        theirs = trainee.logits(batch)
    exact = head.weight.dtype == torch.float32
    return bool(torch.allclose(ours, theirs, rtol=1e-4 if exact else 2e-2, atol=1e-4 if exact else 2e-2))


def _random(trainee: Trainee, count: int) -> Corpus:
    rng, words = Rng("isolation"), trainee.causal.config.vocab_size
    lengths = [7, 11][:count]
    ids = [np.array([rng.below(words) for _ in range(length)], dtype=np.int32) for length in lengths]
    return Corpus.of(Document(one, np.arange(len(one)) > 0, "random") for one in ids)


def _batch(corpus: Corpus, indices: tuple[int, ...], device: torch.device | str) -> Batch:
    return collate(corpus, indices, longest=16).to(device)


class _evaluating:  # noqa: N801 used as a function
    """Dropout off, and back as it was."""

    def __init__(self, trainee: Any) -> None:
        self.trainee, self.training = trainee, trainee.training

    def __enter__(self) -> None:
        self.trainee.eval()

    def __exit__(self, *_: object) -> None:
        self.trainee.train(self.training)

"""Checks on a model before training: that packing and the chunked head compute what the model itself computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from finetune.data.batch import collate
from finetune.data.corpus import Corpus, Document
from finetune.model.attention import NO_PACKING
from finetune.model.packed_lm import PackedCausalLM
from selfinstruct.common.rng import Rng
from selfinstruct.errors import UsageError

__all__ = ["check_head", "check_isolation", "check_repeatable"]

_MAX_SEQLEN = 16
# Tolerances for hidden states, relative to their norm, in float32 and in 16 bits. With another neighbour of the same
# length, states are equal to the last bit, except with experts, whose matrix products change their shapes. A document
# alone has the same sums in another order.
_NEIGHBOUR_TOLERANCE = (1e-4, 2e-2)
_ALONE_TOLERANCE = (1e-3, 1e-1)


@torch.no_grad()
def check_isolation(packed_lm: PackedCausalLM, device: torch.device | str = "cpu") -> None:
    """Compare the hidden states of packed documents next to different neighbours, and alone.

    Raises:
        UsageError: The states differ, or the model rejects document boundaries: its layers (a recurrence, a
            convolution) mix documents, or its positions continue across them.
    """
    model_type = packed_lm.causal.config.model_type
    corpus = _random_corpus(packed_lm, (7, 11, 7, 11))
    exact = next(packed_lm.model.parameters()).dtype == torch.float32
    try:
        with _evaluation_mode(packed_lm):
            first, second = _hidden_states(packed_lm, corpus, (0, 1), device)
            other_first = _hidden_states(packed_lm, corpus, (2, 1), device)[1]
            other_second = _hidden_states(packed_lm, corpus, (0, 3), device)[0]
            (first_alone,), (second_alone,) = (_hidden_states(packed_lm, corpus, (i,), device) for i in (0, 1))
    except TypeError as error:
        raise UsageError(
            f"a model of type {model_type!r} does not pass document boundaries to its layers ({error}); {NO_PACKING}"
        ) from None
    deviation = max(_deviation(second, other_first), _deviation(first, other_second))
    if not deviation <= _NEIGHBOUR_TOLERANCE[not exact]:
        raise UsageError(
            f"packed documents see each other in a model of type {model_type!r} (states differ by {deviation:.1%}); "
            f"{NO_PACKING}"
        )
    deviation = max(_deviation(first, first_alone), _deviation(second, second_alone))
    if not deviation <= _ALONE_TOLERANCE[not exact]:
        raise UsageError(
            f"in a model of type {model_type!r} a packed document differs from the same document alone (states differ "
            f"by {deviation:.1%}); {NO_PACKING}"
        )


@torch.no_grad()
def check_head(packed_lm: PackedCausalLM, device: torch.device | str = "cpu") -> bool:
    """Decide whether the model's logits are exactly ``hidden @ lm_head.weight.T``, by comparing losses."""
    head = packed_lm.causal.get_output_embeddings()
    if head is None or type(head) is not torch.nn.Linear:
        return False
    batch = collate(_random_corpus(packed_lm, (_MAX_SEQLEN,)), (0,), max_seqlen=_MAX_SEQLEN).to(device)
    with _evaluation_mode(packed_lm):
        before, packed_lm.chunked_head = packed_lm.chunked_head, True
        chunked = packed_lm.token_losses(batch)
        packed_lm.chunked_head = before
        reference = functional.cross_entropy(packed_lm.logits(batch), batch.labels, reduction="none")
    tolerance = 1e-4 if head.weight.dtype == torch.float32 else 2e-2
    return bool(torch.allclose(chunked, reference, rtol=tolerance, atol=tolerance))


@torch.no_grad()
def check_repeatable(packed_lm: PackedCausalLM, device: torch.device | str = "cpu") -> None:
    """Compare two forward passes in training mode, after dropout was switched off.

    Raises:
        UsageError: They differ: the model has dropout or noise that could not be switched off.
    """
    corpus = _random_corpus(packed_lm, (_MAX_SEQLEN,))
    training = packed_lm.training
    packed_lm.train()
    try:
        first, second = (_hidden_states(packed_lm, corpus, (0,), device)[0] for _ in range(2))
    finally:
        packed_lm.train(training)
    exact = next(packed_lm.model.parameters()).dtype == torch.float32
    if not (deviation := _deviation(first, second)) <= _NEIGHBOUR_TOLERANCE[not exact]:
        raise UsageError(
            f"a model of type {packed_lm.causal.config.model_type!r} computes at random in training (states differ by "
            f"{deviation:.1%}), and preferences are learnt without dropout: set it to 0 in the model's config.json"
        )


def _random_corpus(packed_lm: PackedCausalLM, lengths: tuple[int, ...]) -> Corpus:
    rng, vocabulary = Rng("isolation"), packed_lm.causal.config.vocab_size
    documents = [np.array([rng.below(vocabulary) for _ in range(length)], dtype=np.int32) for length in lengths]
    return Corpus.of(Document(ids, np.arange(len(ids)) > 0, "random") for ids in documents)


def _hidden_states(
    packed_lm: PackedCausalLM, corpus: Corpus, indices: tuple[int, ...], device: torch.device | str
) -> list[Tensor]:
    """Return (n - 1, hidden) float32 states for each document of n tokens, packed as in training."""
    batch = collate(corpus, indices, max_seqlen=_MAX_SEQLEN).to(device)
    return list(torch.split(packed_lm.hidden(batch).float(), [len(corpus[index]) - 1 for index in indices]))


def _deviation(states: Tensor, expected: Tensor) -> float:
    """Return the largest deviation of a row, relative to its norm; infinite if a value is not a number."""
    norm = torch.linalg.vector_norm(expected, dim=1).clamp(min=1e-6)
    return float((torch.linalg.vector_norm(states - expected, dim=1) / norm).max().nan_to_num(torch.inf))


@contextmanager
def _evaluation_mode(packed_lm: PackedCausalLM) -> Iterator[None]:
    """Switch dropout off while the context is open."""
    training = packed_lm.training
    packed_lm.eval()
    try:
        yield
    finally:
        packed_lm.train(training)

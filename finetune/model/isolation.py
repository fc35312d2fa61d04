"""Checks on a model before training: that what is computed here is what the model itself computes.

Packed documents don't see each other and have the states that transformers computes for each alone; no token sees a
later one; the chunked head has the logits of the model's own head, and the load-balancing loss its value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.data.batch import Batch, collate
from finetune.data.corpus import Corpus, Document
from finetune.model.anatomy import text_config
from finetune.model.attention import NO_PACKING, original_attention
from finetune.model.packed_lm import PackedCausalLM
from selfinstruct.common.files import first_line
from selfinstruct.common.rng import Rng
from selfinstruct.errors import UsageError

__all__ = [
    "MODEL_FAILURES", "check_causality", "check_head", "check_isolation", "check_loss", "check_repeatable",
    "probe_length",
]  # fmt: skip

MODEL_FAILURES = (
    AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What the code of an architecture raises when it is called in a way that it does not support."""

_SHORT, _LONG = 7, 11  # tokens of two documents
_PAST = 8  # tokens beyond a limit
# Settings that name a limit beyond which a model computes otherwise: windows, chunks, the positions it was trained for.
_LIMITS = re.compile(r"window|chunk|block_size|max_position|index_topk|n_positions|seq_len|log_n")
# Tolerances for hidden states, relative to their norm, in float32 and in 16 bits. With another neighbour of the same
# length, states are equal to the last bit, except with experts, whose matrix products change their shapes. A document
# alone has the same sums in another order.
_NEIGHBOUR_TOLERANCE = (1e-4, 2e-2)
_ALONE_TOLERANCE = (1e-3, 1e-1)


def probe_length(config: Any, longest: int) -> int:
    """Return the tokens of a document that reaches past every limit of a model that a run reaches.

    Args:
        longest: Tokens of the longest document of the run.
    """
    limits = [limit for limit in _limits(config.to_dict()) if limit < longest]
    return max(_LONG, min(longest, max(limits, default=0) + _PAST))


def _limits(settings: Any, name: str = "") -> Iterator[int]:
    """Yield the values of the settings that name a limit, at any depth."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _limits(value, str(key))
    elif isinstance(settings, int) and not isinstance(settings, bool) and settings > 0 and _LIMITS.search(name):
        yield settings


@torch.no_grad()
def check_isolation(packed_lm: PackedCausalLM, device: torch.device | str = "cpu", *, longest: int = 0) -> None:
    """Compare the hidden states of packed documents next to different neighbours, and alone as transformers has them.

    Args:
        longest: Tokens of the longest document of the run (``probe_length``).

    Raises:
        UsageError: The states differ, or the model rejects document boundaries: its layers (a recurrence, a
            convolution) mix documents, or its positions continue across them.
    """
    model_type = packed_lm.causal.config.model_type
    long = probe_length(text_config(packed_lm.causal.config), longest)
    corpus = _random_corpus(packed_lm, (_SHORT, long, _SHORT, long))
    exact = next(packed_lm.model.parameters()).dtype == torch.float32
    try:
        with _evaluation_mode(packed_lm):
            first, second = _hidden_states(packed_lm, corpus, (0, 1), device)
            other_first = _hidden_states(packed_lm, corpus, (2, 1), device)[1]
            other_second = _hidden_states(packed_lm, corpus, (0, 3), device)[0]
            with _alone(packed_lm):
                (first_alone,), (second_alone,) = (_hidden_states(packed_lm, corpus, (i,), device) for i in (0, 1))
    except TypeError as error:
        raise UsageError(
            f"a model of type {model_type!r} does not pass document boundaries to its layers ({error}); {NO_PACKING}"
        ) from None
    deviation = max(_deviation(second, other_first, exact), _deviation(first, other_second, exact))
    if not deviation <= _NEIGHBOUR_TOLERANCE[not exact]:
        raise UsageError(
            f"packed documents see each other in a model of type {model_type!r} (states differ by {deviation:.1%}); "
            f"{NO_PACKING}"
        )
    deviation = max(_deviation(first, first_alone, exact), _deviation(second, second_alone, exact))
    if not deviation <= _ALONE_TOLERANCE[not exact]:
        raise UsageError(
            f"in a model of type {model_type!r} a packed document differs from the same document alone (states differ "
            f"by {deviation:.1%}); {NO_PACKING}"
        )
    if not packed_lm.chunked_head:
        _check_own_head(packed_lm, corpus.subset((0, 2)), device)


def _check_own_head(packed_lm: PackedCausalLM, corpus: Corpus, device: torch.device | str) -> None:
    """Check that the model's own head passes on the document boundaries, by the logits of two short documents."""
    exact = next(packed_lm.model.parameters()).dtype == torch.float32
    batch = collate(corpus, (0, 1), max_seqlen=_SHORT).to(device)
    with _evaluation_mode(packed_lm):
        packed = packed_lm.logits(batch)
        with _alone(packed_lm):
            alone = [packed_lm.logits(collate(corpus, (i,), max_seqlen=_SHORT).to(device)) for i in (0, 1)]
    if not _deviation(packed, torch.cat(alone), exact) <= _ALONE_TOLERANCE[not exact]:
        raise UsageError(
            f"the head of a model of type {packed_lm.causal.config.model_type!r} does not isolate packed documents; "
            f"{NO_PACKING}"
        )


@torch.no_grad()
def check_causality(packed_lm: PackedCausalLM, device: torch.device | str = "cpu", *, longest: int = 0) -> None:
    """Check that the states of a token don't depend on later tokens, for a document alone.

    Raises:
        UsageError: They do: the model would learn to copy the token that it is asked to predict.
    """
    length = probe_length(text_config(packed_lm.causal.config), longest)
    half = length // 2
    corpus = _random_corpus(packed_lm, (length, length))
    ids = np.concatenate([corpus[0].ids[:half], corpus[1].ids[half:]])
    corpus = Corpus.of([corpus[0], Document(ids, corpus[0].supervised, "random")])
    exact = next(packed_lm.model.parameters()).dtype == torch.float32
    with _evaluation_mode(packed_lm):
        (states,), (others,) = (_hidden_states(packed_lm, corpus, (index,), device) for index in (0, 1))
    deviation = _deviation(others[:half], states[:half], exact)
    if not deviation <= _NEIGHBOUR_TOLERANCE[not exact]:
        raise UsageError(
            f"a model of type {packed_lm.causal.config.model_type!r} sees the tokens that it has to predict (states "
            f"differ by {deviation:.1%} with other tokens after them): it is not a causal language model as configured "
            "(is_decoder?), and can't be trained as one"
        )


@torch.no_grad()
def check_head(packed_lm: PackedCausalLM, device: torch.device | str = "cpu") -> bool:
    """Decide whether the model's logits are exactly ``hidden @ lm_head.weight.T``, for a document alone.

    What goes into the head and comes out of it during a forward pass is compared to the last bit: small logits hide a
    soft cap from any tolerance.
    """
    head, decoder = packed_lm.causal.get_output_embeddings(), packed_lm.decoder
    if type(head) is not torch.nn.Linear or decoder is packed_lm.causal:
        return False
    seen: dict[str, Any] = {}
    hooks = [
        head.register_forward_hook(lambda _, inputs, output: seen.update(input=inputs[0], output=output)),
        decoder.register_forward_hook(
            lambda _, __, output: seen.update(hidden=getattr(output, "last_hidden_state", None))
        ),
    ]
    batch = _probe(packed_lm, device)
    try:
        with _evaluation_mode(packed_lm), _alone(packed_lm):
            logits = packed_lm.logits(batch)
    except torch.OutOfMemoryError:
        raise
    except MODEL_FAILURES:
        return False  # the model asks for more than text here
    finally:
        for hook in hooks:
            hook.remove()
    if "input" not in seen or seen.get("hidden") is None or seen["input"].shape != seen["hidden"].shape:
        return False
    computed = seen["output"][0].index_select(0, batch.logit_indices).float()
    return torch.equal(seen["input"], seen["hidden"]) and torch.equal(computed, logits)


@torch.no_grad()
def check_loss(packed_lm: PackedCausalLM, device: torch.device | str = "cpu") -> str | None:
    """Compare the loss of a document with the one that transformers computes for it.

    Returns:
        A message if transformers adds a term that is not trained here; None if the losses agree, or if the model can't
        compute its own.

    Raises:
        UsageError: The configuration asks for a load-balancing loss, and the one computed here differs from it; or
            the model can't compute the loss of a text.
    """
    model_type, batch = packed_lm.causal.config.model_type, _probe(packed_lm, device)
    with _evaluation_mode(packed_lm):
        try:
            expected = float(packed_lm.token_losses(batch).mean())
        except torch.OutOfMemoryError:
            raise
        except MODEL_FAILURES as error:
            detail = first_line(error)
            if packed_lm.balancing is not None:
                raise UsageError(_no_balance(model_type, detail)) from None
            raise UsageError(f"a model of type {model_type!r} can't be trained here: {detail}") from None
        try:
            own, own_balance = packed_lm.own_losses(batch)
            balance = _balance(packed_lm, batch)
        except torch.OutOfMemoryError:
            raise
        except (UsageError, *MODEL_FAILURES) as error:
            if packed_lm.balancing is None:
                return None
            raise UsageError(_no_balance(model_type, first_line(error))) from None
    if packed_lm.balancing is not None:
        wanted = math.nan if own_balance is None else packed_lm.balancing.coefficient * own_balance
        tolerance = 1e-3 if next(packed_lm.model.parameters()).dtype == torch.float32 else 5e-2
        if not math.isclose(balance, wanted, rel_tol=tolerance, abs_tol=1e-5):
            transformers = "none" if own_balance is None else f"{wanted:.4g}"
            raise UsageError(_no_balance(model_type, f"{balance:.4g}, where transformers computes {transformers}"))
        expected += wanted
    if math.isfinite(own) and abs(own - expected) > 0.02 * max(1.0, abs(expected)):
        return (
            f"transformers computes a loss of {own:.4g} for a model of type {model_type!r} where the cross entropy of "
            f"the next token is {expected:.4g}: its other terms are not trained here"
        )
    return None


def _balance(packed_lm: PackedCausalLM, batch: Batch) -> float:
    """Return the load-balancing loss of a document; 0 without one."""
    if packed_lm.balancing is None:
        return 0.0
    scale = 1 / len(batch.labels)
    with_load = packed_lm(batch, scale, packed_lm.balancing.load(packed_lm.expert_counts(batch)))
    return float(with_load - packed_lm(batch, scale))


def _no_balance(model_type: str, detail: str) -> str:
    return (
        f"a model of type {model_type!r} asks for a load-balancing loss that can't be reproduced here ({detail}); to "
        "train without it, set output_router_logits to false in its config.json"
    )


def _probe(packed_lm: PackedCausalLM, device: torch.device | str) -> Batch:
    """Return a single random document, all of whose tokens but the first are supervised."""
    return collate(_random_corpus(packed_lm, (16,)), (0,), max_seqlen=16).to(device)


@torch.no_grad()
def check_repeatable(packed_lm: PackedCausalLM, device: torch.device | str = "cpu") -> None:
    """Compare two forward passes in training mode, after dropout was switched off.

    Raises:
        UsageError: They differ: the model has dropout or noise that could not be switched off.
    """
    corpus = _random_corpus(packed_lm, (16,))
    training = packed_lm.training
    packed_lm.train()
    try:
        first, second = (_hidden_states(packed_lm, corpus, (0,), device)[0] for _ in range(2))
    finally:
        packed_lm.train(training)
    exact = next(packed_lm.model.parameters()).dtype == torch.float32
    if not (deviation := _deviation(first, second, exact)) <= _NEIGHBOUR_TOLERANCE[not exact]:
        raise UsageError(
            f"a model of type {packed_lm.causal.config.model_type!r} computes at random in training (states differ by "
            f"{deviation:.1%}), and preferences are learnt without dropout: set it to 0 in the model's config.json"
        )


def _random_corpus(packed_lm: PackedCausalLM, lengths: tuple[int, ...]) -> Corpus:
    rng, vocabulary = Rng("isolation"), packed_lm.vocabulary
    documents = [np.array([rng.below(vocabulary) for _ in range(length)], dtype=np.int32) for length in lengths]
    return Corpus.of(Document(ids, np.arange(len(ids)) > 0, "random") for ids in documents)


def _hidden_states(
    packed_lm: PackedCausalLM, corpus: Corpus, indices: tuple[int, ...], device: torch.device | str
) -> list[Tensor]:
    """Return (n - 1, hidden) float32 states for each document of n tokens, packed as in training."""
    batch = collate(corpus, indices, max_seqlen=int(corpus.lengths.max())).to(device)
    return list(torch.split(packed_lm.hidden(batch).float(), [len(corpus[index]) - 1 for index in indices]))


def _deviation(states: Tensor, expected: Tensor, exact: bool) -> float:
    """Return the largest deviation of a row, relative to its norm; infinite if a value is not a number.

    In 16 bits, where a rounding error may route a token to another expert, the largest of the median deviations of all
    rows and of the last ones, which are beyond a limit.
    """
    norm = torch.linalg.vector_norm(expected, dim=1).clamp(min=1e-6)
    rows = (torch.linalg.vector_norm(states - expected, dim=1) / norm).nan_to_num(torch.inf)
    return float(rows.max() if exact else torch.maximum(rows.median(), rows[-_PAST:].median()))


@contextmanager
def _alone(packed_lm: PackedCausalLM) -> Iterator[None]:
    """Let the model compute a document as transformers does, while the context is open."""
    before, packed_lm.block_mask = packed_lm.block_mask, False
    try:
        with original_attention(packed_lm.causal):
            yield
    finally:
        packed_lm.block_mask = before


@contextmanager
def _evaluation_mode(packed_lm: PackedCausalLM) -> Iterator[None]:
    """Switch dropout off while the context is open."""
    training = packed_lm.training
    packed_lm.eval()
    try:
        yield
    finally:
        packed_lm.train(training)

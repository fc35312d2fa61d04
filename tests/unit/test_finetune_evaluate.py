"""Held-out losses and their standard errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from finetune.data.corpus import Corpus, Document
from finetune.evaluation.held_out import Losses, difference, evaluate
from finetune.model.attention import use_packed_attention
from finetune.model.packed_lm import PackedCausalLM
from tests.finetune_fixtures import make_model

VOCABULARY = 300


def corpus(lengths: list[int]) -> Corpus:
    rng = np.random.default_rng(1)
    documents = []
    for number, length in enumerate(lengths):
        supervised = rng.random(length) < 0.5
        supervised[0], supervised[-1] = False, True
        documents.append(Document(rng.integers(0, VOCABULARY, length, dtype=np.int32), supervised, f"x:{number}"))
    return Corpus.of(documents)


def packed(**options: Any) -> PackedCausalLM:
    model = make_model(VOCABULARY, **options)
    use_packed_attention(model, "sdpa")
    return PackedCausalLM(model)


def separate_losses(documents: Corpus, **options: Any) -> list[float]:
    """Return the loss of each document alone, computed by transformers."""
    model = make_model(VOCABULARY, **options)
    sums = []
    for document in (documents[index] for index in range(len(documents))):
        ids = torch.tensor(document.ids, dtype=torch.int64)
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(
                model(input_ids=ids[None]).logits[0, :-1].double(), ids[1:], reduction="none"
            )
        sums.append(float(losses[torch.tensor(document.supervised[1:])].sum()))
    return sums


@pytest.mark.parametrize("budget", [1, 20, 50, 10_000])
def test_packed_documents_have_the_same_losses_as_separate_ones(budget: int) -> None:
    documents = corpus([5, 17, 2, 40, 9, 9, 30])
    losses = evaluate(packed(), documents, budget=budget)
    assert losses.counts.tolist() == documents.targets.tolist()
    np.testing.assert_allclose(losses.sums, separate_losses(documents), rtol=1e-5)


def test_an_unpacked_model_is_evaluated_one_document_at_a_time() -> None:
    documents = corpus([5, 17, 8])
    losses = evaluate(PackedCausalLM(make_model(VOCABULARY)), documents, budget=1000)
    np.testing.assert_allclose(losses.sums, separate_losses(documents), rtol=1e-5)


def test_evaluation_has_no_dropout_or_gradients_and_restores_the_mode() -> None:
    documents = corpus([12, 20])
    packed_lm = packed(attention_dropout=0.5)
    packed_lm.train()
    first, second = (evaluate(packed_lm, documents, budget=100) for _ in range(2))
    assert packed_lm.training
    assert packed_lm.model.training
    assert all(parameter.grad is None for parameter in packed_lm.parameters())
    np.testing.assert_array_equal(first.sums, second.sums)
    np.testing.assert_allclose(first.sums, separate_losses(documents), rtol=1e-5)
    packed_lm.eval()
    evaluate(packed_lm, documents, budget=100)
    assert not packed_lm.training


def test_evaluation_restores_the_mode_after_an_error() -> None:
    packed_lm = packed()
    packed_lm.train()
    broken = corpus([4])
    broken.ids[0] = VOCABULARY + 1
    with pytest.raises(IndexError):
        evaluate(packed_lm, broken, budget=100)
    assert packed_lm.training


def test_evaluation_does_not_recompile_layers_for_each_shape() -> None:
    compiled: list[int] = []

    def count(graph: Any, _inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    packed_lm = packed()
    for layer in packed_lm.decoder.layers:
        layer.compile(backend=count, dynamic=False)
    documents = corpus([5, 17, 8])
    losses = evaluate(packed_lm, documents, budget=10)
    assert compiled == []
    np.testing.assert_allclose(losses.sums, separate_losses(documents), rtol=1e-5)


def test_an_empty_held_out_set_is_allowed() -> None:
    assert len(evaluate(packed(), Corpus.of([]), budget=10).sums) == 0


def test_the_mean_loss_is_per_token() -> None:
    losses = Losses.of([10.0, 2.0], [1, 9])
    assert losses.mean == 1.2
    assert losses.perplexity == pytest.approx(math.exp(1.2))
    assert Losses.of([1e6], [1]).perplexity == math.inf


def random_losses(documents: int, seed: int) -> tuple[Losses, Losses]:
    """Return two losses that share a random level per document; the second is 0.2 nats per token lower."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(5, 200, documents)
    level = rng.normal(2.0, 0.5, documents)
    sums = [counts * (level - shift + rng.normal(0, 0.05, documents)) for shift in (0.0, 0.2)]
    before, after = (Losses(values, counts) for values in sums)
    return before, after


def test_the_standard_error_agrees_with_a_bootstrap_over_documents() -> None:
    before, after = random_losses(200, seed=0)
    rng = np.random.default_rng(1)
    picks = [rng.integers(0, 200, 200) for _ in range(4000)]
    means = [before.sums[pick].sum() / before.counts[pick].sum() for pick in picks]
    changes = [(after.sums - before.sums)[pick].sum() / before.counts[pick].sum() for pick in picks]
    assert before.standard_error == pytest.approx(np.std(means), rel=0.05)
    assert difference(before, after)[1] == pytest.approx(np.std(changes), rel=0.05)


def test_confidence_intervals_have_their_nominal_coverage() -> None:
    covered = 0
    for seed in range(300):
        change, error = difference(*random_losses(50, seed=seed))
        assert error is not None
        covered += abs(change + 0.2) < 1.96 * error
    assert 0.9 <= covered / 300 <= 0.98


def test_a_paired_comparison_has_a_smaller_error_than_unpaired_means() -> None:
    before, after = random_losses(100, seed=3)
    change, error = difference(before, after)
    assert change == pytest.approx(after.mean - before.mean)
    assert before.standard_error is not None
    assert after.standard_error is not None
    assert error is not None
    assert error < math.hypot(before.standard_error, after.standard_error) / 4


def test_one_document_has_no_standard_error() -> None:
    assert Losses.of([3.0], [2]).standard_error is None
    assert difference(Losses.of([3.0], [2]), Losses.of([2.0], [2])) == (-0.5, None)


def test_losses_of_different_documents_are_not_compared() -> None:
    with pytest.raises(AssertionError, match="different documents"):
        difference(Losses.of([1.0, 1.0], [2, 3]), Losses.of([1.0, 1.0], [3, 2]))

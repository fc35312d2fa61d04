"""Packing: every document exactly once, nothing over the budget, deterministic for a seed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.batch import collate
from finetune.data.corpus import Corpus, Document
from finetune.data.packing import Packing, best_fit_decreasing, plan_epoch

lengths = st.lists(st.integers(2, 64), min_size=1, max_size=80).map(lambda values: np.array(values, dtype=np.int64))
packings = st.builds(
    Packing,
    budget=st.integers(64, 300),
    row=st.just(64),
    batch_size=st.integers(1, 20),
    batch_tokens=st.none() | st.integers(1, 1000),
    world_size=st.integers(1, 4),
    together=st.booleans(),
)


def corpus_of(sizes: np.ndarray) -> Corpus:
    rng = np.random.default_rng(int(sizes.sum()))
    return Corpus.of(
        Document(rng.integers(0, 99, size).astype(np.int32), np.arange(size) >= max(1, size // 2), f"row {number}")
        for number, size in enumerate(sizes)
    )


@given(lengths, packings, st.integers(0, 5), st.integers(0, 3))
def test_every_document_is_in_one_micro_batch(sizes, packing, seed, epoch) -> None:
    steps = plan_epoch(sizes, packing, seed=seed, epoch=epoch)
    assert Counter(index for step in steps for micro_batch in step for index in micro_batch) == Counter(
        range(len(sizes))
    )
    for step in steps:
        assert len(step) % packing.world_size == 0, "every rank runs the same number of micro-batches"
        assert any(step)
        assert all(sizes[list(micro_batch)].sum() <= packing.budget for micro_batch in step)
        assert packing.together or all(len(micro_batch) <= 1 for micro_batch in step)


@given(lengths, packings, st.integers(0, 5))
def test_epochs_have_the_same_number_of_steps(sizes, packing, seed) -> None:
    first, again, second = (plan_epoch(sizes, packing, seed=seed, epoch=epoch) for epoch in (0, 0, 1))
    assert first == again
    assert len(first) == len(second)


@given(lengths, st.integers(1, 20), st.integers(0, 5))
def test_packing_by_documents_keeps_the_batches(sizes, batch_size, seed) -> None:
    """Each step has the same documents as in unpacked training."""
    packed, unpacked = (
        plan_epoch(sizes, Packing(200, 64, batch_size, together=together), seed=seed, epoch=0)
        for together in (True, False)
    )
    assert [sorted(sum(step, ())) for step in packed] == [sorted(sum(step, ())) for step in unpacked]
    assert all(len(sum(step, ())) == batch_size for step in packed[:-1])


@given(lengths, st.integers(1, 1000), st.integers(0, 5), st.integers(64, 500), st.integers(1, 4))
def test_steps_by_tokens_do_not_depend_on_the_micro_batch(sizes, batch_tokens, seed, budget, world_size) -> None:
    """A run may be resumed with another micro-batch, which is chosen by the memory of the machine."""
    steps = [
        plan_epoch(sizes, Packing(size, 64, 1, batch_tokens, count), seed=seed, epoch=0)
        for size, count in ((64, 1), (budget, world_size))
    ]
    documents, others = ([sum(step, ()) for step in plan] for plan in steps)
    assert documents == others


@given(lengths)
def test_best_fit_needs_at_most_a_fifth_more_bins_than_the_minimum(sizes) -> None:
    """Best-fit decreasing uses at most 11/9 of the optimum and 4 bins more (Johnson 1974)."""
    bins = best_fit_decreasing(range(len(sizes)), sizes, 64)
    assert len(bins) <= 11 / 9 * -(-int(sizes.sum()) // 64) + 4 or (sizes > 32).sum() * 11 / 9 + 4 >= len(bins)


def test_the_fullest_bin_with_enough_room_is_chosen() -> None:
    sizes = np.array([60, 50, 40, 4, 14, 24], dtype=np.int64)
    assert {frozenset(documents) for documents in best_fit_decreasing(range(6), sizes, 64)} == {
        frozenset({0, 3}),
        frozenset({1, 4}),
        frozenset({2, 5}),
    }


def test_a_document_longer_than_a_bin_is_rejected() -> None:
    with pytest.raises(AssertionError, match="document 1 has 65 tokens"):
        best_fit_decreasing(range(2), np.array([64, 65]), 64)


@given(lengths, st.integers(0, 3), st.none() | st.integers(1, 900))
def test_every_supervised_token_is_predicted_once_from_the_token_before_it(sizes, seed, pad_to) -> None:
    corpus = corpus_of(sizes)
    seen: Counter[tuple[int, int]] = Counter()
    expected: Counter[tuple[int, int]] = Counter()
    tokens = 0
    for step in plan_epoch(sizes, Packing(150, 64, 7), seed=seed, epoch=0):
        for micro_batch in step:
            batch = collate(corpus, micro_batch, max_seqlen=64, pad_to=pad_to)
            tokens += batch.num_tokens
            cu_seqlens = batch.packed.cu_seqlens.tolist()
            assert cu_seqlens[-1] == len(batch.input_ids) == sum(batch.packed.lengths)
            assert max(batch.packed.lengths) <= 64
            for position, label in zip(batch.logit_indices.tolist(), batch.labels.tolist(), strict=True):
                document = int(np.searchsorted(cu_seqlens, position, side="right")) - 1
                assert position + 1 < cu_seqlens[document + 1], "predicted across a document boundary"
                assert batch.input_ids[position + 1] == label
                seen[micro_batch[document], position + 1 - cu_seqlens[document]] += 1
            for document, (start, end) in enumerate(pairwise(cu_seqlens)):
                assert batch.position_ids[start:end].tolist() == list(range(end - start))
                if document < len(micro_batch):
                    assert batch.input_ids[start:end].tolist() == corpus[micro_batch[document]].ids.tolist()
    for index in range(len(corpus)):
        expected.update((index, int(position)) for position in np.flatnonzero(corpus[index].supervised))
    assert seen == expected
    assert tokens == sizes.sum()


def test_an_empty_micro_batch_predicts_nothing() -> None:
    batch = collate(corpus_of(np.array([5])), (), max_seqlen=5)
    assert len(batch.logit_indices) == 0
    assert batch.num_tokens == 0
    assert batch.packed.lengths == (1,)

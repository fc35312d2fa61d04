"""Packing: every document once, nothing over the budget, the same for every seed it is given again."""

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

lengths = st.lists(st.integers(2, 64), min_size=1, max_size=80).map(lambda found: np.array(found, dtype=np.int64))
packings = st.builds(
    Packing,
    budget=st.integers(64, 300),
    row=st.just(64),
    batch_size=st.integers(1, 20),
    batch_tokens=st.none() | st.integers(1, 1000),
    world_size=st.integers(1, 4),
    together=st.booleans(),
)


def corpus_of(found: np.ndarray) -> Corpus:
    rng = np.random.default_rng(int(found.sum()))
    return Corpus.of(
        Document(rng.integers(0, 99, size).astype(np.int32), np.arange(size) >= max(1, size // 2), f"row {number}")
        for number, size in enumerate(found)
    )


@given(lengths, packings, st.integers(0, 5), st.integers(0, 3))
def test_every_document_is_in_one_micro_batch(found, packing, seed, epoch) -> None:
    steps = plan_epoch(found, packing, seed=seed, epoch=epoch)
    assert Counter(index for step in steps for micro in step for index in micro) == Counter(range(len(found)))
    for step in steps:
        assert len(step) % packing.world_size == 0, "every rank runs the same number of micro-batches"
        assert any(step)
        assert all(found[list(micro)].sum() <= packing.budget for micro in step)
        assert packing.together or all(len(micro) <= 1 for micro in step)


@given(lengths, packings, st.integers(0, 5))
def test_epochs_have_equally_many_steps_and_other_orders(found, packing, seed) -> None:
    first, again, second = (plan_epoch(found, packing, seed=seed, epoch=epoch) for epoch in (0, 0, 1))
    assert first == again
    assert len(first) == len(second)


@given(lengths, st.integers(1, 20), st.integers(0, 5))
def test_packing_by_documents_changes_no_batch(found, batch_size, seed) -> None:
    """The documents of each step are those of unpacked training."""
    packed, alone = (
        plan_epoch(found, Packing(200, 64, batch_size, together=together), seed=seed, epoch=0)
        for together in (True, False)
    )
    assert [sorted(sum(step, ())) for step in packed] == [sorted(sum(step, ())) for step in alone]
    assert all(len(sum(step, ())) == batch_size for step in packed[:-1])


@given(lengths)
def test_best_fit_needs_at_most_a_fifth_more_than_the_least_possible(found) -> None:
    """Best-fit decreasing uses at most 11/9 of the optimum and 4 bins more (Johnson 1974)."""
    bins = best_fit_decreasing(range(len(found)), found, 64)
    assert len(bins) <= 11 / 9 * -(-int(found.sum()) // 64) + 4 or (found > 32).sum() * 11 / 9 + 4 >= len(bins)


def test_a_bin_that_is_just_right_is_chosen() -> None:
    sizes = np.array([60, 50, 40, 4, 14, 24], dtype=np.int64)
    assert {frozenset(one) for one in best_fit_decreasing(range(6), sizes, 64)} == {
        frozenset({0, 3}),
        frozenset({1, 4}),
        frozenset({2, 5}),
    }


def test_a_document_longer_than_a_bin_is_refused() -> None:
    with pytest.raises(AssertionError, match="document 1 has 65 tokens"):
        best_fit_decreasing(range(2), np.array([64, 65]), 64)


@given(lengths, st.integers(0, 3), st.none() | st.integers(1, 900))
def test_every_supervised_token_is_predicted_once_from_the_token_before_it(found, seed, pad_to) -> None:
    corpus = corpus_of(found)
    seen: Counter[tuple[int, int]] = Counter()
    expected: Counter[tuple[int, int]] = Counter()
    tokens = 0
    for step in plan_epoch(found, Packing(150, 64, 7), seed=seed, epoch=0):
        for micro in step:
            batch = collate(corpus, micro, max_seqlen=64, pad_to=pad_to)
            tokens += batch.tokens
            borders = batch.packed.cu_seqlens.tolist()
            assert borders[-1] == len(batch.ids) == sum(batch.packed.lengths)
            assert max(batch.packed.lengths) <= 64
            for place, label in zip(batch.predict.tolist(), batch.labels.tolist(), strict=True):
                document = int(np.searchsorted(borders, place, side="right")) - 1
                assert place + 1 < borders[document + 1], "predicted across a border"
                assert batch.ids[place + 1] == label
                seen[micro[document], place + 1 - borders[document]] += 1
            for document, (start, end) in enumerate(pairwise(borders)):
                assert batch.positions[start:end].tolist() == list(range(end - start))
                if document < len(micro):
                    assert batch.ids[start:end].tolist() == corpus[micro[document]].ids.tolist()
    for index in range(len(corpus)):
        expected.update((index, int(place)) for place in np.flatnonzero(corpus[index].supervised))
    assert seen == expected
    assert tokens == found.sum()


def test_an_empty_micro_batch_predicts_nothing() -> None:
    batch = collate(corpus_of(np.array([5])), (), max_seqlen=5)
    assert len(batch.predict) == 0
    assert batch.tokens == 0
    assert batch.packed.lengths == (1,)

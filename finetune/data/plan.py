"""The steps of a training run, as a pure function of corpus, options and step number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from finetune.data.corpus import Corpus
from finetune.data.packing import Packing, Step, plan_epoch
from finetune.options import TrainingOptions
from selfinstruct.errors import UsageError

__all__ = ["FEW_STEPS", "EpochPlan", "Items", "require_supervised"]

FEW_STEPS = 10
"""With fewer steps than this a model learns little, and the learning rate schedule is hardly followed."""


def require_supervised(corpus: Corpus) -> None:
    """Check that a token of the corpus is supervised.

    Raises:
        UsageError: None is.
    """
    if not len(corpus) or not corpus.supervised.any():
        raise UsageError("the dataset has no supervised token: there is nothing to train on")


class Items(Protocol):
    """What a run is trained on, one by one: each item is in a micro-batch as a whole.

    The documents of a ``Corpus`` are items with their supervised tokens as terms of the loss; the prompts of
    ``finetune.data.comparisons.Comparisons`` are items of several documents with their pairs as terms.
    """

    @property
    def documents(self) -> Corpus:
        """The documents of all items."""

    @property
    def names(self) -> tuple[str, ...]:
        """Origin of each item, for messages."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(items,) tokens of each item."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """(items,) terms of the loss of each item."""

    @property
    def document_counts(self) -> NDArray[np.int64]:
        """(items,) documents of each item."""

    @property
    def digest(self) -> str:
        """SHA-256 of the items, by which a resumed run recognises its data."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class EpochPlan:
    """The steps of a run, epoch by epoch.

    Attributes:
        corpus: The training documents, or comparisons of them.
        options: The settings.
        packing: How an epoch is divided into steps.
    """

    corpus: Items
    options: TrainingOptions
    packing: Packing

    @classmethod
    def of(cls, corpus: Items, options: TrainingOptions, *, budget: int, world_size: int = 1) -> EpochPlan:
        """Plan micro-batches of ``budget`` tokens, or of the longest item if it has more.

        Raises:
            UsageError: No token of the corpus is supervised.
        """
        require_supervised(corpus.documents)
        longest = int(corpus.lengths.max())
        budget = max(budget, longest)
        row = max(longest, min(budget, options.max_length))
        packing = Packing(budget, row, options.batch_size, options.batch_tokens, world_size, options.packing)
        return cls(corpus, options, packing)

    def limited(self, budget: int) -> EpochPlan:
        """Return the plan with micro-batches of at most ``budget`` tokens, or of one item each if it is 0."""
        if budget >= self.packing.budget or not self.options.packing:
            return self
        options = self.options if budget else replace(self.options, packing=False)
        budget = budget or self.packing.budget
        return EpochPlan.of(self.corpus, options, budget=budget, world_size=self.packing.world_size)

    def epoch(self, number: int) -> list[Step]:
        """Return the steps of epoch ``number``, counted from 0."""
        return _plan_epoch(self.packing, _CorpusKey(self.corpus), self.options.seed, number)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, the same for all epochs."""
        return len(self.epoch(0))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        total = self.options.epochs * self.steps_per_epoch
        return total if self.options.max_steps is None else min(total, self.options.max_steps)

    @cached_property
    def max_seqlen(self) -> int:
        """Tokens of the longest document."""
        return int(self.corpus.documents.lengths.max())

    @property
    def efficiency(self) -> float:
        """Share of document tokens among all tokens of an epoch, if every micro-batch were padded to the budget."""
        micro_batches = sum(len(step) for step in self.epoch(0))
        return float(self.corpus.lengths.sum()) / (micro_batches * self.packing.budget)

    def step(self, number: int) -> Step:
        """Return step ``number`` of the run, counted from 0."""
        return self.epoch(number // self.steps_per_epoch)[number % self.steps_per_epoch]

    def loss_terms(self, number: int) -> int:
        """Return the number of terms of the loss in step ``number``, over all ranks: supervised tokens, or pairs."""
        targets = _targets(_CorpusKey(self.corpus))
        return sum(targets[index] for micro_batch in self.step(number) for index in micro_batch)

    def tokens_before(self, number: int) -> int:
        """Return the number of document tokens in the first ``number`` steps."""
        epochs, remaining = divmod(number, self.steps_per_epoch)
        tokens = epochs * self._tokens_per_epoch
        if remaining:
            key = _CorpusKey(self.corpus)
            tokens += int(_cumulative_tokens(self.packing, key, self.options.seed, epochs)[remaining - 1])
        return tokens

    @cached_property
    def _tokens_per_epoch(self) -> int:
        return int(self.corpus.lengths.sum())


class _CorpusKey:
    """Cache key that compares a corpus by identity, which suffices because a corpus is immutable."""

    def __init__(self, corpus: Items) -> None:
        self.corpus = corpus

    def __hash__(self) -> int:
        return id(self.corpus)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CorpusKey) and other.corpus is self.corpus


# At the border of two epochs, the loop and the thread that prefetches batches ask for two plans in turn.
@lru_cache(maxsize=4)
def _plan_epoch(packing: Packing, key: _CorpusKey, seed: int, number: int) -> list[Step]:
    return plan_epoch(key.corpus.lengths, packing, seed=seed, epoch=number)


@lru_cache(maxsize=4)
def _cumulative_tokens(packing: Packing, key: _CorpusKey, seed: int, number: int) -> NDArray[np.int64]:
    """Return (steps,) the number of document tokens up to the end of each step of an epoch."""
    lengths = key.corpus.lengths
    steps = _plan_epoch(packing, key, seed, number)
    tokens = [sum(int(lengths[list(micro_batch)].sum()) for micro_batch in step) for step in steps]
    return np.cumsum(tokens, dtype=np.int64)


@lru_cache(maxsize=2)
def _targets(key: _CorpusKey) -> list[int]:
    return [int(count) for count in key.corpus.targets]

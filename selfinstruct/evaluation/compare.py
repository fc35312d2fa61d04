"""The comparison of runs over the same items: paired differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from selfinstruct.errors import UsageError
from selfinstruct.evaluation.answers import read_answers
from selfinstruct.evaluation.contamination import read_contamination
from selfinstruct.evaluation.scores import ItemScore, Scores, SuiteScores, score_run
from selfinstruct.evaluation.statistics import (
    CONFIDENCE,
    Estimate,
    adjust_p_values,
    detection_ratio,
    estimate_difference,
    estimate_score,
)
from selfinstruct.suites.base import Metric

__all__ = ["Difference", "RunComparison", "compare_runs"]

_LISTED = 3  # items that a message names

Verdict = Literal["higher", "lower", "tied", "unknown"]


@dataclass(frozen=True)
class Difference:
    """The difference between a run and the reference on one metric of one suite.

    Attributes:
        folder: The run.
        suite: Name of the suite.
        metric: The metric.
        items: Items with an outcome in both runs.
        reference, score: The scores of the reference and of the run over these items; None without any value.
        difference: The paired difference, run minus reference; None without any value.
        adjusted_p_value: The p-value after Holm's correction over all differences; None where there is no p-value.
        items_to_detect: Number of items that would have shown the difference asked for with a power of 80%; None where
            no standard error is known.
    """

    folder: Path
    suite: str
    metric: Metric
    items: int
    reference: Estimate | None
    score: Estimate | None
    difference: Estimate | None
    adjusted_p_value: float | None = None
    items_to_detect: int | None = None

    @property
    def verdict(self) -> Verdict:
        """``higher`` or ``lower`` if the interval holds no 0 and Holm's correction agrees; otherwise ``tied``.

        ``unknown`` if there is no interval.
        """
        if self.difference is None or self.difference.interval is None:
            return "unknown"
        low, high = self.difference.interval
        if low <= 0 <= high or (self.adjusted_p_value or 0) > 1 - CONFIDENCE:
            return "tied"
        return "higher" if low > 0 else "lower"

    @property
    def tied_by_correction(self) -> bool:
        """Whether the interval alone would have shown a difference."""
        if self.verdict != "tied" or self.difference is None or self.difference.interval is None:
            return False
        low, high = self.difference.interval
        return not low <= 0 <= high


@dataclass(frozen=True)
class RunComparison:
    """The comparison of runs with a reference.

    Attributes:
        reference: The first run.
        differences: One for each run, suite and metric.
        detect: The true difference that ``items_to_detect`` is about.
        warnings: What a reader must know: items that are left out, and what else differs.
    """

    reference: Path
    differences: Sequence[Difference]
    detect: float
    warnings: Sequence[str]


def compare_runs(folders: Sequence[Path], *, detect: float, shared: bool) -> RunComparison:
    """Compare runs with the first of them, item by item.

    Args:
        folders: Run directories; at least two.
        detect: A true difference, for the number of items that would show it.
        shared: Whether to compare over the items that the runs share where they asked different ones.

    Raises:
        UsageError: A run is no evaluation, or the runs asked different items.
        LedgerError: There is no readable run in one of the directories.
    """
    if len(folders) < 2:
        raise UsageError("name at least two runs; the others are compared with the first")
    reference, *others = [score_run(read_answers(folder)) for folder in folders]
    differences: list[Difference] = []
    warnings = [warning for scores in (reference, *others) for warning in _remarks(scores)]
    for other in others:
        for first, second in _shared_suites(reference, other, shared=shared):
            pairs, remarks = _pairs(first, second, reference, other, shared=shared)
            warnings += remarks
            differences += [
                _difference(other.folder, first.name, score.metric, pairs, detect) for score in first.metrics
            ]
    return RunComparison(reference.folder, _adjusted(differences), detect, tuple(warnings))


def _shared_suites(reference: Scores, other: Scores, *, shared: bool) -> Iterator[tuple[SuiteScores, SuiteScores]]:
    """Yield the suites that both runs have.

    Raises:
        UsageError: They share no suite, or without ``shared`` a suite is only in one of them.
    """
    first, second = ({suite.name: suite for suite in scores.suites} for scores in (reference, other))
    common = [name for name in first if name in second]
    alone = sorted(first.keys() ^ second.keys())
    if not common or (alone and not shared):
        which = f"only one of them has {', '.join(alone)}"
        remedy = "; --shared compares the suites that both have" if common else ""
        raise UsageError(f"{reference.folder} and {other.folder} were asked other suites: {which}{remedy}")
    yield from ((first[name], second[name]) for name in common)


def _pairs(
    first: SuiteScores, second: SuiteScores, reference: Scores, other: Scores, *, shared: bool
) -> tuple[list[tuple[ItemScore, ItemScore]], list[str]]:
    """Return the items with an outcome in both runs, and remarks about the others.

    Raises:
        UsageError: Without ``shared``, an item is only in one of the runs or differs; or the runs share none.
    """
    mine = {item.id: item for item in first.items}
    same = [(mine[item.id], item) for item in second.items if item.id in mine and mine[item.id].digest == item.digest]
    names = sorted({item.id for item in (*first.items, *second.items)} - {item.id for item, _ in same})
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    if not same or (names and not shared):
        remedy = "; --shared compares over these" if same else ""
        raise UsageError(
            f"{reference.folder} and {other.folder} were asked different items of {first.name}: "
            f"{len(names):,} are in one of them or differ ({listed}), {len(same):,} are the same{remedy}"
        )
    remarks = [f"{first.name}: {len(same):,} items are shared; {len(names):,} others of {reference.folder} and "
               f"{other.folder} are left out ({listed})"] if names else []  # fmt: skip
    both = [pair for pair in same if pair[0].values is not None and pair[1].values is not None]
    return both, remarks


def _remarks(scores: Scores) -> Iterator[str]:
    contamination = read_contamination(scores.folder)
    if contamination is not None and contamination.items:
        yield (
            f"{scores.folder}: the training data of its model reveals items: {len(contamination.items):,} "
            f"({', '.join(contamination.items[:_LISTED])}{', ...' if len(contamination.items) > _LISTED else ''}), so "
            "that its scores may be too high; selfinstruct filter --suite removes such rows"
        )
    if scores.missing:
        yield f"{scores.folder} is incomplete: {scores.missing:,} items without an outcome are left out"


def _difference(
    folder: Path, suite: str, metric: Metric, pairs: Sequence[tuple[ItemScore, ItemScore]], detect: float
) -> Difference:
    first: list[float] = []
    second: list[float] = []
    clusters: list[str] = []
    items = 0
    for one, other in pairs:
        values = (one.values or {}).get(metric.name, ()), (other.values or {}).get(metric.name, ())
        assert len(values[0]) == len(values[1]), f"{one.id}: equal items have equal numbers of values"
        first += values[0]
        second += values[1]
        clusters += [one.cluster] * len(values[0])
        items += bool(values[0])
    if not first:
        return Difference(folder, suite, metric, items, None, None, None)
    proportion = metric.is_proportion
    difference = estimate_difference(first, second, clusters, is_proportion=proportion)
    ratio = detection_ratio(difference, detect)
    return Difference(
        folder,
        suite,
        metric,
        items,
        estimate_score(first, clusters, is_proportion=proportion),
        estimate_score(second, clusters, is_proportion=proportion),
        difference,
        items_to_detect=None if ratio is None else math.ceil(items * ratio),
    )


def _adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """Return the differences with the p-values of Holm's correction over all of them."""
    p_values = [None if each.difference is None else each.difference.p_value for each in differences]
    adjusted = iter(adjust_p_values([value for value in p_values if value is not None]))
    return [
        each if value is None else replace(each, adjusted_p_value=next(adjusted))
        for each, value in zip(differences, p_values, strict=True)
    ]

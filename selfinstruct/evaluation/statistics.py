"""Intervals for scores and for paired differences of scores, with exact formulas.

Items of one cluster are related (the instructions of a prompt, the instances of a task), so clusters are the random
sample, as in Miller 2024 (arXiv:2411.00640, section 2.2). Values that are proportions over unrelated items get score
intervals, which stay correct for few successes: Wilson's for a score, Tango's for a paired difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from selfinstruct.evaluation.distributions import normal_quantile, normal_tails, t_quantile, t_tails

__all__ = [
    "CONFIDENCE", "POWER", "Estimate", "Method", "adjust_p_values", "detection_ratio", "estimate_difference",
    "estimate_score",
]  # fmt: skip

CONFIDENCE = 0.95
POWER = 0.8

Method = Literal["wilson", "tango", "clusters", "none"]
"""How an interval was computed; ``none`` if the values of a single cluster allow none."""

_BISECTIONS = 100
_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means, with its 95% interval.

    Attributes:
        value: The mean, or the difference.
        interval: Lower and upper end; None for a single cluster.
        standard_error: Of ``value``; None for a single cluster. For score intervals, the half-length of the interval in
            standard deviations of a normal distribution.
        p_value: Two-sided, of a difference of 0; None for a score, and for a single cluster.
        values: Number of values.
        clusters: Number of clusters.
        method: How the interval was computed.
    """

    value: float
    interval: tuple[float, float] | None
    standard_error: float | None
    p_value: float | None
    values: int
    clusters: int
    method: Method


def estimate_score(values: Sequence[float], clusters: Sequence[str], *, is_proportion: bool) -> Estimate:
    """Return the mean of values and its interval.

    Args:
        values: N values; at least one.
        clusters: The cluster of each value.
        is_proportion: Whether each value is 0 or 1.
    """
    array, codes, count = _arrays(values, clusters)
    if is_proportion and count == len(array):
        return _wilson(float(array.mean()), count, len(array))
    estimate = _clustered(array, codes, count)
    if is_proportion and estimate.standard_error == 0:  # all alike, which is no certainty about further items
        estimate = _wilson(estimate.value, count, len(array))
    if is_proportion and estimate.interval is not None:
        estimate = replace(estimate, interval=(max(0.0, estimate.interval[0]), min(1.0, estimate.interval[1])))
    return replace(estimate, p_value=None)


def estimate_difference(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[str], *, is_proportion: bool
) -> Estimate:
    """Return the mean of ``second`` minus ``first``, value by value, and its interval.

    Args:
        first, second: N values each, of the same items in the same order; at least one.
        clusters: The cluster of each pair.
        is_proportion: Whether each value is 0 or 1.
    """
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    array, codes, count = _arrays(differences, clusters)
    if is_proportion and count == len(array):
        return _tango(int((array > 0).sum()), int((array < 0).sum()), count, count)
    estimate = _clustered(array, codes, count)
    if is_proportion and estimate.standard_error == 0:  # the clusters take the place of items
        gained, lost = max(0.0, estimate.value) * count, max(0.0, -estimate.value) * count
        estimate = replace(_tango(gained, lost, count, len(array)), value=estimate.value)
    return estimate


def detection_ratio(difference: Estimate, detect: float) -> float | None:
    """Return by how much the number of items must be multiplied to show a true difference, with a power of 80%.

    The number is (z_0.975 + z_0.8)² σ² / δ², where σ² / n is the squared standard error (Miller 2024,
    arXiv:2411.00640, section 5). It holds for further items of the same kind in clusters of the same sizes.

    Args:
        difference: The difference as measured.
        detect: The true difference δ, above 0.
    """
    if difference.standard_error is None:
        return None
    reach = normal_quantile((1 + CONFIDENCE) / 2) + normal_quantile(POWER)
    return (reach * difference.standard_error / detect) ** 2


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family of comparisons, adjusted by Holm's method (Holm 1979).

    A comparison whose adjusted p-value is at most 0.05 is significant at the level 0.05 for the whole family.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _arrays(values: Sequence[float] | _Array, clusters: Sequence[str]) -> tuple[_Array, NDArray[np.intp], int]:
    array = np.asarray(values, dtype=np.float64)
    assert len(array) == len(clusters) > 0
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    return array, np.array([numbers[name] for name in clusters], dtype=np.intp), len(numbers)


def _clustered(values: _Array, codes: NDArray[np.intp], count: int) -> Estimate:
    """Return the mean with a cluster-robust interval.

    The squared standard error is Σ S_c² / (1 - n_c/N) / N², where S_c is the sum of the residuals of cluster c and n_c
    its size: Miller's clustered standard error (2024, equation 4) with the correction of Bell and McCaffrey (2002)
    known as CR2, which removes the bias that few or unequal clusters cause. The quantile is that of t.

    Args:
        values: (N,) values.
        codes: (N,) number of each value's cluster, from 0.
        count: Number of clusters.
    """
    total, mean = len(values), float(values.mean())
    if count < 2:
        return Estimate(mean, None, None, None, total, count, "none")
    sizes: _Array = np.bincount(codes, minlength=count).astype(np.float64)
    sums: _Array = np.bincount(codes, weights=values - mean, minlength=count).astype(np.float64)
    factors: _Array = 1 / (1 - sizes / total)
    error = math.sqrt(float((sums**2 * factors).sum())) / total
    if error <= 1e-12 * max(1.0, abs(mean)):  # only rounding is left
        return Estimate(mean, (mean, mean), 0.0, float(abs(mean) <= 1e-12), total, count, "clusters")
    degrees = _degrees_of_freedom(values, sizes, sums, factors)
    reach = t_quantile((1 + CONFIDENCE) / 2, degrees) * error
    p_value = t_tails(mean / error, degrees)
    return Estimate(mean, (mean - reach, mean + reach), error, p_value, total, count, "clusters")


def _degrees_of_freedom(values: _Array, sizes: _Array, sums: _Array, factors: _Array) -> float:
    """Return the degrees of freedom of the squared standard error, by Satterthwaite's approximation.

    They are (tr MT)² / tr (MT)² for the quadratic form M of the squared error in the means of the clusters, and their
    variances T under a working model of equal correlation within clusters (Pustejovsky and Tipton 2018, section 2.3).
    With clusters of one size they are the number of clusters less 1; a large cluster lowers them.
    """
    total, count = len(values), len(sizes)
    weights = sizes / total
    correlation = _correlation(values, sizes, sums)
    variances = (1 - correlation) / sizes + correlation
    scale = weights**2 * factors
    # M = diag(scale) + R with R = -scale weights' - weights scale' + sum(scale) weights weights'
    whole = float(scale.sum())
    diagonal = -2 * scale * weights + whole * weights**2  # of R
    trace = float(((scale + diagonal) * variances).sum())
    ss, ww, sw = (
        float((one * other * variances).sum()) for one, other in ((scale, scale), (weights, weights), (scale, weights))
    )
    squared_rest = 2 * ss * ww + 2 * sw**2 + whole**2 * ww**2 - 4 * whole * sw * ww
    squared = float((variances**2 * (scale**2 + 2 * scale * diagonal)).sum()) + squared_rest
    return min(trace**2 / squared, count - 1)


def _correlation(values: _Array, sizes: _Array, sums: _Array) -> float:
    """Return the correlation within clusters, by the estimator of the analysis of variance (Donner 1986), from 0 to 1.

    Clusters of one value each have the correlation 1: the value is the cluster.
    """
    total, count = len(values), len(sizes)
    residuals = values - values.mean()
    between = float((sums**2 / sizes).sum())
    within = max(0.0, float((residuals**2).sum()) - between) / max(1, total - count)
    between /= count - 1
    typical = (total - float((sizes**2).sum()) / total) / (count - 1)
    denominator = between + (typical - 1) * within
    return min(1.0, max(0.0, (between - within) / denominator)) if denominator > 0 else 0.0


def _wilson(share: float, trials: int, values: int) -> Estimate:
    """Return a proportion with Wilson's score interval (1927)."""
    z = normal_quantile((1 + CONFIDENCE) / 2)
    square = z**2 / trials
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    interval = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(share, interval, half / z, None, values, trials, "wilson")


def _tango(gained: float, lost: float, pairs: int, values: int) -> Estimate:
    """Return a difference of paired proportions with Tango's score interval (1998, Statistics in Medicine 17:891).

    The p-value is that of McNemar's test without correction, which the interval inverts.

    Args:
        gained: Pairs of which only the second is a success.
        lost: Pairs of which only the first is.
        pairs: Number of pairs.
        values: Number of values, for the estimate.
    """
    z, difference = normal_quantile((1 + CONFIDENCE) / 2), (gained - lost) / pairs

    def statistic(true: float) -> float:
        """Return the score statistic of a true difference; it falls as the difference rises."""
        first = -gained - lost + (2 * pairs - gained + lost) * true
        inner = max(0.0, first**2 + 8 * pairs * lost * true * (1 - true))
        share = (math.sqrt(inner) - first) / (4 * pairs)  # of pairs that only the first wins, if ``true`` is the truth
        variance = pairs * (2 * share + true * (1 - true))
        rest = gained - lost - pairs * true
        return rest / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, rest) if rest else 0.0

    def solve(target: float, low: float, high: float) -> float:
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if statistic(middle) > target else (low, middle)
        return (low + high) / 2

    interval = solve(z, -1.0, difference), solve(-z, difference, 1.0)
    p_value = normal_tails((gained - lost) / math.sqrt(gained + lost)) if gained + lost else 1.0
    error = (interval[1] - interval[0]) / (2 * z)
    return Estimate(difference, interval, error, p_value, values, pairs, "tango")

"""Intervals of scores and of paired differences: against definitions, other methods and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.interval_coverage import SETTINGS, coverage
from selfinstruct.evaluation.distributions import normal_quantile, normal_tails, t_quantile, t_tails
from selfinstruct.evaluation.statistics import (
    adjust_p_values,
    detection_ratio,
    estimate_difference,
    estimate_score,
)
from tests.conftest import Promise

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706204736432095), (2, 4.302652729911275), (9, 2.2621571627409915), (29, 2.045229642132703),
     (3.5, 2.9400886379827), (1000, 1.9623390808264078)],
)  # fmt: skip
def test_quantiles_of_t_are_the_tabulated_ones(degrees: float, quantile: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, rel=1e-8)
    assert t_tails(quantile, degrees) == pytest.approx(0.05, rel=1e-7)


def test_t_with_many_degrees_of_freedom_is_normal() -> None:
    assert t_quantile(0.975, 1e9) == normal_quantile(0.975) == pytest.approx(Z)
    assert t_tails(1.3, 9e6) == pytest.approx(normal_tails(1.3), rel=1e-6)


def names(sizes: list[int]) -> list[str]:
    return [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)]


def test_a_proportion_over_single_items_has_wilson_s_interval() -> None:
    """Ten of 100: the interval that Newcombe (1998) lists for 10%, [0.0552, 0.1744]."""
    estimate = estimate_score([1.0] * 10 + [0.0] * 90, names([1] * 100), is_proportion=True)
    assert (estimate.method, estimate.values, estimate.clusters) == ("wilson", 100, 100)
    assert estimate.interval == pytest.approx((0.0552, 0.1744), abs=5e-5)


@pytest.mark.parametrize("values", [[0.0] * 8, [1.0] * 8])
@pytest.mark.parametrize("sizes", [[1] * 8, [2, 2, 4]])
def test_equal_successes_are_no_certainty(values: list[float], sizes: list[int]) -> None:
    low, high = estimate_score(values, names(sizes), is_proportion=True).interval
    assert 0 <= low <= values[0] <= high <= 1
    assert high - low > 0.3


def test_single_continuous_values_have_the_interval_of_the_t_test() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.4]
    estimate = estimate_score(values, names([1] * 5), is_proportion=False)
    error = np.std(values, ddof=1) / math.sqrt(5)
    assert estimate.standard_error == pytest.approx(error)
    assert estimate.interval == pytest.approx((0.42 - 2.7764451 * error, 0.42 + 2.7764451 * error))


def test_values_that_repeat_within_clusters_count_once() -> None:
    single = estimate_score([0.1, 0.5, 0.2, 0.9], names([1] * 4), is_proportion=False)
    repeated = estimate_score(np.repeat([0.1, 0.5, 0.2, 0.9], 6).tolist(), names([6] * 4), is_proportion=False)
    assert repeated.interval == pytest.approx(single.interval)
    assert (repeated.values, repeated.clusters) == (24, 4)


def test_unequal_clusters_have_the_error_and_degrees_of_freedom_of_their_matrices() -> None:
    """CR2 and Satterthwaite's approximation by the matrices of their definitions, for an intercept alone."""
    sizes = [1, 3, 3, 8]
    values = np.random.default_rng(7).normal(size=sum(sizes)) + np.repeat([0.0, 1.0, -1.0, 0.4], sizes)
    total, codes = len(values), np.repeat(range(4), sizes)
    residuals = values - values.mean()
    hat = np.full((total, total), 1 / total)
    within = sum(((values[codes == c] - values[codes == c].mean()) ** 2).sum() for c in range(4)) / (total - 4)
    between = sum(n * (values[codes == c].mean() - values.mean()) ** 2 for c, n in enumerate(sizes)) / 3
    typical = (total - sum(n**2 for n in sizes) / total) / 3
    rho = min(1.0, max(0.0, (between - within) / (between + (typical - 1) * within)))
    working = np.where(codes[:, None] == codes[None, :], rho, 0.0) + (1 - rho) * np.eye(total)
    rows = []
    for c, n in enumerate(sizes):
        block = np.eye(n) - hat[:n, :n]
        eigenvalues, vectors = np.linalg.eigh(block)
        rows.append(np.ones(n) @ (vectors @ np.diag(eigenvalues**-0.5) @ vectors.T) @ (np.eye(total) - hat)[codes == c])
    matrix = np.array(rows) / total
    error = math.sqrt(((matrix @ residuals) ** 2).sum())
    product = matrix @ working @ matrix.T
    degrees = np.trace(product) ** 2 / (product**2).sum()
    estimate = estimate_score(values.tolist(), names(sizes), is_proportion=False)
    assert estimate.standard_error == pytest.approx(error)
    assert 1 < degrees < 3
    reach = (estimate.interval[1] - estimate.interval[0]) / 2
    assert reach == pytest.approx(t_quantile(0.975, degrees) * error)


def test_one_cluster_has_no_interval() -> None:
    for estimate in (
        estimate_score([0.1, 0.3], ["a", "a"], is_proportion=False),
        estimate_difference([0.0, 1.0], [1.0, 1.0], ["a", "a"], is_proportion=True),
    ):
        assert (estimate.interval, estimate.standard_error, estimate.p_value) == (None, None, None)
        assert detection_ratio(estimate, 0.05) is None


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60))
def test_tango_s_interval_inverts_the_score_test(gained: int, lost: int, others: int) -> None:
    first = [0.0] * gained + [1.0] * lost + [1.0] * others
    second = [1.0] * gained + [0.0] * lost + [1.0] * others
    pairs = len(first)
    estimate = estimate_difference(first, second, names([1] * pairs), is_proportion=True)
    low, high = estimate.interval
    assert -1 <= low <= estimate.value == (gained - lost) / pairs <= high <= 1
    assert low < high
    if not math.isclose(estimate.p_value, 0.05, rel_tol=1e-6):
        assert (low <= 0 <= high) == (estimate.p_value > 0.05)
    for end, sign in ((low, 1), (high, -1)):  # the likelihood of the pairs, restricted to the end as the truth
        if abs(end) < 0.999:
            shares = np.linspace(max(0.0, -end) + 1e-9, min(1.0, 1 - end) - 1e-9, 20_001) / 1
            shares = shares[2 * shares + end < 1]  # probability that only the first is a success
            likelihood = lost * np.log(shares) + gained * np.log(shares + end) + others * np.log1p(-2 * shares - end)
            share = shares[np.nanargmax(likelihood)]
            statistic = (gained - lost - pairs * end) / math.sqrt(pairs * (2 * share + end - end**2))
            assert statistic == pytest.approx(sign * Z, abs=0.02)


def test_a_difference_is_paired() -> None:
    """Both scores have long intervals; their difference has a short one, since the same items are hard for both."""
    first = [0.0] * 50 + [1.0] * 50
    second = [0.0] * 45 + [1.0] * 55
    estimate = estimate_difference(first, second, names([1] * 100), is_proportion=True)
    single = estimate_score(first, names([1] * 100), is_proportion=True)
    assert estimate.value == pytest.approx(0.05)
    assert estimate.standard_error < 0.6 * single.standard_error


def test_holm_s_p_values_are_the_published_ones() -> None:
    assert adjust_p_values([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_p_values([]) == []
    assert adjust_p_values([0.6, 0.9]) == [1.0, 1.0]


def test_the_items_to_detect_a_difference_are_the_ones_that_power_asks_for() -> None:
    """0.25 of the pairs differ, so that a difference of 0.05 takes (1.96 + 0.84)² 0.25 / 0.05² = 785 items."""
    first = ([0.0] * 125 + [1.0] * 125 + [1.0] * 750) * 4
    second = ([1.0] * 125 + [0.0] * 125 + [1.0] * 750) * 4
    estimate = estimate_difference(first, second, names([1] * 4000), is_proportion=True)
    assert 4000 * detection_ratio(estimate, 0.05) == pytest.approx(785, rel=0.005)


@pytest.mark.parametrize("setting", [SETTINGS[2], SETTINGS[6], SETTINGS[10]], ids=lambda setting: setting.name)
def test_intervals_cover_the_truth(setting, promise: Promise) -> None:
    """400 data sets of the simulation; ``bench/interval_coverage.py`` runs all settings with 2,000 each."""
    share, _ = coverage(setting, 400)
    assert 0.92 <= share <= 0.98
    promise("intervals", f"{share:.1%} of 400 intervals cover the true difference ({setting.name})")


@pytest.mark.prove
def test_intervals_cover_the_truth_in_every_setting(promise: Promise) -> None:
    shares = [coverage(setting, 2000)[0] for setting in SETTINGS]
    assert all(0.93 <= share <= 0.97 for share in shares), shares
    promise("intervals", f"{min(shares):.1%} to {max(shares):.1%} of 2,000 intervals, {len(shares)} settings")

"""Quantiles and tails of the normal distribution and of Student's t, without scipy."""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["normal_quantile", "normal_tails", "t_quantile", "t_tails"]

_NORMAL = NormalDist()
_MOST_DEGREES = 1e7  # beyond, t equals the normal distribution to nine digits
_STEPS = 200
_TINY = 1e-300


def normal_quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution."""
    return _NORMAL.inv_cdf(probability)


def normal_tails(statistic: float) -> float:
    """Return the probability of a standard normal value at least as far from 0: the two-sided p-value."""
    return math.erfc(abs(statistic) / math.sqrt(2))


def t_tails(statistic: float, degrees: float) -> float:
    """Return the probability of a value of Student's t at least as far from 0: the two-sided p-value.

    It is I_x(d/2, 1/2) with x = d / (d + t²) for d degrees of freedom (Abramowitz and Stegun 1964, 26.7.1 and 26.5.27).

    Args:
        statistic: The value of t; it may be infinite.
        degrees: Degrees of freedom, any positive number.
    """
    if degrees > _MOST_DEGREES:
        return normal_tails(statistic)
    if math.isinf(statistic):
        return 0.0
    return _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + statistic**2))


def t_quantile(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t.

    Args:
        probability: From 0.5 to 1, exclusive.
        degrees: Degrees of freedom, any positive number.
    """
    if degrees > _MOST_DEGREES:
        return normal_quantile(probability)
    tails, low, high = 2 * (1 - probability), 0.0, 1.0
    while t_tails(high, degrees) > tails:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_tails(middle, degrees) > tails else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the continued fraction converges fast on the other side
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a * _continued_fraction(a, b, x)


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Evaluate the continued fraction of I_x(a, b) by Lentz's method (Press et al. 2007, section 6.4)."""
    ratio_c, ratio_d, value = math.inf, 0.0, _TINY
    for step in range(10_000):
        half = step // 2
        if step == 0:
            factor = 1.0
        elif step % 2:
            factor = -(a + half) * (a + b + half) * x / ((a + step - 1) * (a + step))
        else:
            factor = half * (b - half) * x / ((a + step - 1) * (a + step))
        ratio_d = 1 / ((1 + factor * ratio_d) or _TINY)
        ratio_c = (1 + factor / ratio_c) if step else 1 + factor / _TINY
        change = (ratio_c or _TINY) * ratio_d
        value *= change
        if abs(change - 1) < 1e-16:
            break
    return value

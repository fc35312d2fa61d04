"""The coverage of the intervals of paired differences, over simulated data sets whose true difference is known.

    python bench/interval_coverage.py

Two models answer the same items. Each answer is a success if a normal latent variable exceeds a threshold. The latent
variables of an item share its difficulty, those of a cluster share a common effect, and the second model has a further
effect on each cluster. The true difference follows from the normal distribution. An interval of 95% is right if it
covers the true difference in 93 to 97% of the data sets.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from selfinstruct.evaluation.statistics import estimate_difference

DATA_SETS = 2000
SHIFT_BY_CLUSTER = 0.5  # of the effect on clusters, in standard deviations of the common effect
NORMAL = NormalDist()

Sizes = Callable[[np.random.Generator, int], np.ndarray]


def alone(_rng, clusters):
    return np.ones(clusters, dtype=int)


def equal(_rng, clusters):
    return np.full(clusters, 5)


def unequal(rng, clusters):
    return 1 + rng.geometric(0.15, size=clusters)


def skewed(rng, clusters):
    return np.maximum(1, np.round(np.exp(rng.normal(1.5, 1.0, size=clusters)))).astype(int)


@dataclass(frozen=True)
class Setting:
    """How data sets are drawn.

    Attributes:
        name: What the setting is about.
        clusters: Number of clusters.
        sizes: Draws the number of items of each cluster.
        correlation: Share of the latent variance that a cluster's items have in common.
        base: Probability of a success of the first model.
        shift: By how much the second model's latent variables are larger.
        is_proportion: Whether the values are successes, or the latent variables themselves.
    """

    name: str
    clusters: int
    sizes: Sizes
    correlation: float
    base: float
    shift: float
    is_proportion: bool = True

    @property
    def true_difference(self) -> float:
        if not self.is_proportion:
            return self.shift
        deviation = math.sqrt(1 + SHIFT_BY_CLUSTER**2 * self.correlation)
        return NORMAL.cdf((self.shift + NORMAL.inv_cdf(self.base)) / deviation) - self.base

    def draw(self, rng):
        """Return the values of both models and the cluster of each item."""
        sizes = self.sizes(rng, self.clusters)
        codes = np.repeat(np.arange(self.clusters), sizes)
        common, further = rng.normal(size=(2, self.clusters)) * math.sqrt(self.correlation)
        rest = 1 - self.correlation
        difficulty = common[codes] + rng.normal(size=len(codes)) * math.sqrt(rest / 2)
        own = rng.normal(size=(2, len(codes))) * math.sqrt(rest / 2)
        first = difficulty + own[0]
        second = difficulty + SHIFT_BY_CLUSTER * further[codes] + own[1] + self.shift
        if not self.is_proportion:
            return first, second, codes
        threshold = NORMAL.inv_cdf(1 - self.base)
        return (first > threshold).astype(float), (second > threshold).astype(float), codes


SETTINGS = (
    Setting("100 items", 100, alone, 0.0, 0.4, 0.3),
    Setting("541 items, no difference", 541, alone, 0.0, 0.5, 0.0),
    Setting("200 items, rare successes", 200, alone, 0.0, 0.03, 0.2),
    Setting("100 items, rare successes, no difference", 100, alone, 0.0, 0.05, 0.0),
    Setting("5 unequal clusters", 5, unequal, 0.3, 0.4, 0.3),
    Setting("10 equal clusters", 10, equal, 0.3, 0.4, 0.3),
    Setting("10 skewed clusters", 10, skewed, 0.3, 0.4, 0.3),
    Setting("20 unequal clusters, hardly related", 20, unequal, 0.02, 0.4, 0.2),
    Setting("20 skewed clusters", 20, skewed, 0.3, 0.4, 0.3),
    Setting("40 skewed clusters", 40, skewed, 0.3, 0.4, 0.3),
    Setting("40 unequal clusters, rare successes", 40, unequal, 0.2, 0.03, 0.3),
    Setting("20 skewed clusters, continuous", 20, skewed, 0.3, 0.5, 0.2, is_proportion=False),
)


def coverage(setting, data_sets, seed=0):
    """Return the share of data sets whose interval covers the true difference, and the mean length of the intervals."""
    rng = np.random.default_rng(seed)
    covered, length = 0, 0.0
    for _ in range(data_sets):
        first, second, codes = setting.draw(rng)
        estimate = estimate_difference(first, second, codes.tolist(), is_proportion=setting.is_proportion)
        low, high = estimate.interval
        covered += low <= setting.true_difference <= high
        length += high - low
    return covered / data_sets, length / data_sets


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-sets", type=int, default=DATA_SETS)
    arguments = parser.parse_args()
    print(f"{arguments.data_sets} data sets for each setting")
    print("| setting | true difference | coverage | mean length |\n|---|---|---|---|")
    for setting in SETTINGS:
        share, length = coverage(setting, arguments.data_sets)
        print(f"| {setting.name} | {setting.true_difference:+.4f} | {share:.1%} | {length:.3f} |", flush=True)


if __name__ == "__main__":
    main()

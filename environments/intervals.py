"""Means and rates with 95 % intervals, over samples that come in clusters: several episodes of the same task.

Episodes of one task are alike, so the tasks are what is counted: intervals come from the means of the clusters.
"""

from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist, fmean, variance

from core.types import Value

Z = NormalDist().inv_cdf(0.975)
T_SMALL = (float("inf"), 12.706, 4.303, 3.182)
"""Student's t at 97.5 % for 1 to 3 degrees of freedom, where the expansion below is too coarse."""

Clusters = Sequence[Sequence[float]]


class Interval(Value):
    """A mean and its 95 % interval; the bounds are None where one cluster says nothing about spread."""

    mean: float
    low: float | None
    high: float | None
    clusters: int
    samples: int


def mean_interval(clusters: Clusters) -> Interval:
    """The mean of the clusters' means, with Student's t over clusters. Empty clusters are left out."""
    means = [fmean(cluster) for cluster in clusters if cluster]
    samples = sum(len(cluster) for cluster in clusters)
    if len(means) < 2:
        return Interval(mean=fmean(means) if means else 0.0, low=None, high=None, clusters=len(means), samples=samples)
    mean = fmean(means)
    half = student_t(len(means) - 1) * sqrt(variance(means) / len(means))
    return Interval(mean=mean, low=mean - half, high=mean + half, clusters=len(means), samples=samples)


def rate_interval(clusters: Clusters) -> Interval:
    """The mean of shares in [0, 1], with Wilson's interval at the number of samples that the clusters are worth.

    That number is p(1-p) over the variance of the mean (Kish), at least one a cluster, at most one a sample.
    """
    means = [fmean(cluster) for cluster in clusters if cluster]
    samples = sum(len(cluster) for cluster in clusters)
    if not means:
        return Interval(mean=0.0, low=None, high=None, clusters=0, samples=0)
    rate = fmean(means)
    low, high = wilson(rate, min(float(samples), max(float(len(means)), _worth(means, rate))))
    return Interval(mean=rate, low=low, high=high, clusters=len(means), samples=samples)


def _worth(means: Sequence[float], rate: float) -> float:
    """How many independent samples clusters with these means are worth; 0 where they do not say."""
    if len(means) < 2 or not 0 < rate < 1:
        return 0.0
    spread = variance(means) / len(means)
    return rate * (1 - rate) / spread if spread > 0 else float("inf")


def wilson(rate: float, number: float) -> tuple[float, float]:
    """The bounds of Wilson's 95 % score interval for a rate seen in `number` > 0 trials."""
    scale = 1 + Z * Z / number
    centre = (rate + Z * Z / (2 * number)) / scale
    half = Z * sqrt(rate * (1 - rate) / number + Z * Z / (4 * number * number)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def student_t(degrees: int) -> float:
    """Student's t at 97.5 %, to 0.5 %: Cornish-Fisher (Abramowitz and Stegun 26.7.5) from 4 degrees of freedom on."""
    if degrees < len(T_SMALL):
        return T_SMALL[degrees]
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
    )
    return Z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))


def pass_at(samples: int, passed: int, k: int) -> float:
    """Chance that one of `k` attempts passes, without bias, from `samples` >= k attempts of which `passed` passed.

    Source: Chen et al. 2021, arXiv 2107.03374.
    """
    return 1.0 - comb(samples - passed, k) / comb(samples, k)

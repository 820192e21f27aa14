"""Rewards of a group -> advantages: what each member is compared with."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from statistics import fmean, stdev

DEVIATION_FLOOR = 1e-4  # as TRL 1.16


class Baseline(StrEnum):
    """What a reward is compared with."""

    MEAN = "mean"
    """The group's mean."""
    STD = "std"
    """The group's mean, in units of its deviation."""
    RLOO = "rloo"
    """The mean of the other members."""


def centre(rewards_G: Sequence[float]) -> list[float]:  # noqa: N803
    """Each reward minus the group's mean, (G,) in and out; sums to 0 up to rounding. Source: arXiv 2503.20783."""
    mean = fmean(rewards_G)
    return [reward - mean for reward in rewards_G]


def standardise(rewards_G: Sequence[float]) -> list[float]:  # noqa: N803
    """Centred rewards over the group's sample deviation, (G,) in and out. Source: GRPO, arXiv 2402.03300."""
    deviation = stdev(rewards_G) + DEVIATION_FLOOR
    return [advantage / deviation for advantage in centre(rewards_G)]


def leave_one_out(rewards_G: Sequence[float]) -> list[float]:  # noqa: N803
    """Each reward minus the mean of the others, (G,) in and out. Source: RLOO, arXiv 2402.14740."""
    scale = len(rewards_G) / (len(rewards_G) - 1)
    return [advantage * scale for advantage in centre(rewards_G)]


BASELINES: dict[Baseline, Callable[[Sequence[float]], list[float]]] = {
    Baseline.MEAN: centre,
    Baseline.STD: standardise,
    Baseline.RLOO: leave_one_out,
}

"""Group relative policy optimisation, token level, against the sampler's own logprobs.

Sources: GRPO arXiv 2402.03300; no division by the deviation: Dr. GRPO, arXiv 2503.20783; clip-higher and the
token-level mean: DAPO, arXiv 2503.14476; dual clip: arXiv 1912.09729; k3: http://joschu.net/blog/kl-approx.html.
"""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from statistics import fmean, stdev
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trainer.algorithms.base import AlgorithmConfig, Loss, Predictions
from trainer.batch import Batch

DEVIATION_FLOOR = 1e-4  # as TRL 1.16


class Baseline(StrEnum):
    """What a reward is compared with."""

    MEAN = "mean"
    """The group's mean."""
    STD = "std"
    """The group's mean, in units of its deviation."""
    RLOO = "rloo"
    """The mean of the other members."""


class GRPOConfig(AlgorithmConfig):
    """Settings of GRPO; the clips bound the ratio of the trainer's to the sampler's probability."""

    name: str = "grpo"
    baseline: Baseline = Baseline.MEAN
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    clip_high: float = Field(default=0.28, ge=0)
    dual_clip: float = Field(default=3.0, gt=1, description="bound of the ratio where the advantage is negative")
    ratio_cap: float = Field(default=5.0, gt=1, description="bound of every ratio: truncated importance sampling")
    kl: float = Field(default=0.0, ge=0, description="weight of the k3 estimate of the KL to the starting model; 0: off")


def centre(rewards_G: Sequence[float]) -> list[float]:  # noqa: N803
    """Each reward minus the group's mean, (G,) in and out; sums to 0 up to rounding."""
    mean = fmean(rewards_G)
    return [reward - mean for reward in rewards_G]


def standardise(rewards_G: Sequence[float]) -> list[float]:  # noqa: N803
    """Centred rewards over the group's sample deviation, (G,) in and out."""
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


class GRPO:
    """The default algorithm."""

    config_type: ClassVar[type[AlgorithmConfig]] = GRPOConfig

    def __init__(self, config: GRPOConfig | None = None) -> None:
        self.config = config or GRPOConfig()

    @property
    def needs_reference(self) -> bool:
        return self.config.kl > 0

    def advantages(self, rewards_G: Sequence[float]) -> list[float]:  # noqa: N803
        """One advantage per scored member, as `baseline` says."""
        return BASELINES[self.config.baseline](rewards_G)

    def loss(self, predictions: Predictions, batch: Batch, tokens: int) -> Loss:
        """-sum over completion tokens of the clipped surrogate, over the step's token count."""
        mask = batch.loss_mask
        logprobs, advantages = predictions.logprobs[mask], batch.advantages[mask]
        log_ratio = logprobs - batch.logprobs[mask]
        surrogate, clipped = self._surrogate(log_ratio, advantages)
        value = -surrogate.sum()
        if self.config.kl > 0:
            assert predictions.reference is not None, "needs_reference was not honoured"
            value = value + self.config.kl * k3(predictions.reference[mask] - logprobs).sum()
        with torch.no_grad():
            distance = log_ratio.abs()
            sums = {
                "clipped": clipped.sum(),
                "entropy": predictions.entropy[mask].sum(),
                "kl_k1": -log_ratio.sum(),
                "kl_k3": k3(log_ratio).sum(),
                "dlogp": distance.sum(),
            }
            maxima = {"dlogp": distance.max() if distance.numel() else distance.new_zeros(())}
        return Loss(value / max(tokens, 1), sums, maxima)

    def _surrogate(self, log_ratio: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
        """Per-token objective, and where a clip took its gradient away."""
        config = self.config
        ratio = log_ratio.clamp(max=math.log(config.ratio_cap)).exp()
        plain = ratio * advantages
        clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * advantages
        lower = torch.minimum(plain, clipped)
        surrogate = torch.where(advantages < 0, torch.maximum(lower, config.dual_clip * advantages), lower)
        return surrogate, (surrogate != plain).detach()


def k3(log_ratio: Tensor) -> Tensor:
    """Per-token estimate of KL(q || p) from log(p / q) of tokens sampled from q; never negative."""
    return log_ratio.exp() - 1 - log_ratio

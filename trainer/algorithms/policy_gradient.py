"""What the policy gradient methods share: baseline, aggregation, KL term and measurements. They differ in the surrogate."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from core.types import Sample
from trainer.algorithms.advantages import BASELINES, Baseline
from trainer.algorithms.base import AlgorithmConfig, Loss, Predictions
from trainer.algorithms.weighing import Aggregation, OldLogprobs, against_recomputed, aggregated
from trainer.batch import Batch


class CompletionTokens(NamedTuple):
    """The N completion tokens of a micro-batch, row after row; all (N,)."""

    logprobs: Tensor
    """Nats, with gradient."""
    log_ratio: Tensor
    """log(trainer / old), with gradient."""
    advantages: Tensor
    rows: Tensor
    """The row of each token, int64."""


class KlEstimator(StrEnum):
    """Per-token estimates of the KL divergence to the reference. Source: http://joschu.net/blog/kl-approx.html."""

    K1 = "k1"
    """The log ratio itself: right in the mean, but its gradient is zero in the mean; for measuring."""
    K2 = "k2"
    """Half its square: biased, with the gradient of the divergence on policy."""
    K3 = "k3"
    """Never negative, right in the mean."""


class PolicyGradientConfig(AlgorithmConfig):
    """Settings of every policy gradient method."""

    baseline: Baseline = Baseline.MEAN
    aggregation: Aggregation = Aggregation.TOKEN
    fixed_length: int = Field(default=1024, ge=1, description="tokens; the divisor of the aggregation `fixed`")
    old_logprobs: OldLogprobs = OldLogprobs.SAMPLED
    mismatch_cap: float = Field(default=2.0, ge=1, description="bound of trainer / sampler where old_logprobs = recomputed")
    kl: float = Field(default=0.0, ge=0, description="weight of the KL to the starting model; 0: off")
    kl_estimator: KlEstimator = KlEstimator.K3


@torch.no_grad()
def measured(predictions: Predictions, batch: Batch, clipped: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums and maxima over completion tokens: distance between trainer and sampler, entropy, clips (N,)."""
    mask = batch.loss_mask
    log_ratio = predictions.logprobs[mask] - batch.logprobs[mask]
    distance = log_ratio.abs()
    sums = {
        "clipped": clipped.sum(),
        "entropy": predictions.entropy[mask].sum(),
        "kl_k1": -log_ratio.sum(),
        "kl_k3": k3(log_ratio).sum(),
        "dlogp": distance.sum(),
    }
    return sums, {"dlogp": distance.max() if distance.numel() else distance.new_zeros(())}


def k1(log_ratio: Tensor) -> Tensor:
    """Per-token estimate of KL(q || p) from log(p / q) of tokens sampled from q; may be negative."""
    return -log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """The same, half the squared log ratio; never negative."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """The same, right in the mean and never negative."""
    return log_ratio.exp() - 1 - log_ratio


KL_ESTIMATORS: dict[KlEstimator, Callable[[Tensor], Tensor]] = {
    KlEstimator.K1: k1,
    KlEstimator.K2: k2,
    KlEstimator.K3: k3,
}


class PolicyGradient(ABC):
    """All of a policy gradient method but its surrogate."""

    def __init__(self, config: PolicyGradientConfig) -> None:
        self._shared = config

    @property
    def needs_reference(self) -> bool:
        return self._shared.kl > 0

    @property
    def needs_logprobs(self) -> bool:
        return self._shared.old_logprobs is OldLogprobs.RECOMPUTED

    @property
    def compares(self) -> bool:
        return True

    def advantages(self, rewards_G: Sequence[float]) -> list[float]:  # noqa: N803
        """One advantage per scored member, as `baseline` says."""
        return BASELINES[self._shared.baseline](rewards_G)

    def prepare(self, batch: Batch, samples: Sequence[Sample], logprobs: Tensor | None) -> Batch:
        """Weights and old logprobs as `aggregation` and `old_logprobs` say."""
        config = self._shared
        if config.old_logprobs is OldLogprobs.RECOMPUTED:
            assert logprobs is not None, "needs_logprobs was not honoured"
            batch = against_recomputed(batch, logprobs, config.mismatch_cap)
        return aggregated(batch, samples, config.aggregation, config.fixed_length)

    @abstractmethod
    def surrogate(self, tokens: CompletionTokens) -> tuple[Tensor, Tensor]:
        """Objective of each token, and where a clip took its gradient away; both (N,)."""

    def loss(self, predictions: Predictions, batch: Batch, tokens: int) -> Loss:
        """-sum over completion tokens of weight times surrogate, over the step's token count; and the KL term."""
        config, mask = self._shared, batch.loss_mask
        logprobs, weights = predictions.logprobs[mask], batch.weights[mask]
        log_ratio = logprobs - batch.old_logprobs[mask]
        here = CompletionTokens(logprobs, log_ratio, batch.advantages[mask], mask.nonzero()[:, 0])
        objective, clipped = self.surrogate(here)
        value = -(objective * weights).sum()
        if config.kl > 0:
            assert predictions.reference is not None, "needs_reference was not honoured"
            distance = KL_ESTIMATORS[config.kl_estimator](predictions.reference[mask] - logprobs)
            value = value + config.kl * (distance * weights).sum()
        return Loss(value / max(tokens, 1), *measured(predictions, batch, clipped))

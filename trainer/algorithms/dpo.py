"""DPO on the best and the worst rollout of each group; the reference is the policy that sampled them.

Source: Direct Preference Optimization, arXiv 2305.18290, equation 7. A margin needs both rollouts of a pair, and a
micro-batch may hold one: the margins come from a pass without gradient, and dL/dlogp, which they fix, weights the tokens
of the pass with gradient. That is the exact gradient, in any split.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from core.types import Sample
from trainer.algorithms.base import AlgorithmConfig, Loss, Predictions
from trainer.algorithms.policy_gradient import measured
from trainer.batch import Batch


class DPOConfig(AlgorithmConfig):
    """Settings of DPO. A batch is used once: the margins are those of its first pass."""

    name: str = "dpo"
    beta: float = Field(default=0.1, gt=0, description="how far the policy is held to the one that sampled")
    epochs: Literal[1] = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    minibatches: Literal[1] = 1  # pyright: ignore[reportIncompatibleVariableOverride]


class DPO:
    """Preferences between rollouts of one task."""

    config_type: ClassVar[type[AlgorithmConfig]] = DPOConfig

    def __init__(self, config: DPOConfig | None = None) -> None:
        self.config = config or DPOConfig()

    @property
    def needs_reference(self) -> bool:
        return False

    @property
    def needs_logprobs(self) -> bool:
        return True

    @property
    def compares(self) -> bool:
        return True

    def advantages(self, rewards_G: Sequence[float]) -> list[float | None]:  # noqa: N803
        """1.0 for the best member, -1.0 for the worst, None for the others; of equal ones the first."""
        best, worst = rewards_G.index(max(rewards_G)), rewards_G.index(min(rewards_G))
        return [{best: 1.0, worst: -1.0}.get(index) for index in range(len(rewards_G))]

    def prepare(self, batch: Batch, samples: Sequence[Sample], logprobs: Tensor | None) -> Batch:
        """Weights dL/dlogp of each row, times the step's tokens; 0.0 where one of a pair is missing."""
        assert logprobs is not None, "needs_logprobs was not honoured"
        scores = ((logprobs - batch.logprobs) * batch.advantages).sum(dim=1, dtype=torch.float64).tolist()
        margins, signs = defaultdict[str, float](float), defaultdict[str, set[float]](set)
        for sample, score in zip(samples, scores, strict=True):
            margins[sample.group_id] += self.config.beta * score
            signs[sample.group_id] |= set(sample.advantages) - {0.0}
        pairs = sum(len(found) == 2 for found in signs.values())
        slopes = [_slope(margins[one.group_id]) if len(signs[one.group_id]) == 2 else 0.0 for one in samples]
        share = self.config.beta * batch.tokens / max(pairs, 1)
        return replace(batch, weights=batch.weights * (share * torch.tensor(slopes))[:, None])

    def loss(self, predictions: Predictions, batch: Batch, tokens: int) -> Loss:
        """The mean over pairs of -log sigmoid(margin), to first order around the current weights, where it is 0."""
        mask = batch.loss_mask
        logprobs = predictions.logprobs[mask]
        moved = logprobs - logprobs.detach()
        value = -(moved * batch.advantages[mask] * batch.weights[mask]).sum() / max(tokens, 1)
        return Loss(value, *measured(predictions, batch, logprobs.new_zeros(logprobs.shape)))


def _slope(margin: float) -> float:
    """-d/dm of -log sigmoid(m): 1 / (1 + e^m), without overflow."""
    return math.exp(-margin) / (1 + math.exp(-margin)) if margin > 0 else 1 / (1 + math.exp(margin))

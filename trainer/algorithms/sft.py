"""Supervised learning from the rollouts that were good enough: likelihood of what the assistant wrote.

Source: rejection sampling fine-tuning, arXiv 2308.01825. Demonstrations are rollouts with a reward too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from core.types import Sample
from trainer.algorithms.base import AlgorithmConfig, Loss, Predictions
from trainer.algorithms.policy_gradient import measured
from trainer.batch import Batch


class SFTConfig(AlgorithmConfig):
    """Settings of supervised learning."""

    name: str = "sft"
    min_reward: float = Field(default=1.0, description="least reward of a rollout that is learned from")


class SFT:
    """Mean negative log-likelihood of the completion tokens of good rollouts."""

    config_type: ClassVar[type[AlgorithmConfig]] = SFTConfig

    def __init__(self, config: SFTConfig | None = None) -> None:
        self.config = config or SFTConfig()

    @property
    def needs_reference(self) -> bool:
        return False

    @property
    def needs_logprobs(self) -> bool:
        return False

    @property
    def compares(self) -> bool:
        return False

    def advantages(self, rewards_G: Sequence[float]) -> list[float | None]:  # noqa: N803
        """1.0 for a rollout to learn from, None for others, (G,) in and out."""
        return [1.0 if reward >= self.config.min_reward else None for reward in rewards_G]

    def prepare(self, batch: Batch, samples: Sequence[Sample], logprobs: Tensor | None) -> Batch:
        """Weights that make the loss a mean over the tokens that are learned from."""
        learned = int((batch.advantages != 0).sum())
        return replace(batch, weights=batch.weights * (batch.tokens / max(learned, 1)))

    def loss(self, predictions: Predictions, batch: Batch, tokens: int) -> Loss:
        """-sum of log p over completion tokens of good rollouts, over their number."""
        mask = batch.loss_mask
        logprobs = predictions.logprobs[mask]
        value = -(logprobs * batch.advantages[mask] * batch.weights[mask]).sum() / max(tokens, 1)
        return Loss(value, *measured(predictions, batch, logprobs.new_zeros(logprobs.shape)))

"""REINFORCE with importance sampling: no trust region, only a bound on the weight. For on-policy training.

Sources: Williams 1992, doi 10.1007/BF00992696; truncated importance sampling, Ionides 2008, doi 10.1198/106186008X320456.
"""

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from trainer.algorithms.base import AlgorithmConfig
from trainer.algorithms.policy_gradient import CompletionTokens, PolicyGradient, PolicyGradientConfig


class ReinforceConfig(PolicyGradientConfig):
    """Settings of REINFORCE."""

    name: str = "reinforce"
    ratio_cap: float = Field(default=5.0, gt=1, description="bound of every ratio; a token beyond it has no gradient")


class Reinforce(PolicyGradient):
    """The plain policy gradient of what another policy sampled."""

    config_type: ClassVar[type[AlgorithmConfig]] = ReinforceConfig

    def __init__(self, config: ReinforceConfig | None = None) -> None:
        self.config = config or ReinforceConfig()
        super().__init__(self.config)

    def surrogate(self, tokens: CompletionTokens) -> tuple[Tensor, Tensor]:
        """min(r, cap) A."""
        limit = math.log(self.config.ratio_cap)
        return tokens.log_ratio.clamp(max=limit).exp() * tokens.advantages, (tokens.log_ratio > limit).detach()

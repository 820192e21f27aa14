"""CISPO: every token keeps its gradient; only the weight that importance sampling gives it is bounded.

Source: MiniMax-M1, arXiv 2506.13585, equations 4 and 5. The lower bound is off, as there.
"""

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from trainer.algorithms.base import AlgorithmConfig
from trainer.algorithms.policy_gradient import CompletionTokens, PolicyGradient, PolicyGradientConfig


class CISPOConfig(PolicyGradientConfig):
    """Settings of CISPO."""

    name: str = "cispo"
    ratio_cap: float = Field(default=4.0, gt=1, description="bound of the importance weight")


class CISPO(PolicyGradient):
    """REINFORCE with a bounded importance weight that is not differentiated."""

    config_type: ClassVar[type[AlgorithmConfig]] = CISPOConfig

    def __init__(self, config: CISPOConfig | None = None) -> None:
        self.config = config or CISPOConfig()
        super().__init__(self.config)

    def surrogate(self, tokens: CompletionTokens) -> tuple[Tensor, Tensor]:
        """min(r, cap) A log p, the weight without gradient; `clipped` is where it met its bound."""
        log_ratio, limit = tokens.log_ratio.detach(), math.log(self.config.ratio_cap)
        return log_ratio.clamp(max=limit).exp() * tokens.advantages * tokens.logprobs, log_ratio > limit

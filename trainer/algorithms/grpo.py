"""Group relative policy optimisation, token level, against the sampler's own logprobs.

Sources: GRPO arXiv 2402.03300; no division by the deviation: Dr. GRPO, arXiv 2503.20783; clip-higher and the
token-level mean: DAPO, arXiv 2503.14476; dual clip: arXiv 1912.09729; k3: http://joschu.net/blog/kl-approx.html.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trainer.algorithms.base import AlgorithmConfig
from trainer.algorithms.policy_gradient import CompletionTokens, PolicyGradient, PolicyGradientConfig


class GRPOConfig(PolicyGradientConfig):
    """Settings of GRPO; the clips bound the ratio of the trainer's to the old probability."""

    name: str = "grpo"
    clip_low: float = Field(default=0.2, ge=0, lt=1)
    clip_high: float = Field(default=0.28, ge=0)
    dual_clip: float = Field(default=3.0, gt=1, description="bound of the ratio where the advantage is negative")
    ratio_cap: float = Field(default=5.0, gt=1, description="bound of every ratio: truncated importance sampling")


class GRPO(PolicyGradient):
    """The default algorithm."""

    config_type: ClassVar[type[AlgorithmConfig]] = GRPOConfig

    def __init__(self, config: GRPOConfig | None = None) -> None:
        self.config = config or GRPOConfig()
        super().__init__(self.config)

    def surrogate(self, tokens: CompletionTokens) -> tuple[Tensor, Tensor]:
        """min(r A, clip(r) A), no less than `dual_clip` A where A < 0."""
        config, advantages = self.config, tokens.advantages
        limit = math.log(config.ratio_cap)
        ratio = tokens.log_ratio.clamp(max=limit).exp()
        plain = ratio * advantages
        clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * advantages
        lower = torch.minimum(plain, clipped)
        surrogate = torch.where(advantages < 0, torch.maximum(lower, config.dual_clip * advantages), lower)
        return surrogate, ((surrogate != plain) | (tokens.log_ratio > limit)).detach()

"""GSPO: one ratio per sequence, the geometric mean of its tokens' ratios, clipped as a whole.

Source: Group Sequence Policy Optimization, arXiv 2507.18071, equations 5 to 7 and the clips of its section 5.1. A
sequence is a row: a rollout whose history was rewritten is several.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trainer.algorithms.base import AlgorithmConfig
from trainer.algorithms.policy_gradient import CompletionTokens, PolicyGradient, PolicyGradientConfig
from trainer.algorithms.weighing import Aggregation


class GSPOConfig(PolicyGradientConfig):
    """Settings of GSPO; its clips are a thousand times narrower than GRPO's, because a mean varies so much less."""

    name: str = "gspo"
    aggregation: Aggregation = Aggregation.SEQUENCE
    clip_low: float = Field(default=3e-4, ge=0, lt=1)
    clip_high: float = Field(default=4e-4, ge=0)


class GSPO(PolicyGradient):
    """Clipping by sequence."""

    config_type: ClassVar[type[AlgorithmConfig]] = GSPOConfig

    def __init__(self, config: GSPOConfig | None = None) -> None:
        self.config = config or GSPOConfig()
        super().__init__(self.config)

    def surrogate(self, tokens: CompletionTokens) -> tuple[Tensor, Tensor]:
        """min(s A, clip(s) A) for each token, s the ratio of its row."""
        config, advantages = self.config, tokens.advantages
        count = int(tokens.rows.max()) + 1 if tokens.rows.numel() else 0
        sums = torch.zeros(count, dtype=tokens.log_ratio.dtype, device=tokens.log_ratio.device)
        lengths = torch.bincount(tokens.rows, minlength=count).clamp(min=1)
        ratio = (sums.index_add(0, tokens.rows, tokens.log_ratio) / lengths).exp()[tokens.rows]
        plain = ratio * advantages
        surrogate = torch.minimum(plain, ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * advantages)
        return surrogate, (surrogate != plain).detach()

"""RLOO: REINFORCE whose baseline is the mean of the other members. Source: arXiv 2402.14740."""

from typing import ClassVar

from trainer.algorithms.advantages import Baseline
from trainer.algorithms.base import AlgorithmConfig
from trainer.algorithms.reinforce import Reinforce, ReinforceConfig


class RLOOConfig(ReinforceConfig):
    """Settings of RLOO."""

    name: str = "rloo"
    baseline: Baseline = Baseline.RLOO


class RLOO(Reinforce):
    """REINFORCE, leave one out."""

    config_type: ClassVar[type[AlgorithmConfig]] = RLOOConfig

    def __init__(self, config: RLOOConfig | None = None) -> None:
        super().__init__(config or RLOOConfig())

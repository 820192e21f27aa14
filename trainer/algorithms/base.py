"""The contract of an algorithm: rewards of a group -> advantages, predictions of a micro-batch -> its share of the loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import ClassVar, NamedTuple, Protocol

from pydantic import Field
from torch import Tensor

from core.config import Config
from core.registry import Registry
from core.types import Sample
from trainer.batch import Batch


class Predictions(NamedTuple):
    """What the model says of a batch's tokens, each given the tokens before it.

    All (B, T), aligned with `Batch.token_ids`, 0.0 where the loss mask is False.
    """

    logprobs: Tensor
    """Nats, with gradient."""
    entropy: Tensor
    """Nats of the whole next-token distribution, without gradient."""
    reference: Tensor | None = None
    """Logprobs under the frozen model that training began with, where the algorithm asks for them."""


class Loss(NamedTuple):
    """One micro-batch's share of a step's loss, and what was measured on the way."""

    value: Tensor
    """Scalar with gradient, divided by the whole step's token count, so that shares add up."""
    sums: Mapping[str, Tensor]
    """Sums over tokens; the engine divides the step's total by its tokens."""
    maxima: Mapping[str, Tensor] = {}
    """Largest values of any token."""


LossFunction = Callable[[Predictions, Batch, int], Loss]
"""(predictions, micro-batch, completion tokens of the whole step) -> its share of the loss."""


class AdamParams(NamedTuple):
    """One AdamW step."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    """Largest global gradient norm; 0.0: no limit."""


class Schedule(StrEnum):
    """How the learning rate goes on after the warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"
    """Down to `final_share` of it at `schedule_steps`."""


class AlgorithmConfig(Config):
    """What all algorithms share: the optimiser's settings and how often a batch is used."""

    name: str
    lr: float = Field(default=1e-6, gt=0)
    warmup_steps: int = Field(default=0, ge=0, description="steps over which lr rises linearly")
    schedule: Schedule = Schedule.CONSTANT
    schedule_steps: int = Field(default=100, ge=1, description="steps, warm-up included, at which a cosine ends")
    final_share: float = Field(default=0.1, ge=0, le=1, description="share of lr that a cosine ends at")
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0, description="gradients below it move their weights by less than lr")
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: float = Field(default=1.0, ge=0)
    epochs: int = Field(default=1, ge=1, description="passes over one batch")
    minibatches: int = Field(default=1, ge=1, description="optimiser steps per pass")

    def adam(self, step: int) -> AdamParams:
        """The optimiser's parameters at a step, counted from 0: a function of the step alone."""
        share = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.schedule is Schedule.COSINE and step > self.warmup_steps:
            progress = min(1.0, (step - self.warmup_steps) / max(1, self.schedule_steps - self.warmup_steps))
            share = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * progress)) / 2
        return AdamParams(self.lr * share, self.betas, self.eps, self.weight_decay, self.grad_clip)


class Algorithm(Protocol):
    """One way to learn from scored groups."""

    config_type: ClassVar[type[AlgorithmConfig]]

    def __init__(self, config: AlgorithmConfig) -> None: ...

    @property
    def config(self) -> AlgorithmConfig: ...

    @property
    def needs_reference(self) -> bool:
        """Whether `loss` wants `Predictions.reference`; then rows without an advantage are learned from too."""
        ...

    @property
    def needs_logprobs(self) -> bool:
        """Whether `prepare` wants the trainer's own logprobs."""
        ...

    @property
    def compares(self) -> bool:
        """Whether members of a group are measured against each other: then equal ones and single ones teach nothing."""
        ...

    def advantages(self, rewards_G: Sequence[float]) -> Sequence[float | None]:  # noqa: N803
        """One advantage per scored member of a group, (G,) in and out; None: not learned from.

        If it compares: G >= 2 and not all rewards equal.
        """
        ...

    def prepare(self, batch: Batch, samples: Sequence[Sample], logprobs: Tensor | None) -> Batch:
        """The batch of one optimiser step with old logprobs and weights as the loss wants them; its rows are `samples`.

        `logprobs` (B, T) are the trainer's before its first update of the step, where `needs_logprobs`.
        """
        ...

    def loss(self, predictions: Predictions, batch: Batch, tokens: int) -> Loss:
        """A micro-batch's share of the loss of a step with that many completion tokens.

        `sums` holds at least clipped, entropy, kl_k1, kl_k3 and dlogp; `maxima` holds dlogp.
        """
        ...


ALGORITHMS: Registry[type[Algorithm]] = Registry(
    "algorithm",
    {
        "cispo": "trainer.algorithms.cispo:CISPO",
        "dpo": "trainer.algorithms.dpo:DPO",
        "grpo": "trainer.algorithms.grpo:GRPO",
        "gspo": "trainer.algorithms.gspo:GSPO",
        "reinforce": "trainer.algorithms.reinforce:Reinforce",
        "rloo": "trainer.algorithms.rloo:RLOO",
        "sft": "trainer.algorithms.sft:SFT",
    },
)

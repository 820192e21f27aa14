"""What a token counts in the loss: aggregation over tokens or rollouts, and the correction of a stale or inexact sampler.

A loss is always the sum of weight times token loss, over the completion tokens of the optimiser step. Every other mean
is a matter of the weights, so that no micro-batch has to know the others.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import torch
from torch import Tensor

from core.types import Sample
from trainer.batch import Batch


class Aggregation(StrEnum):
    """What a loss is the mean of."""

    TOKEN = "token"  # noqa: S105 not a secret
    """All completion tokens alike: long rollouts count more. Source: DAPO, arXiv 2503.14476."""
    SEQUENCE = "sequence"
    """The mean over rollouts of each one's mean. Source: GRPO, arXiv 2402.03300."""
    FIXED = "fixed"
    """The mean over rollouts of each one's sum over `fixed_length`. Source: Dr. GRPO, arXiv 2503.20783."""


class OldLogprobs(StrEnum):
    """Whose probabilities the ratio is taken against."""

    SAMPLED = "sampled"
    """The sampler's: no forward pass of its own, and staleness is in the ratio."""
    RECOMPUTED = "recomputed"
    """The trainer's before its first update of the step; the sampler's enter as truncated importance weights."""


def aggregated(batch: Batch, samples: Sequence[Sample], aggregation: Aggregation, fixed_length: int) -> Batch:
    """The batch of one optimiser step with weights (B, T) that make a sum over tokens the asked-for mean."""
    if aggregation is Aggregation.TOKEN:
        return batch
    lengths = Counter[str]()
    for sample in samples:
        lengths[sample.trajectory_id] += sum(sample.loss_mask)
    tokens, rollouts = batch.tokens, len(lengths)
    divisors = [
        fixed_length if aggregation is Aggregation.FIXED else max(1, lengths[sample.trajectory_id]) for sample in samples
    ]
    share = tokens / (rollouts * torch.tensor(divisors, dtype=torch.float64))
    return replace(batch, weights=batch.weights * share.float()[:, None])


def against_recomputed(batch: Batch, logprobs: Tensor, cap: float) -> Batch:
    """The ratio against those logprobs (B, T), each token weighted by min(trainer / sampler, cap) as of now.

    Sources: the proximal policy apart from the behaviour policy, arXiv 2110.00641; truncated importance sampling
    between engines, Yao et al. 2025, https://fengyao.notion.site/off-policy-rl.
    """
    correction = (logprobs - batch.logprobs).exp().clamp(max=cap)
    weights = torch.where(batch.loss_mask, batch.weights * correction, batch.weights)
    return replace(batch, old_logprobs=logprobs, weights=weights)

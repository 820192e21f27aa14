"""GRPO against a second writing of the papers in float64 Python, and against finite differences."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.trainer.toy import random_samples
from trainer.algorithms.advantages import Baseline
from trainer.algorithms.base import Loss, Predictions, Schedule
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.batch import Batch, collate

rewards = st.lists(st.floats(-2, 2), min_size=2, max_size=9).filter(lambda values: max(values) - min(values) > 1e-3)


def predictions(batch: Batch, spread: float = 1.0) -> Predictions:
    """Logprobs around the sampler's, so that ratios fall on both sides of every clip."""
    generator = torch.Generator().manual_seed(7)
    shape = batch.token_ids.shape
    moved = batch.logprobs.double() + spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    reference = batch.logprobs.double() - 0.1
    return Predictions((moved * batch.loss_mask).requires_grad_(), torch.zeros(shape), reference)


def paper_loss(batch: Batch, logprobs: Tensor, config: GRPOConfig, tokens: int) -> float:
    """DAPO eq. 8 with GRPO's advantages given, dual clip (arXiv 1912.09729 eq. 5) and a cap on the ratio; token by token."""
    total = 0.0
    for row in range(len(batch)):
        for position in range(batch.token_ids.shape[1]):
            if not batch.loss_mask[row, position]:
                continue
            new, old = float(logprobs[row, position]), float(batch.logprobs[row, position])
            advantage = float(batch.advantages[row, position])
            ratio = min(math.exp(new - old), config.ratio_cap)
            bounded = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
            objective = min(ratio * advantage, bounded * advantage)
            if advantage < 0:
                objective = max(objective, config.dual_clip * advantage)
            reference = old - 0.1
            total += -objective + config.kl * (math.exp(reference - new) - (reference - new) - 1)
    return total / tokens


def value(algorithm: GRPO, batch: Batch, logprobs: Tensor) -> float:
    full = predictions(batch)
    return algorithm.loss(full._replace(logprobs=logprobs), batch, batch.tokens).value.item()


CONFIGS = [
    GRPOConfig(),
    GRPOConfig(clip_low=0.1, clip_high=0.5, dual_clip=1.5),
    GRPOConfig(dual_clip=9.0, ratio_cap=2.0),
    GRPOConfig(kl=0.1),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_loss_is_the_papers(config: GRPOConfig):
    batch = collate(random_samples())
    logprobs = predictions(batch).logprobs
    expected = paper_loss(batch, logprobs.detach(), config, batch.tokens)
    assert value(GRPO(config), batch, logprobs) == pytest.approx(expected, rel=1e-6)  # advantages are float32


@pytest.mark.parametrize("config", CONFIGS)
def test_the_gradient_is_the_slope_of_the_loss(config: GRPOConfig):
    batch, algorithm, step = collate(random_samples()), GRPO(config), 1e-6
    logprobs = predictions(batch).logprobs
    (gradient,) = torch.autograd.grad(
        algorithm.loss(predictions(batch)._replace(logprobs=logprobs), batch, batch.tokens).value, logprobs
    )
    for row, position in batch.loss_mask.nonzero().tolist()[::7]:
        moved = torch.zeros_like(logprobs)
        moved[row, position] = step
        slope = (value(algorithm, batch, logprobs + moved) - value(algorithm, batch, logprobs - moved)) / (2 * step)
        assert gradient[row, position].item() == pytest.approx(slope, abs=1e-8)


def test_on_policy_the_gradient_is_reinforce():
    batch = collate(random_samples())
    logprobs = batch.logprobs.clone().requires_grad_()
    loss = GRPO().loss(Predictions(logprobs, torch.zeros_like(logprobs)), batch, batch.tokens)
    (gradient,) = torch.autograd.grad(loss.value, logprobs)
    torch.testing.assert_close(gradient, -batch.advantages / batch.tokens)


def one_token(advantage: float, ratio: float) -> tuple[Loss, Tensor]:
    batch = Batch(
        torch.tensor([[0, 1]]),
        torch.tensor([[False, True]]),
        torch.zeros(1, 2),
        torch.tensor([[0.0, advantage]]),
        torch.zeros(1, 2),
        torch.ones(1, 2),
        torch.tensor([2]),
    )
    logprobs = torch.tensor([[0.0, math.log(ratio)]], requires_grad=True)
    loss = GRPO().loss(Predictions(logprobs, torch.zeros(1, 2)), batch, 1)
    (gradient,) = torch.autograd.grad(loss.value, logprobs)
    return loss, gradient[0, 1]


@pytest.mark.parametrize(
    ("advantage", "ratio", "moves"),
    [
        (1.0, 1.2, True),
        (1.0, 1.4, False),  # already likelier by the upper clip
        (1.0, 0.5, True),  # fell though it was good: pulled back
        (-1.0, 0.9, True),
        (-1.0, 0.5, False),  # already rarer by the lower clip
        (-1.0, 1.5, True),  # rose though it was bad: pulled back
        (-1.0, 3.5, False),  # beyond the dual clip
    ],
)
def test_a_clip_stops_what_went_far_enough_and_nothing_else(advantage: float, ratio: float, moves: bool):
    loss, gradient = one_token(advantage, ratio)
    assert (gradient != 0) == moves
    assert loss.sums["clipped"] == (not moves)


def test_kl_estimates_are_zero_where_trainer_and_sampler_agree():
    loss, _ = one_token(1.0, 1.0)
    assert (loss.sums["kl_k1"], loss.sums["kl_k3"], loss.maxima["dlogp"]) == (0, 0, 0)


def test_k3_is_never_negative():
    batch = collate(random_samples())
    assert GRPO().loss(predictions(batch), batch, batch.tokens).sums["kl_k3"] > 0


@given(rewards)
def test_advantages_are_distances_to_the_mean(values: Sequence[float]):
    mean = sum(values) / len(values)
    assert GRPO().advantages(values) == pytest.approx([value - mean for value in values], abs=1e-12)


@given(rewards)
def test_standardised_advantages_are_in_units_of_the_deviation(values: Sequence[float]):
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    expected = [(value - mean) / (deviation + 1e-4) for value in values]
    assert GRPO(GRPOConfig(baseline=Baseline.STD)).advantages(values) == pytest.approx(expected, abs=1e-9)


@given(rewards)
def test_leave_one_out_compares_with_the_others(values: Sequence[float]):
    others = [(sum(values) - value) / (len(values) - 1) for value in values]
    expected = [value - other for value, other in zip(values, others, strict=True)]
    assert GRPO(GRPOConfig(baseline=Baseline.RLOO)).advantages(values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("step", "share"), [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (99, 1.0)])
def test_warm_up_raises_the_learning_rate_step_by_step(step: int, share: float):
    assert GRPOConfig(lr=1.0, warmup_steps=3).adam(step).lr == share


def test_a_cosine_ends_at_its_share_and_stays_there():
    config = GRPOConfig(lr=1.0, warmup_steps=2, schedule=Schedule.COSINE, schedule_steps=12, final_share=0.2)
    rates = [config.adam(step).lr for step in (0, 2, 7, 12, 99)]
    assert rates == pytest.approx([1 / 3, 1.0, 0.6, 0.2, 0.2])

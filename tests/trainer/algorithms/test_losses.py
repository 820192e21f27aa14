"""Every loss against a second writing of its paper in float64 Python, its gradient by finite differences, and its splits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.types import Sample
from tests.trainer.toy import random_sample
from trainer.algorithms.base import AdamParams, Algorithm, Predictions
from trainer.algorithms.cispo import CISPO, CISPOConfig
from trainer.algorithms.dpo import DPO, DPOConfig
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.algorithms.gspo import GSPO, GSPOConfig
from trainer.algorithms.policy_gradient import KlEstimator
from trainer.algorithms.reinforce import Reinforce, ReinforceConfig
from trainer.algorithms.rloo import RLOO
from trainer.algorithms.sft import SFT
from trainer.algorithms.weighing import Aggregation, OldLogprobs
from trainer.batch import Batch, collate
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig

FLOAT32 = 1e-5  # advantages, logprobs and weights are float32
LENGTHS, ADVANTAGES = [7, 19, 12, 5, 30, 9], [0.5, -0.7, 1.1, -0.2, 0.4, -1.3]


def policy_samples() -> list[Sample]:
    """Six rows of five rollouts: the first two are one rollout, split."""
    rows = [random_sample(number, *pair) for number, pair in enumerate(zip(LENGTHS, ADVANTAGES, strict=True))]
    return [rows[0], _as(rows[1], rows[0].trajectory_id, "g", 0.5), *rows[2:]]


def preferences() -> list[Sample]:
    """Three pairs, one of which lost its worse rollout; the best of the first is split into two rows."""
    signs = [("a", "x", 1.0), ("a", "x", 1.0), ("a", "y", -1.0), ("b", "z", -1.0), ("b", "w", 1.0), ("c", "v", 1.0)]
    rows = [random_sample(number, length, 1.0) for number, length in enumerate(LENGTHS)]
    return [_as(row, rollout, group, sign) for row, (group, rollout, sign) in zip(rows, signs, strict=True)]


def _as(row: Sample, trajectory: str, group: str, advantage: float) -> Sample:
    values = tuple(advantage if on else 0.0 for on in row.loss_mask)
    return row.model_copy(update={"trajectory_id": trajectory, "group_id": group, "advantages": values})


def moved(batch: Batch, seed: int, spread: float = 0.7) -> Tensor:
    """Logprobs around the sampler's, so that ratios fall on both sides of every clip."""
    noise = torch.randn(batch.token_ids.shape, generator=torch.Generator().manual_seed(seed))
    return (batch.logprobs + spread * noise) * batch.loss_mask


class Row:
    """What a paper's formula sees of one row: lists over its completion tokens, in float64."""

    def __init__(self, sample: Sample, new: Tensor, proximal: Tensor) -> None:
        places = [place for place, on in enumerate(sample.loss_mask) if on]
        self.rollout, self.group = sample.trajectory_id, sample.group_id
        self.new = [float(new[place]) for place in places]
        self.proximal = [float(proximal[place]) for place in places]
        self.sampled = [sample.logprobs[place] for place in places]
        self.advantage = sample.advantages[places[0]]


PaperTerms = Callable[[Row, Sequence[float]], list[float]]
"""A row and the log-probabilities its ratio is against -> loss of each token."""


def grpo_terms(row: Row, old: Sequence[float]) -> list[float]:
    def objective(ratio: float) -> float:
        value = min(ratio * row.advantage, min(max(ratio, 0.8), 1.28) * row.advantage)
        return max(value, 3 * row.advantage) if row.advantage < 0 else value

    return [-objective(min(math.exp(new - before), 5.0)) for new, before in zip(row.new, old, strict=True)]


def reinforce_terms(row: Row, old: Sequence[float]) -> list[float]:
    return [-min(math.exp(new - before), 5.0) * row.advantage for new, before in zip(row.new, old, strict=True)]


def cispo_terms(row: Row, old: Sequence[float]) -> list[float]:
    return [-min(math.exp(new - before), 1.5) * row.advantage * new for new, before in zip(row.new, old, strict=True)]


def gspo_terms(row: Row, old: Sequence[float]) -> list[float]:
    mean = sum(new - before for new, before in zip(row.new, old, strict=True)) / len(row.new)
    ratio = math.exp(mean)
    value = min(ratio * row.advantage, min(max(ratio, 1 - 3e-4), 1 + 4e-4) * row.advantage)
    return [-value for _ in row.new]


def paper(rows: Sequence[Row], terms: PaperTerms, aggregation: Aggregation, *, recomputed: bool) -> float:
    losses: dict[str, list[float]] = {}
    for row in rows:
        found = terms(row, row.proximal if recomputed else row.sampled)
        if recomputed:
            weights = [min(math.exp(now - then), 2.0) for now, then in zip(row.proximal, row.sampled, strict=True)]
            found = [weight * value for weight, value in zip(weights, found, strict=True)]
        losses.setdefault(row.rollout, []).extend(found)
    total = sum(sum(values) for values in losses.values())
    return {
        Aggregation.TOKEN: total / sum(len(values) for values in losses.values()),
        Aggregation.SEQUENCE: sum(sum(values) / len(values) for values in losses.values()) / len(losses),
        Aggregation.FIXED: total / len(losses) / 50,
    }[aggregation]


METHODS: list[tuple[PaperTerms, Callable[..., Algorithm]]] = [
    (grpo_terms, lambda **settings: GRPO(GRPOConfig(**settings))),
    (reinforce_terms, lambda **settings: Reinforce(ReinforceConfig(**settings))),
    (cispo_terms, lambda **settings: CISPO(CISPOConfig(ratio_cap=1.5, **settings))),
    (gspo_terms, lambda **settings: GSPO(GSPOConfig(**settings))),
]


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("aggregation", list(Aggregation))
@pytest.mark.parametrize(("terms", "make"), METHODS)
def test_a_loss_is_its_papers(terms: PaperTerms, make: Callable[..., Algorithm], aggregation: Aggregation, recomputed: bool):
    old = OldLogprobs.RECOMPUTED if recomputed else OldLogprobs.SAMPLED
    algorithm = make(aggregation=aggregation, old_logprobs=old, fixed_length=50)
    samples = policy_samples()
    batch = collate(samples)
    new, proximal = moved(batch, 1), moved(batch, 2)
    ready = algorithm.prepare(batch, samples, proximal if algorithm.needs_logprobs else None)
    loss = algorithm.loss(Predictions(new, torch.zeros_like(new)), ready, batch.tokens)
    rows = [Row(sample, new[index], proximal[index]) for index, sample in enumerate(samples)]
    assert loss.value.item() == pytest.approx(paper(rows, terms, aggregation, recomputed=recomputed), rel=FLOAT32)
    distance = (new - batch.logprobs)[batch.loss_mask].abs()
    assert loss.sums["dlogp"].item() == pytest.approx(distance.sum().item(), rel=FLOAT32), "the mismatch is to the sampler"


def double(batch: Batch) -> Batch:
    names = ("logprobs", "advantages", "old_logprobs", "weights")
    return replace(batch, **{name: getattr(batch, name).double() for name in names})


@pytest.mark.parametrize("make", [make for terms, make in METHODS if terms is not cispo_terms])
def test_a_gradient_is_the_slope_of_its_loss(make: Callable[..., Algorithm]):
    samples, step = policy_samples(), 1e-6
    algorithm = make(aggregation=Aggregation.SEQUENCE)
    batch = double(algorithm.prepare(collate(samples), samples, None))
    start = (moved(batch, 1) if make is not METHODS[3][1] else moved(batch, 1, spread=1e-3)).requires_grad_()

    def value(logprobs: Tensor) -> Tensor:
        return algorithm.loss(Predictions(logprobs, torch.zeros_like(logprobs)), batch, batch.tokens).value

    (gradient,) = torch.autograd.grad(value(start), start)
    assert gradient.abs().max() > 0
    for row, place in batch.loss_mask.nonzero().tolist()[::5]:
        nudge = torch.zeros_like(start)
        nudge[row, place] = step
        slope = (value(start + nudge) - value(start - nudge)).item() / (2 * step)
        assert gradient[row, place].item() == pytest.approx(slope, abs=1e-8)


def test_the_gradient_of_cispo_keeps_every_token():
    samples = policy_samples()
    batch = collate(samples)
    new = moved(batch, 1).requires_grad_()
    loss = CISPO(CISPOConfig(ratio_cap=1.5)).loss(Predictions(new, torch.zeros_like(new)), batch, batch.tokens)
    (gradient,) = torch.autograd.grad(loss.value, new)
    expected = -((new - batch.logprobs).exp().clamp(max=1.5) * batch.advantages / batch.tokens).detach()
    torch.testing.assert_close(gradient, expected * batch.loss_mask)
    assert 0 < loss.sums["clipped"] < batch.tokens


def test_a_token_beyond_the_cap_counts_as_clipped_whatever_its_sign():
    batch = collate([random_sample(0, 5, 1.0), random_sample(1, 5, -1.0)])
    new = torch.where(batch.loss_mask, batch.logprobs + 2.0, 0.0).requires_grad_()
    algorithm = GRPO(GRPOConfig(ratio_cap=1.5, clip_high=9.0, dual_clip=9.0))
    loss = algorithm.loss(Predictions(new, torch.zeros_like(new)), batch, batch.tokens)
    (gradient,) = torch.autograd.grad(loss.value, new)
    assert gradient.abs().max() == 0
    assert loss.sums["clipped"] == batch.tokens


@pytest.mark.parametrize(
    ("estimator", "formula"),
    [
        (KlEstimator.K1, lambda ratio: -ratio),
        (KlEstimator.K2, lambda ratio: ratio**2 / 2),
        (KlEstimator.K3, lambda ratio: math.exp(ratio) - 1 - ratio),
    ],
)
def test_the_kl_term_is_its_estimators(estimator: KlEstimator, formula: Callable[[float], float]):
    batch = collate(policy_samples())
    new, reference = moved(batch, 1), moved(batch, 3)
    values = []
    for weight in (0.0, 0.3):
        algorithm = GRPO(GRPOConfig(kl=weight, kl_estimator=estimator))
        values.append(algorithm.loss(Predictions(new, torch.zeros_like(new), reference), batch, batch.tokens).value.item())
    ratios = (reference - new)[batch.loss_mask].double().tolist()
    expected = 0.3 * sum(formula(ratio) for ratio in ratios) / batch.tokens
    assert values[1] - values[0] == pytest.approx(expected, rel=1e-4, abs=1e-6)  # a difference of two float32 losses


def test_rloo_is_reinforce_against_the_others():
    assert RLOO().advantages([1.0, 0.0, 0.5]) == pytest.approx([0.75, -0.75, 0.0])


def test_sft_is_the_mean_likelihood_of_good_rollouts():
    algorithm, samples = SFT(), [_as(row, row.trajectory_id, "g", row.advantages[2] > 0.45) for row in policy_samples()]
    batch = collate(samples)
    new = moved(batch, 1)
    ready = algorithm.prepare(batch, samples, None)
    good = [index for index, row in enumerate(samples) if row.advantages[2]]
    picked = torch.cat([new[index][batch.loss_mask[index]] for index in good])
    value = algorithm.loss(Predictions(new, torch.zeros_like(new)), ready, batch.tokens).value
    assert value.item() == pytest.approx(-picked.double().mean().item(), rel=FLOAT32)
    assert algorithm.advantages([1.0, 0.99, 2.0]) == [1.0, None, 1.0]


def test_the_gradient_of_dpo_is_that_of_its_paper():
    algorithm, samples = DPO(DPOConfig(beta=0.3)), preferences()
    batch = collate(samples)
    new = moved(batch, 1).requires_grad_()
    ready = algorithm.prepare(batch, samples, new.detach())
    (ours,) = torch.autograd.grad(algorithm.loss(Predictions(new, torch.zeros_like(new)), ready, batch.tokens).value, new)
    exact = new.detach().double().requires_grad_()
    scores = (exact - batch.logprobs.double()).mul(batch.loss_mask).sum(dim=1)
    margins = [0.3 * (scores[0] + scores[1] - scores[2]), 0.3 * (scores[4] - scores[3])]
    loss = -torch.stack([torch.nn.functional.logsigmoid(margin) for margin in margins]).mean()
    (theirs,) = torch.autograd.grad(loss, exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-7)
    assert not ours[5].any(), "a rollout without its rival teaches nothing"


def test_dpo_takes_the_best_and_the_worst():
    assert DPO().advantages([0.5, 1.0, 0.0, 1.0]) == [None, 1.0, -1.0, None]


ALL: list[Algorithm] = [
    *(make(aggregation=Aggregation.SEQUENCE, old_logprobs=OldLogprobs.RECOMPUTED) for _, make in METHODS),
    RLOO(),
    SFT(),
    DPO(),
]


def weights_after(model: Path, algorithm: Algorithm, samples: Sequence[Sample], micro_batch_tokens: int) -> dict[str, Tensor]:
    """Weights after a step whose size is the gradient's."""
    engine = TorchEngine(model, TorchEngineConfig(micro_batch_tokens=micro_batch_tokens))
    batch = collate(samples)
    known = engine.logprobs(batch) if algorithm.needs_logprobs else None
    engine.forward_backward(algorithm.prepare(batch, samples, known).with_signal(), algorithm.loss, batch.tokens)
    engine.optim_step(AdamParams(lr=1e4, eps=1e4, grad_clip=0.0))
    return engine.state_dict()


@pytest.mark.parametrize("algorithm", ALL, ids=lambda one: type(one).__name__)
def test_learning_depends_on_neither_order_nor_padding_nor_micro_batches(toy_model: Path, algorithm: Algorithm):
    samples = preferences() if isinstance(algorithm, DPO) else policy_samples()
    whole = weights_after(toy_model, algorithm, samples, 10_000)
    start = TorchEngine(toy_model, TorchEngineConfig()).state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in whole.items())
    for other in (weights_after(toy_model, algorithm, samples[::-1], 40), weights_after(toy_model, algorithm, samples, 1)):
        for name, value in whole.items():
            torch.testing.assert_close(other[name], value, atol=FLOAT32, rtol=FLOAT32, msg=name)

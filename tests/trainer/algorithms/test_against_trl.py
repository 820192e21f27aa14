"""Losses and advantages against TRL's own for the same numbers, where TRL has them; TRL runs in an environment of its own."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.trainer.algorithms.test_losses import LENGTHS, moved
from tests.trainer.toy import random_sample, write_toy_model
from trainer.algorithms.advantages import BASELINES, Baseline
from trainer.algorithms.base import Algorithm, Predictions
from trainer.algorithms.cispo import CISPO, CISPOConfig
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.algorithms.gspo import GSPO, GSPOConfig
from trainer.algorithms.weighing import Aggregation
from trainer.batch import collate

ROOT = Path(__file__).parents[3]
TRL = ROOT / ".venv-trl"
LIMIT_SECONDS = 300
FLOAT32 = 1e-5
ADVANTAGES = [0.5, -0.7, 1.1, -0.2, 0.4, -1.3]

pytestmark = pytest.mark.skipif(not (TRL / ".ready").exists(), reason="TRL is not installed: make trl")


class Case(NamedTuple):
    """One of our algorithms, and what TRL calls it."""

    make: Callable[[], Algorithm]
    settings: dict[str, object]


CLIPS = {"clip_low": 0.2, "clip_high": 0.28}
THEIR_CLIPS = {"epsilon": 0.2, "epsilon_high": 0.28, "delta": 3.0}
FAR = 1e6  # a cap that no ratio of these tests meets; TRL has none

CASES = {
    "dapo": Case(lambda: GRPO(GRPOConfig(**CLIPS, ratio_cap=FAR)), {"loss_type": "dapo", **THEIR_CLIPS}),
    "grpo": Case(
        lambda: GRPO(GRPOConfig(**CLIPS, ratio_cap=FAR, aggregation=Aggregation.SEQUENCE)),
        {"loss_type": "grpo", **THEIR_CLIPS},
    ),
    "dr_grpo": Case(
        lambda: GRPO(GRPOConfig(**CLIPS, ratio_cap=FAR, aggregation=Aggregation.FIXED, fixed_length=50)),
        {"loss_type": "dr_grpo", "max_completion_length": 50, **THEIR_CLIPS},
    ),
    # by default TRL also multiplies the KL term by the ratio (arXiv 2512.02556)
    "kl": Case(
        lambda: GRPO(GRPOConfig(**CLIPS, ratio_cap=FAR, kl=0.1)),
        {"loss_type": "dapo", "beta": 0.1, "use_bias_correction_kl": False, **THEIR_CLIPS},
    ),
    "cispo": Case(lambda: CISPO(CISPOConfig(ratio_cap=1.5)), {"loss_type": "cispo", "epsilon_high": 1.5}),
    "gspo": Case(
        lambda: GSPO(GSPOConfig(clip_low=0.2, clip_high=0.28)),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.2, "epsilon_high": 0.28},
    ),
}


class Normed(NamedTuple):
    """Which of TRL's trainers has a baseline of ours, and how it is told to."""

    trainer: str
    settings: dict[str, object]


NORMED = {
    Baseline.MEAN: Normed("grpo", {"scale_rewards": "none"}),
    Baseline.STD: Normed("grpo", {"scale_rewards": "group"}),
    Baseline.RLOO: Normed("rloo", {"beta": 0.0}),
}
REWARDS = [[0.1, 0.9, 0.4, 0.4], [0.0, 1.0, 0.0, 0.0], [-2.5, 30.0, 0.0, 1e-3], [0.7, 0.7, 0.7, 0.7]]


class Theirs(NamedTuple):
    """What TRL makes of the same numbers."""

    losses: dict[str, tuple[float, torch.Tensor]]
    """Loss and gradient of each case."""
    advantages: dict[Baseline, torch.Tensor]
    """Of REWARDS, for each baseline."""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    """All of it, by one process."""
    samples = [random_sample(number, *pair) for number, pair in enumerate(zip(LENGTHS, ADVANTAGES, strict=True))]
    batch = collate(samples)
    numbers = {
        "logprobs": moved(batch, 1),
        "reference": moved(batch, 3),
        "old": batch.logprobs,
        "mask": batch.loss_mask,
        "advantages": torch.tensor(ADVANTAGES),
    }
    path = tmp_path_factory.mktemp("trl") / "cases.pt"
    asked = {
        "model": str(write_toy_model(path.parent / "model")),
        "losses": [{**numbers, "settings": case.settings} for case in CASES.values()],
        "advantages": [{**one._asdict(), "rewards": torch.tensor(REWARDS)} for one in NORMED.values()],
    }
    torch.save(asked, path)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [TRL / "bin/python", Path(__file__).with_name("trl_numbers.py"), path]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = torch.load(path.with_suffix(".out"))
    return Theirs(
        losses=dict(zip(CASES, found["losses"], strict=True)),
        advantages=dict(zip(NORMED, found["advantages"], strict=True)),
    )


@pytest.mark.parametrize("name", CASES)
def test_a_loss_and_its_gradient_are_trls(name: str, theirs: Theirs):
    samples = [random_sample(number, *pair) for number, pair in enumerate(zip(LENGTHS, ADVANTAGES, strict=True))]
    algorithm, batch = CASES[name].make(), collate(samples)
    logprobs = moved(batch, 1).requires_grad_()
    ready = algorithm.prepare(batch, samples, None)
    loss = algorithm.loss(Predictions(logprobs, torch.zeros_like(logprobs), moved(batch, 3)), ready, batch.tokens).value
    (gradient,) = torch.autograd.grad(loss, logprobs)
    value, slope = theirs.losses[name]
    assert loss.item() == pytest.approx(value, rel=FLOAT32)
    torch.testing.assert_close(gradient, slope, rtol=FLOAT32, atol=FLOAT32 / batch.tokens)


@pytest.mark.parametrize("baseline", NORMED)
def test_advantages_are_trls(baseline: Baseline, theirs: Theirs):
    ours = torch.tensor([BASELINES[baseline](rewards) for rewards in REWARDS])
    torch.testing.assert_close(ours, theirs.advantages[baseline], rtol=FLOAT32, atol=FLOAT32)

"""One batch of groups, several optimiser steps."""

from pathlib import Path

import pytest
import torch

from tests.trainer.toy import group, pair, scored, turn
from trainer.algorithms.advantages import centre
from trainer.algorithms.base import Algorithm
from trainer.algorithms.dpo import DPO, DPOConfig
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.algorithms.sft import SFT, SFTConfig
from trainer.algorithms.weighing import OldLogprobs
from trainer.batch import collate
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.learner import Learner, Lesson
from trainer.samples import Admission, Dropped, build_samples


def learn(model: Path, seed: int = 0, **settings: object) -> tuple[Lesson, TorchEngine]:
    algorithm = GRPO(GRPOConfig(lr=0.01, **settings))
    engine = TorchEngine(model, TorchEngineConfig(), with_reference=algorithm.needs_reference)
    groups = [pair(str(number)) for number in range(4)]
    return Learner(engine, algorithm, seed=seed).learn(groups, Admission(), step=0), engine


@pytest.mark.parametrize(("settings", "steps"), [({}, 1), ({"minibatches": 4}, 4), ({"epochs": 2, "minibatches": 2}, 4)])
def test_a_batch_is_used_as_often_as_told(toy_model: Path, settings: dict[str, int], steps: int):
    lesson, _ = learn(toy_model, **settings)
    assert len(lesson.passes) == steps
    assert lesson.tokens == 12 * settings.get("epochs", 1)


def test_the_seed_decides_the_shuffling(toy_model: Path):
    first, second = (learn(toy_model, seed=3, minibatches=4)[1].state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_lesson_makes_the_good_rollout_likelier(toy_model: Path):
    lesson, engine = learn(toy_model, epochs=3)
    again = Learner(engine, GRPO()).learn([pair("x")], Admission(), step=1)
    assert lesson.changed
    assert again.loss < lesson.passes[0].loss


def test_rows_without_an_advantage_are_not_passed_through_the_model(toy_model: Path):
    members = [scored(name, reward, [turn([1], [2, 3])]) for name, reward in (("a", 0.0), ("b", 0.5), ("c", 1.0))]
    engine = TorchEngine(toy_model, TorchEngineConfig())
    lesson = Learner(engine, GRPO()).learn([group("g", members)], Admission(), step=0)
    assert (lesson.samples.tokens, lesson.tokens) == (6, 4)


def test_with_a_kl_term_all_rows_are_learned_from(toy_model: Path):
    lesson, _ = learn(toy_model, kl=0.1)
    assert lesson.tokens == 12


@pytest.mark.parametrize(
    "algorithm",
    [
        GRPO(GRPOConfig(lr=0.01, minibatches=2, old_logprobs=OldLogprobs.RECOMPUTED)),
        SFT(SFTConfig(lr=0.01)),
        DPO(DPOConfig(lr=0.01)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_every_kind_of_algorithm_prefers_the_good_rollout_afterwards(toy_model: Path, algorithm: Algorithm):
    groups = [pair(str(number)) for number in range(4)]
    engine, rows = TorchEngine(toy_model, TorchEngineConfig()), collate(build_samples(groups, centre).samples)

    def preference() -> float:
        logprobs = engine.logprobs(rows)
        return float((logprobs.sum(dim=1) * rows.advantages.sum(dim=1).sign()).sum())

    before = preference()
    lesson = Learner(engine, algorithm).learn(groups, Admission(), step=0)
    assert lesson.changed
    assert preference() > before


def test_sft_learns_from_rollouts_that_have_no_rival(toy_model: Path):
    engine = TorchEngine(toy_model, TorchEngineConfig())
    alone = group("g", [scored("a", 1.0, [turn([1], [2, 3])])])
    assert Learner(engine, SFT()).learn([alone], Admission(), step=0).tokens == 2
    assert not Learner(engine, GRPO()).learn([alone], Admission(), step=0).changed


@pytest.mark.parametrize(("algorithm", "trained"), [(SFT(), 3), (DPO(), 2), (GRPO(), 4)], ids=lambda one: type(one).__name__)
def test_rollouts_that_teach_nothing_are_counted_as_such(toy_model: Path, algorithm: Algorithm, trained: int):
    rewards = (1.0, 0.5, 1.0, 1.0)
    one = group("g", [scored(str(number), reward, [turn([1], [2, 3])]) for number, reward in enumerate(rewards)])
    found = Learner(TorchEngine(toy_model, TorchEngineConfig()), algorithm).learn([one], Admission(), step=0).samples
    assert (found.rollouts, found.trained) == (4, trained)
    assert found.dropped == ({Dropped.NOT_CHOSEN: 4 - trained} if trained < 4 else {})

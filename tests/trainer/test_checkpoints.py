"""Checkpoints: the next step after a crash is the step that would have been."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.trainer.toy import ToySampler, random_samples, write_toy_model
from trainer.algorithms.base import AdamParams
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.batch import collate
from trainer.checkpoints import CheckpointConfig, CheckpointStore, Progress
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.learner import Learner
from trainer.loop import LoopConfig, TakenBatch, TrainLoop
from trainer.weights import PARTIAL


def engine(directory: Path) -> TorchEngine:
    return TorchEngine(directory, TorchEngineConfig())


def step(one: TorchEngine) -> tuple[float, float]:
    measured = one.forward_backward(collate(random_samples()), GRPO().loss)
    return measured.loss, one.optim_step(AdamParams(lr=0.01))


def test_a_restored_engine_makes_the_same_steps_to_the_last_bit(toy_model: Path, tmp_path: Path):
    store, original = CheckpointStore(tmp_path), engine(toy_model)
    step(original)
    store.save(Progress(step=1, policy_version=1, trained_groups=("g",)), original)
    restored = engine(toy_model)
    assert store.restore(restored) == Progress(step=1, policy_version=1, trained_groups=("g",))
    assert [step(restored) for _ in range(3)] == [step(original) for _ in range(3)]
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in original.state_dict().items())


def test_random_states_come_back(toy_model: Path, tmp_path: Path):
    store, one = CheckpointStore(tmp_path), engine(toy_model)
    torch.manual_seed(5)
    store.save(Progress(), one)
    drawn = torch.rand(3)
    store.restore(one)
    assert torch.equal(torch.rand(3), drawn)


def test_transformers_reads_a_checkpoint(toy_model: Path, tmp_path: Path):
    path = CheckpointStore(tmp_path).save(Progress(step=3), engine(toy_model))
    assert engine(path / "model").vocabulary == engine(toy_model).vocabulary


def test_nothing_to_restore_is_not_an_error(toy_model: Path, tmp_path: Path):
    assert CheckpointStore(tmp_path / "new").restore(engine(toy_model)) is None


def test_only_the_newest_are_kept(toy_model: Path, tmp_path: Path):
    store, one = CheckpointStore(tmp_path, CheckpointConfig(keep=2)), engine(toy_model)
    for number in (8, 9, 10, 11):
        store.save(Progress(step=number), one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]
    assert store.newest_step() == 11


def test_a_checkpoint_that_was_cut_short_is_not_seen(toy_model: Path, tmp_path: Path):
    store, one = CheckpointStore(tmp_path), engine(toy_model)
    store.save(Progress(step=1), one)
    (tmp_path / f"{PARTIAL}dead").mkdir()
    (tmp_path / "step-00000002").mkdir()
    assert store.restore(one) == Progress(step=1)


RUN = """
import asyncio, sys
from pathlib import Path
from tests.trainer.test_checkpoints import train
asyncio.run(train(Path(sys.argv[1]), Path(sys.argv[2]), until=100_000, announce=True))
"""


async def train(model: Path, out: Path, until: int, *, announce: bool = False) -> list[tuple[float | None, ...]]:
    """Figures of the steps that were made here; all of them depend on every weight."""
    figures = []

    def on_step(record) -> None:
        figures.append((record.reward_mean, record.entropy, record.grad_norm))
        if announce:
            sys.stdout.write(f"{record.step}\n")
            sys.stdout.flush()

    learner = Learner(TorchEngine(model, TorchEngineConfig()), GRPO(GRPOConfig(lr=0.01)))
    loop = TrainLoop(LoopConfig(max_steps=until), learner, CheckpointStore(out), on_step)
    sampler = SeededSampler(model, loop)
    await loop.run(sampler, sampler)
    return figures


class SeededSampler(ToySampler):
    """The same weights and step give the same groups, so that two runs can be compared."""

    def __init__(self, model: Path, loop: TrainLoop) -> None:
        super().__init__(model, winner=5, groups=4)
        self._loop = loop

    def _number(self) -> int:
        return self._loop.progress.step

    async def take_batch(self, policy_version: int) -> TakenBatch:
        self._generator.manual_seed(self._number())
        return await super().take_batch(policy_version)


def test_kill_9_at_any_moment_and_resume_give_the_run_that_nobody_killed(tmp_path: Path):
    model = write_toy_model(tmp_path / "model")
    moments = random.Random(7)
    for _ in range(4):  # killed, resumed, killed again, within a step, a publication or a checkpoint
        with subprocess.Popen(
            [sys.executable, "-c", RUN, model, tmp_path / "killed"], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(2):
                assert process.stdout.readline()
            time.sleep(moments.uniform(0.0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
    done = CheckpointStore(tmp_path / "killed").newest_step()
    assert done is not None
    until = done + 3
    resumed = asyncio.run(train(model, tmp_path / "killed", until))
    whole = asyncio.run(train(model, tmp_path / "whole", until))
    assert len(set(resumed)) == 3, "steps that learned nothing prove nothing"
    assert resumed == whole[-3:]

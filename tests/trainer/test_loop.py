"""The loop: learns a bandit, accounts for every rollout, and acknowledges only what is safe."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from core.errors import TrainingError
from core.types import ScoredGroup, Update
from tests.trainer.toy import ToySampler, group, lost, pair, scored, turn
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.checkpoints import CheckpointConfig, CheckpointStore
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.learner import Learner
from trainer.loop import LoopConfig, Mode, Phase, TakenBatch, TrainLoop
from trainer.metrics import StepRecord


class ListSource:
    """Hands out batches of a list; None where the list says so, and stops the loop at its end."""

    def __init__(self, *batches: Sequence[ScoredGroup] | None) -> None:
        self.batches = list(batches)
        self.loop: TrainLoop | None = None
        self.taken = 0
        self.acknowledged: dict[str, Update] = {}
        self.spare: list[ScoredGroup] = []
        self.refused: list[list[str]] = []

    async def take_batch(self, policy_version: int) -> TakenBatch | None:
        if self.taken == len(self.batches):
            assert self.loop is not None
            self.loop.stop()
            return None
        groups = self.batches[self.taken]
        self.taken += 1
        self.held = list(groups or ())
        return None if groups is None else TakenBatch(f"batch-{self.taken}", groups)

    async def refill(self, batch_id: str, refused: Sequence[str], policy_version: int) -> TakenBatch | None:
        self.refused.append(list(refused))
        fresh, self.spare = self.spare[: len(refused)], self.spare[len(refused) :]
        if len(fresh) < len(refused):
            assert self.loop is not None
            self.loop.stop()
            return None
        self.held = [one for one in self.held if one.id not in refused] + fresh
        return TakenBatch(batch_id, self.held)

    async def acknowledge(self, batch_id: str, update: Update) -> None:
        self.acknowledged[batch_id] = update


class Publications(list[int]):
    """The versions that were published."""

    async def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.append(version)


class BrokenPublisher:
    """Takes the weights that it starts with and no others."""

    async def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        if version:
            raise TrainingError("the sampler is gone")


def make_loop(model: Path, out: Path, records: list[StepRecord], config: LoopConfig | None = None, every: int = 1) -> TrainLoop:
    learner = Learner(TorchEngine(model, TorchEngineConfig()), GRPO(GRPOConfig(lr=0.003)))
    store = CheckpointStore(out, CheckpointConfig(every=every))
    return TrainLoop(config or LoopConfig(max_refill=1), learner, store, records.append)


async def run(
    model: Path, out: Path, source: ListSource, config: LoopConfig | None = None
) -> tuple[list[StepRecord], Publications, TrainLoop]:
    records, published = list[StepRecord](), Publications()
    loop = source.loop = make_loop(model, out, records, config)
    await loop.run(source, published)
    return records, published, loop


async def test_a_toy_model_learns_which_token_pays(toy_model: Path, tmp_path: Path):
    records: list[StepRecord] = []
    learner = Learner(TorchEngine(toy_model, TorchEngineConfig()), GRPO(GRPOConfig(lr=0.01)))
    loop = TrainLoop(LoopConfig(max_steps=60), learner, CheckpointStore(tmp_path, CheckpointConfig(every=60)), records.append)
    sampler = ToySampler(toy_model, winner=5)
    await loop.run(sampler, sampler)
    rewards = [record.reward_mean or 0.0 for record in records]
    assert rewards[0] < 0.3
    assert sum(rewards[-5:]) / 5 > 0.9
    assert max(record.dlogp_max for record in records) < 1e-4  # the toy sampler is the same model, in float32


async def test_a_step_publishes_and_acknowledges(toy_model: Path, tmp_path: Path):
    source = ListSource([pair("g1")], [pair("g2", version=1)])
    records, published, loop = await run(toy_model, tmp_path, source)
    assert published == [0, 1, 2]
    assert {name: (update.step, update.policy_version) for name, update in source.acknowledged.items()} == {
        "batch-1": (1, 1),
        "batch-2": (2, 2),
    }
    assert [record.rollouts_trained for record in records] == [2, 2]
    assert loop.phase is Phase.IDLE


async def test_an_update_names_the_weights_that_it_made(toy_model: Path, tmp_path: Path):
    source = ListSource([pair("g1")])
    await run(toy_model, tmp_path, source)
    path = source.acknowledged["batch-1"].weights_path
    assert path is not None
    assert TorchEngine(Path(path), TorchEngineConfig()).vocabulary == 24


async def test_a_batch_without_a_signal_is_a_step_that_changes_nothing(toy_model: Path, tmp_path: Path):
    source = ListSource([silent("g")])
    records, published, _ = await run(toy_model, tmp_path, source)
    assert published == [0]
    assert source.acknowledged["batch-1"].policy_version == 0
    assert (records[0].tokens, records[0].dropped) == (0, {"zero_variance": 2})


def silent(name: str) -> ScoredGroup:
    """A group whose members earned the same."""
    return group(name, [scored(f"{name}-{member}", 1.0, [turn([1], [2])]) for member in "ab"])


async def test_groups_that_teach_nothing_are_replaced_and_counted(toy_model: Path, tmp_path: Path):
    source = ListSource([pair("a"), silent("b"), silent("c")])
    source.spare = [silent("d"), pair("e"), pair("f")]
    records, _, _ = await run(toy_model, tmp_path, source, LoopConfig())
    assert source.refused == [["b", "c"], ["d"]]
    assert (records[0].groups, records[0].rollouts_trained, records[0].dropped) == (6, 6, {"zero_variance": 6})


async def test_a_batch_that_cannot_be_filled_is_learned_from_as_it_is(toy_model: Path, tmp_path: Path):
    source = ListSource([pair("a"), silent("b")])
    source.spare = [silent(name) for name in "cdef"]
    records, _, _ = await run(toy_model, tmp_path, source, LoopConfig(max_refill=2))
    assert source.refused == [["b"], ["c"]]
    assert (records[0].groups, records[0].rollouts_trained) == (4, 2)


async def test_a_group_that_was_learned_from_is_not_asked_to_be_dropped(toy_model: Path, tmp_path: Path):
    await run(toy_model, tmp_path, ListSource([pair("a")]))
    source = ListSource([pair("a"), pair("b", version=1)])
    await run(toy_model, tmp_path, source, LoopConfig())
    assert source.refused == []


async def test_every_rollout_of_a_batch_is_accounted_for(toy_model: Path, tmp_path: Path):
    batch = [pair("a"), group("b", [lost("x"), lost("y"), scored("z", 1.0, [turn([1], [2])])])]
    records, _, _ = await run(toy_model, tmp_path, ListSource(batch))
    assert records[0].rollouts == records[0].rollouts_trained + sum(records[0].dropped.values())
    assert records[0].dropped == {"failed": 2, "too_small": 1}


@pytest.mark.parametrize(("mode", "dropped"), [(Mode.ASYNC, {}), (Mode.SYNC, {"stale": 2})])
async def test_sync_learns_from_the_newest_policy_only(toy_model: Path, tmp_path: Path, mode: Mode, dropped: dict[str, int]):
    source = ListSource([pair("a")], [pair("b", version=0)])
    records, _, _ = await run(toy_model, tmp_path, source, LoopConfig(mode=mode, max_refill=1))
    assert records[1].dropped == dropped


async def test_groups_beyond_the_bound_are_stale(toy_model: Path, tmp_path: Path):
    source = ListSource([pair("a")], [pair("b", version=1)], [pair("c", version=0), pair("d", version=1)])
    records, _, _ = await run(toy_model, tmp_path, source, LoopConfig(max_staleness=1, max_refill=1))
    assert records[2].dropped == {"stale": 2}
    assert records[2].staleness == {"1": 2, "2": 2}


async def test_an_empty_wait_is_no_step(toy_model: Path, tmp_path: Path):
    records, _, _ = await run(toy_model, tmp_path, ListSource(None, [pair("a")], None))
    assert len(records) == 1


async def test_a_resumed_run_goes_on_and_publishes_what_it_has(toy_model: Path, tmp_path: Path):
    await run(toy_model, tmp_path, ListSource([pair("a")]))
    records, published, _ = await run(toy_model, tmp_path, ListSource([pair("b", version=1)]))
    assert published == [1, 2]
    assert records[0].step == 2


async def test_a_group_that_comes_back_after_a_crash_is_not_learned_from_twice(toy_model: Path, tmp_path: Path):
    await run(toy_model, tmp_path, ListSource([pair("a")]))
    records, _, _ = await run(toy_model, tmp_path, ListSource([pair("a"), pair("b", version=1)]))
    assert records[0].dropped == {"already_trained": 2}
    assert records[0].rollouts_trained == 2


async def test_a_checkpoint_holds_what_the_source_is_to_be_told(toy_model: Path, tmp_path: Path):
    source = ListSource([pair("a")])
    _, _, loop = await run(toy_model, tmp_path, source)
    restored = make_loop(toy_model, tmp_path, []).progress
    assert restored == loop.progress
    assert restored.told is not None
    assert {restored.told.batch_id: restored.told.update} == source.acknowledged


async def test_what_lost_versions_sampled_is_stale(toy_model: Path, tmp_path: Path):
    records, published = list[StepRecord](), Publications()
    source = ListSource([pair("lost", version=6), pair("older", version=0)], [pair("fresh", version=9)])
    loop = source.loop = make_loop(toy_model, tmp_path, records, LoopConfig(max_staleness=2, max_refill=1))
    loop.skip_versions(5)
    await loop.run(source, published)
    assert published == [9, 10]
    assert [(record.dropped, record.rollouts_trained) for record in records] == [({"stale": 4}, 0), ({}, 2)]


async def test_where_no_version_was_lost_none_is_skipped(toy_model: Path, tmp_path: Path):
    await run(toy_model, tmp_path, ListSource([pair("a")]))
    loop = make_loop(toy_model, tmp_path, [])
    loop.skip_versions(1)
    assert loop.progress.policy_version == 1


async def test_a_batch_whose_weights_could_not_be_published_is_not_acknowledged(toy_model: Path, tmp_path: Path):
    source, records = ListSource([pair("a")]), []
    loop = source.loop = make_loop(toy_model, tmp_path, records)
    with pytest.raises(TrainingError, match="the sampler is gone"):
        await loop.run(source, BrokenPublisher())
    assert (source.acknowledged, records) == ({}, [])
    assert CheckpointStore(tmp_path).newest_step() is None


async def test_stopping_between_checkpoints_makes_one(toy_model: Path, tmp_path: Path):
    source = ListSource([pair("a")])
    loop = source.loop = make_loop(toy_model, tmp_path, [], every=10)
    await loop.run(source, Publications())
    assert CheckpointStore(tmp_path).newest_step() == 1


async def test_the_last_step_is_the_last(toy_model: Path, tmp_path: Path):
    source = ListSource([pair("a")], [pair("b", version=1)])
    records, _, _ = await run(toy_model, tmp_path, source, LoopConfig(max_steps=1))
    assert (len(records), source.taken) == (1, 1)

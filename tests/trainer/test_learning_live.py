"""Trainer and sampler in one process, each in its thread: episodes of two turns, sampled while updates run."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from core.types import Message, Role, ScoredGroup, Turn, Update
from tests.trainer.toy import group, scored
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.checkpoints import CheckpointConfig, CheckpointStore
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.inference.base import GenerationRequest, InferenceEngine, SamplingParams
from trainer.inference.local_engine import LocalEngine
from trainer.learner import Learner
from trainer.loop import LoopConfig, TakenBatch, TrainLoop
from trainer.metrics import StepRecord

WINNER, GROUPS, SIZE = 5, 4, 8


class LiveSource:
    """Keeps sampling groups with whatever weights the engine has, two batches ahead at most."""

    def __init__(self, engine: InferenceEngine) -> None:
        self._engine = engine
        self._queue: asyncio.Queue[list[ScoredGroup]] = asyncio.Queue(maxsize=1)
        self.updates: list[Update] = []

    async def take_batch(self, policy_version: int) -> TakenBatch:
        return TakenBatch(f"batch-{len(self.updates)}", await self._queue.get())

    async def refill(self, batch_id: str, refused: Sequence[str], policy_version: int) -> None:
        raise AssertionError("this loop was told to learn from what there is")

    async def acknowledge(self, batch_id: str, update: Update) -> None:
        self.updates.append(update)

    async def sample_for_ever(self) -> None:
        number = 0
        while True:
            names = [f"{number}-{index}" for index in range(GROUPS)]
            await self._queue.put(list(await asyncio.gather(*(self._group(name) for name in names))))
            number += 1

    async def _group(self, name: str) -> ScoredGroup:
        episodes = await asyncio.gather(*(self._episode(f"{name}-{index}") for index in range(SIZE)))
        drawn = [[token for one in turns for token in one.completion_ids] for turns in episodes]
        rewards = [tokens.count(WINNER) / len(tokens) for tokens in drawn]
        return group(name, [scored(f"{name}-{at}", rewards[at], turns) for at, turns in enumerate(episodes)])

    async def _episode(self, session: str) -> list[Turn]:
        turns, prompt = [], (1, 2, 3)
        for _ in range(2):
            request = GenerationRequest(prompt_ids=prompt, params=SamplingParams(max_tokens=2), session_id=session)
            made = await self._engine.generate(request)
            turns.append(
                Turn(
                    prompt_ids=prompt,
                    completion_ids=made.token_ids,
                    logprobs=made.logprobs,
                    message=Message(role=Role.ASSISTANT),
                    policy_version=made.policy_version,
                )
            )
            prompt = (*prompt, *made.token_ids, 4)
        return turns


async def test_a_policy_improves_while_it_is_being_sampled(toy_model: Path, tmp_path: Path):
    records: list[StepRecord] = []
    learner = Learner(TorchEngine(toy_model, TorchEngineConfig()), GRPO(GRPOConfig(lr=0.01)))
    loop = TrainLoop(
        LoopConfig(max_steps=50, max_refill=1), learner, CheckpointStore(tmp_path, CheckpointConfig(every=50)), records.append
    )
    engine = LocalEngine.load(toy_model)
    source = LiveSource(engine)
    sampling = asyncio.create_task(source.sample_for_ever())
    try:
        await loop.run(source, engine)
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)
        await engine.aclose()
    rewards = [record.reward_mean or 0.0 for record in records]
    assert sum(rewards[-5:]) / 5 > rewards[0] + 0.4
    assert records[0].dlogp_max < 1e-4  # on the same weights, in float32, sampler and trainer agree
    assert max(int(gap) for record in records for gap in record.staleness) >= 1
    assert all(record.splits == 0 for record in records)

"""What was served is what is learned from: ids, loss mask and logprobs of 1,000 turns, recomputed by the trainer."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx

from core.types import ScoredGroup, Turn
from tests.trainer.inference.serving import served
from tests.trainer.inference.tiny import some_tokens
from tests.trainer.toy import group, scored, turn
from trainer.batch import collate
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig
from trainer.samples import SampleSet, build_samples

GROUPS, SIZE, TURNS = 25, 5, 8
TOLERANCE = 1e-3  # nats: float32, once token by token over a cache and once over whole rows

MEAN_TOLERANCE = 1e-5


async def episode(client: httpx.AsyncClient, name: str, prompt: tuple[int, ...]) -> list[Turn]:
    """Turns of one episode: what a tool said stands between two of them."""
    turns: list[Turn] = []
    for number in range(TURNS):
        params = {"max_new_tokens": 5}
        asked = {"input_ids": prompt, "sampling_params": params, "return_logprob": True, "session_id": name}
        answer = (await client.post("/generate", json=asked)).raise_for_status().json()
        entries = answer["meta_info"]["output_token_logprobs"]
        logprobs = tuple(logprob for logprob, _, _ in entries)
        turns.append(turn(prompt, answer["output_ids"]).model_copy(update={"logprobs": logprobs}))
        prompt = (*prompt, *answer["output_ids"], *some_tokens(3, seed=number))
    return turns


async def played(client: httpx.AsyncClient, name: str, seed: int) -> ScoredGroup:
    """A group of episodes that share their prompt."""
    prompt, names = some_tokens(20, seed), [f"{name}-{index}" for index in range(SIZE)]
    episodes = await asyncio.gather(*(episode(client, one, prompt) for one in names))
    return group(
        name, [scored(one, index / SIZE, turns) for index, (one, turns) in enumerate(zip(names, episodes, strict=True))]
    )


def centred(rewards: Sequence[float]) -> list[float]:
    return [reward - sum(rewards) / len(rewards) for reward in rewards]


def assert_holds_the_turns(made: SampleSet, groups: Sequence[ScoredGroup]) -> None:
    """Each row is the last prompt and completion of its trajectory; its mask is on for sampled tokens only."""
    rows = {sample.trajectory_id: sample for sample in made.samples}
    for trajectory in (one for told in groups for one in told.scored):
        row, last = rows[trajectory.id], trajectory.turns[-1]
        assert row.token_ids == (*last.prompt_ids, *last.completion_ids)
        sampled = {len(one.prompt_ids) + at for one in trajectory.turns for at in range(len(one.completion_ids))}
        assert {at for at, on in enumerate(row.loss_mask) if on} == sampled


async def test_a_thousand_served_turns_are_those_that_the_trainer_recomputes(model_dir: Path):
    engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=32))
    async with served(engine, model_dir) as client:
        groups = await asyncio.gather(*(played(client, f"group{seed}", seed) for seed in range(GROUPS)))
    reused = engine.stats().cached_prompt_tokens
    await engine.aclose()
    made = build_samples(groups, centred)
    assert sum(len(one.turns) for told in groups for one in told.scored) == 1000
    assert_holds_the_turns(made, groups)
    batch = collate(made.samples)
    recomputed = TorchEngine(model_dir, TorchEngineConfig()).logprobs(batch)
    distances = (recomputed - batch.logprobs).abs()[batch.loss_mask]
    assert float(distances.max()) < TOLERANCE
    assert float(distances.mean()) <= MEAN_TOLERANCE
    assert reused > 0  # over what turns before and other members had computed

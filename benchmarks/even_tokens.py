"""An environment server for the toy task of benchmarks.trainer: `python -m benchmarks.even_tokens JSON`.

Everything but the player is natgym's own: demand, the client of the sampler's endpoint, posting. An episode is one turn
and needs no sandbox; its prompt is some token ids, so that it is sampled as in the run that has no services.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.trainer_parts import Asked, prompts_of, scored, turn
from core.types import JsonObject, ScoredGroup, Task, Trajectory, Turn
from environments.completion_client import CompletionClient
from environments.policy import PolicyConfig
from services.arena import RolloutsConfig
from services.environment_server.record import GroupFile
from services.environment_server.server import EnvironmentServer
from services.environment_server.task_order import Assignment
from services.heap import settle_heap
from services.rollout_api.messages import Demand
from services.sdk.rollout_client import RolloutClient


class EvenTokens:
    """See services.environment_server.player.Player."""

    name = "even"

    def __init__(self, asked: Asked, client: CompletionClient) -> None:
        self._asked, self._client = asked, client
        # every completion is as long as in the run without services
        self._params: JsonObject = {"max_new_tokens": asked.length, "ignore_eos": True}

    def tasks(self) -> Sequence[Task]:
        prompts = prompts_of(self._asked)
        return [
            Task(id=f"{at}", environment=self.name, messages=(), data={"prompt": list(ids)}) for at, ids in enumerate(prompts)
        ]

    async def play(self, assignment: Assignment, demand: Demand) -> ScoredGroup:
        name = assignment.group_id
        async with asyncio.TaskGroup() as owner:
            episodes = [owner.create_task(self._episode(f"{name}-{at}", assignment.task)) for at in range(demand.group_size)]
        rollouts = tuple(one.result() for one in episodes)
        return ScoredGroup(id=name, environment=self.name, task=assignment.task, trajectories=rollouts)

    async def _episode(self, name: str, task: Task) -> Trajectory:
        body: JsonObject = {"input_ids": task.data["prompt"], "sampling_params": self._params, "return_logprob": True}
        said = await self._client.post("/generate", {**body, "session_id": name}, lambda answer: turn_of(task, answer))
        return scored(name, said, task.id)


def turn_of(task: Task, answer: JsonObject) -> Turn:
    """The one turn of an episode, as the endpoint answers."""
    meta: Any = answer["meta_info"]
    logprobs, ids, _ = zip(*meta["output_token_logprobs"], strict=True)
    prompt: Any = task.data["prompt"]
    return turn(prompt, ids, logprobs, int(meta["weight_version"]))


async def serve(asked: Asked, api_url: str, policy_url: str, max_groups: int) -> None:
    """Play until the run is finished."""
    client = CompletionClient(PolicyConfig(base_url=policy_url, tokenizer=Path(asked.model)))
    settle_heap()
    rollouts = RolloutsConfig(api_url=api_url, seed=asked.seed, max_groups=max_groups)
    async with RolloutClient(api_url) as api:
        await EnvironmentServer(EvenTokens(asked, client), api, rollouts, policy_url).run(GroupFile(None))
    await client.aclose()


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    asyncio.run(serve(Asked(**told.pop("asked")), **told))

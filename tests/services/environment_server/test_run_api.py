"""natgym's environments feeding a server that speaks Atropos's dialect: Atropos's own, and natgym's."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from core.settings import Settings
from core.types import Turn
from environments.episode import Arena
from environments.policy import Completion, CompletionRequest
from services.arena import RolloutsConfig, RunApiConfig
from services.environment_server.player import ArenaPlayer
from services.environment_server.process import rollout_api
from services.environment_server.record import GroupFile
from services.environment_server.server import EnvironmentServer
from services.sdk.atropos_client import AtroposClient
from services.sdk.scored_data import NoTokens, scored_data
from tests.fakes import FakeBackend, FakePolicy, Sums, call
from tests.services.rollout_api.atropos_client import REGISTRATION
from tests.services.rollout_api.harness import group, serving
from tests.services.rollout_api.stock_atropos import PYTHON, needs_atropos, running

LINES = [call("write", text="1"), call("finish")]
SIZE = 2


class InTokens(FakePolicy):
    """Two sampled tokens a turn, behind what was there before."""

    async def complete(self, request: CompletionRequest) -> Completion:
        completion = await super().complete(request)
        before = [token for turn in request.turns for token in (7, *turn.completion_ids)]
        return replace(completion, prompt_ids=(*before, 7), completion_ids=(8, 9), logprobs=(-0.5, -0.25))


@asynccontextmanager
async def stock_server(folder: Path, port: int) -> AsyncIterator[str]:
    """Atropos's own server."""
    url, log = f"http://127.0.0.1:{port}", folder / "run_api.log"
    command = [PYTHON, "-m", "atroposlib.cli.run_api", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, log):
        async with httpx.AsyncClient() as http, asyncio.timeout(60):
            while True:
                try:
                    await http.get(f"{url}/info")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        yield url


@asynccontextmanager
async def environment_server(url: str) -> AsyncIterator[asyncio.Task[None]]:
    """An environment server that plays for that address, as a task."""
    async with AtroposClient(url, group_size=SIZE, max_batches=2) as client:
        player = ArenaPlayer(Arena(Sums(), InTokens(LINES), FakeBackend()))
        server = EnvironmentServer(player, client, RolloutsConfig(max_groups=4), url)
        playing = asyncio.create_task(server.run(GroupFile(None)))
        yield playing
        playing.cancel()
        await asyncio.wait([playing])


async def batches(url: str, count: int, **changes: object) -> list[list[dict]]:
    """What a trainer gets that registers and asks until it has that many batches."""
    found: list[list[dict]] = []
    async with httpx.AsyncClient(base_url=url) as http, asyncio.timeout(120):
        (await http.post("/register", json=REGISTRATION | changes)).raise_for_status()
        while len(found) < count:
            batch = (await http.get("/batch")).json()["batch"]
            if batch:
                found.append(batch)
            else:
                await asyncio.sleep(0.05)
    return found


def check(batch: list[dict]) -> None:
    """Two turns of every episode, the sampled tokens unmasked."""
    assert [len(one["tokens"]) for one in batch] == [SIZE, SIZE]
    for one in batch:
        assert one["tokens"] == [[7, 8, 9, 7, 8, 9]] * SIZE
        assert one["masks"] == [[-100, 8, 9, -100, 8, 9]] * SIZE
        assert one["inference_logprobs"] == [[1.0, -0.5, -0.25, 1.0, -0.5, -0.25]] * SIZE
        assert [said["role"] for said in one["messages"][0]][-3:] == ["tool", "assistant", "tool"]


async def test_it_feeds_a_server_that_speaks_atropos_until_the_last_step(tmp_path: Path):
    async with serving(tmp_path / "q") as url, environment_server(url) as playing:
        for batch in await batches(url, 3, num_steps=3):
            check(batch)
        async with asyncio.timeout(60):
            await playing


@needs_atropos
async def test_it_feeds_atropos_own_server_and_joins_again_when_that_has_forgotten_it(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with environment_server(f"http://127.0.0.1:{port}") as playing:
        for _ in range(2):
            async with stock_server(tmp_path, port) as url:
                check((await batches(url, 2))[1])
        assert not playing.done()


async def test_a_run_names_the_server_that_it_feeds():
    config = RolloutsConfig(run_api=RunApiConfig(url="http://127.0.0.1:9", group_size=3))
    async with rollout_api(config, Settings()) as fed, rollout_api(RolloutsConfig(), Settings()) as own:
        assert (fed.ready_url, own.ready_url) == ("http://127.0.0.1:9/info", "http://127.0.0.1:8000/ready")


def test_a_turn_that_does_not_extend_the_one_before_is_a_sequence_of_its_own():
    played = group("a", scored=1, lost=1)
    first, *_ = played.trajectories
    turns = tuple(
        Turn(prompt_ids=prompt, completion_ids=(5,), logprobs=(-1.0,), message=first.turns[0].message)
        for prompt in ((1,), (1, 5, 2), (9,))
    )
    assert [after.prompt_ids[:2] for _, after in pairwise(turns)] == [(1, 5), (9,)]
    one = first.model_copy(update={"turns": turns})
    found = scored_data(played.model_copy(update={"trajectories": (one, *played.trajectories[1:])}))
    assert found["tokens"] == [[1, 5, 2, 5], [9, 5]]
    assert found["masks"] == [[-100, 5, -100, 5], [-100, 5]]
    assert found["scores"] == [0.0, 0.0]


def test_a_policy_without_tokens_is_refused():
    played = group("a", scored=1)
    silent = played.trajectories[0].turns[0].model_copy(update={"completion_ids": (), "logprobs": ()})
    one = played.trajectories[0].model_copy(update={"turns": (silent,)})
    with pytest.raises(NoTokens, match="kind 'tokens'"):
        scored_data(played.model_copy(update={"trajectories": (one,)}))

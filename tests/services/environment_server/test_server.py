"""The environment server against a real rollout API: it plays what is wanted, hands it over, and knows when to end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import pytest

from core.errors import PolicyError, SandboxError
from environments.base import Split
from environments.episode import Arena
from environments.policy import Policy
from services.arena import RolloutsConfig
from services.environment_server.player import ArenaPlayer
from services.environment_server.record import GroupFile, read_groups
from services.environment_server.server import EnvironmentServer, NothingButFailures
from services.environment_server.task_order import shuffled_for_ever
from services.rollout_api.messages import RunStatus
from services.sdk.rollout_client import RolloutClient
from tests.fakes import FakeBackend, FakePolicy, Sums, call
from tests.services.rollout_api.harness import run_spec, serving, update

WRONG = [call("write", text="1"), call("finish")]


@asynccontextmanager
async def server_of(
    tmp_path: Path, policy: Policy, backend: FakeBackend
) -> AsyncIterator[tuple[EnvironmentServer, RolloutClient]]:
    """A server of the environment `sums`, and a trainer's client of the rollout API that it works for."""
    async with (
        serving(tmp_path / "queue.sqlite") as url,
        RolloutClient(url, retry_seconds=30.0) as own,
        RolloutClient(url, retry_seconds=30.0) as client,
    ):
        config = RolloutsConfig(api_url=url, max_groups=4)
        yield EnvironmentServer(ArenaPlayer(Arena(Sums(), policy, backend)), own, config, url), client


async def train(client: RolloutClient, steps: int) -> None:
    """What a trainer does, without learning."""
    run = await client.open_run(run_spec(batch=2, total_steps=steps))
    while run.status is RunStatus.RUNNING:
        taken = await client.take_batch(2, 0, wait_seconds=60.0)
        assert taken is not None
        run = await client.acknowledge(taken.batch_id, update(run.step + 1))


async def test_it_plays_until_the_run_is_finished(tmp_path: Path):
    async with server_of(tmp_path, FakePolicy(WRONG), FakeBackend()) as (server, client):
        async with asyncio.timeout(60):
            await asyncio.gather(train(client, steps=3), server.run(GroupFile(tmp_path / "groups.jsonl")))
        assert (await client.status()).counts.trained == 6
    assert {record.rewards for record in read_groups(tmp_path / "groups.jsonl")} == {(0.0, 0.0)}


async def test_no_sandbox_is_left_when_it_is_cancelled(tmp_path: Path):
    started, backend = asyncio.Event(), FakeBackend()

    async def never(request: object) -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    async with server_of(tmp_path, FakePolicy([never]), backend) as (server, client):
        await client.open_run(run_spec(total_steps=1))
        serving_task = asyncio.create_task(server.run(GroupFile(None)))
        await started.wait()
        serving_task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving_task
    assert backend.made
    assert all(sandbox.destroyed for sandbox in backend.made)


async def test_a_server_without_room_still_asks_and_hears_that_the_run_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.environment_server.server.FULL_SECONDS", 0.01)

    async def never(request: object) -> str:
        await asyncio.Event().wait()
        return ""

    async with server_of(tmp_path, FakePolicy([never]), FakeBackend()) as (server, client):
        await client.register_environment("sums")
        run = await client.open_run(run_spec(batch=4))  # as many as it has room for
        playing = asyncio.create_task(server.run(GroupFile(None)))
        async with asyncio.timeout(60):
            while (await client.status()).environments["sums"].running < 4:
                await asyncio.sleep(0.01)
            await client.set_run_status(run.id, RunStatus.FINISHED)
            await playing


async def test_a_record_that_cannot_be_written_costs_no_group(tmp_path: Path):
    (tmp_path / "groups.jsonl").symlink_to("/dev/full")
    async with server_of(tmp_path, FakePolicy(WRONG), FakeBackend()) as (server, client):
        async with asyncio.timeout(60):
            await asyncio.gather(train(client, steps=1), server.run(GroupFile(tmp_path / "groups.jsonl")))
        assert (await client.status()).counts.trained == 2


async def test_an_episode_that_breaks_is_a_failure_and_costs_its_group_nothing(tmp_path: Path):
    class FirstDies(FakeBackend):
        async def create(self, spec: object, **asked: object):  # type: ignore[no-untyped-def, override]
            sandbox = await super().create(spec)  # type: ignore[arg-type]
            if len(self.made) == 1:
                raise SandboxError("this one died")
            return sandbox

    async with server_of(tmp_path, FakePolicy(WRONG), FirstDies()) as (server, client):
        async with asyncio.timeout(60):
            await asyncio.gather(train(client, steps=1), server.run(GroupFile(tmp_path / "groups.jsonl")))
    lost = [record.lost for record in read_groups(tmp_path / "groups.jsonl") if record.lost]
    assert lost == [{"sandbox": 1}]


async def test_a_group_that_is_too_large_for_the_queue_is_lost_alone(tmp_path: Path):
    said = [call("write", text="1" * (2 << 20))]  # twice what a body may have

    async def at_length_once(request: object) -> str:
        return said.pop() if said else call("write", text="1")

    async with server_of(tmp_path, FakePolicy([at_length_once, call("finish")]), FakeBackend()) as (server, client):
        async with asyncio.timeout(60):
            await asyncio.gather(train(client, steps=1), server.run(GroupFile(tmp_path / "groups.jsonl")))
    lost = [record.lost for record in read_groups(tmp_path / "groups.jsonl") if record.lost]
    assert lost == [{"queue": 2}]


async def test_it_ends_and_says_why_where_nothing_but_failures_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.environment_server.server.LOST_IN_A_ROW", 3)

    class Broken(FakeBackend):
        async def create(self, spec: object, **asked: object):  # type: ignore[no-untyped-def, override]
            raise SandboxError("no walls here")

    async with server_of(tmp_path, FakePolicy(WRONG), Broken()) as (server, client):
        await client.open_run(run_spec(total_steps=100))
        with pytest.raises(NothingButFailures, match="no walls here"):
            async with asyncio.timeout(60):
                await server.run(GroupFile(None))


async def test_a_policy_that_answers_and_never_completes_ends_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.environment_server.server.LOST_IN_A_ROW", 3)

    async with server_of(tmp_path, FakePolicy([PolicyError("no finite logits")]), FakeBackend()) as (server, client):
        await client.open_run(run_spec(total_steps=100))
        with pytest.raises(NothingButFailures, match="at the boundary 'policy': no finite logits"):
            async with asyncio.timeout(60):
                await server.run(GroupFile(None))


def test_every_epoch_holds_every_task_once_in_an_order_of_its_own():
    tasks = Sums().tasks(Split.TRAIN)
    order = list(islice(shuffled_for_ever(tasks, seed=1), 2 * len(tasks)))
    first, second = order[: len(tasks)], order[len(tasks) :]
    assert sorted(one.id for one in first) == sorted(one.id for one in second) == sorted(one.id for one in tasks)
    assert first != second


def test_the_order_of_tasks_is_the_seed_s():
    tasks = Sums().tasks(Split.TRAIN)
    assert list(islice(shuffled_for_ever(tasks, 1), 8)) == list(islice(shuffled_for_ever(tasks, 1), 8))
    assert list(islice(shuffled_for_ever(tasks, 1), 8)) != list(islice(shuffled_for_ever(tasks, 2), 8))

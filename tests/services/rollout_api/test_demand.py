"""How many groups environments are asked for."""

import asyncio
from pathlib import Path

import pytest

from core.errors import QueueError
from core.wire import encode
from services.rollout_api.demand import Roster, Server, shares
from services.rollout_api.messages import EnvironmentSpec, RunStatus
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import MSGPACK, group, queue, raw, run_spec, update


async def groups_of(client: RolloutClient, running: int = 0, environment: str = "sums", worker: str = "") -> int:
    return (await client.demand(environment, running, worker=worker)).groups


async def test_nothing_is_wanted_before_a_run_is_open(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        assert await groups_of(client) == 0


@pytest.mark.parametrize(("max_staleness", "expected"), [(0, 4), (1, 8), (2, 12)])
async def test_an_idle_queue_wants_one_batch_more_than_the_staleness_bound(tmp_path: Path, max_staleness: int, expected: int):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=4, max_staleness=max_staleness))
        assert await groups_of(client) == expected


async def test_running_queued_and_leased_groups_count_against_the_bound(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=3, max_staleness=1))
        for name in ("a", "b", "c", "d"):
            await client.post_group(group(name))
        await client.take_batch(3, 0)
        assert await groups_of(client, running=1) == 1


async def test_groups_are_asked_for_once(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=4))
        answers = [await groups_of(client, worker=name) for name in ("one", "two")]
    assert answers == [4, 0]


async def test_a_server_leaves_what_it_has_no_room_for_to_others(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=4))
        first = await client.demand("sums", 0, worker="one", most=3)
        second = await client.demand("sums", 0, worker="two", most=3)
    assert (first.groups, second.groups) == (3, 1)


def test_a_group_that_arrives_while_its_server_asks_is_not_counted_twice():
    roster, server = Roster(), Server("run", "sums", "one")
    roster.report(server, 0, now=0.0, handed_over=0)
    roster.started(server, 2, now=0.0)
    roster.delivered(server, now=0.0)
    roster.delivered(server, now=0.0)
    roster.report(server, 2, now=1.0, handed_over=0)  # asked before it was told that both had arrived
    assert roster.running("run") == 0
    roster.report(server, 1, now=2.0, handed_over=2)
    assert roster.running("run") == 1


def test_what_was_handed_over_before_a_restart_is_not_missed():
    roster, server = Roster(), Server("run", "sums", "one")
    roster.report(server, 3, now=0.0, handed_over=7)
    roster.delivered(server, now=0.0)
    assert roster.running("run") == 2


async def test_groups_that_come_after_a_restart_are_counted_once_from_the_start(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=4))
        await client.post_group(group("old"))
    async with raw(tmp_path / "q") as http:
        for name in ("old", "new"):  # the answer to the first of them was lost in the restart
            url = "/v1/groups?worker=one&handed_over=7&run=run"
            await http.post(url, content=encode(group(name)), headers=MSGPACK)
        # asked before it was told that these two had arrived; a third one is being made
        answer = await http.get("/v1/demand?environment=sums&worker=one&running=3&handed_over=7&run=run")
    assert answer.json()["groups"] == 1


async def test_a_delivered_group_is_not_counted_as_running_any_more(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=2))
        await groups_of(client, worker="one")
        for name in ("a", "b"):
            await client.post_group(group(name), worker="one")
        taken = await client.take_batch(2, 0)
        assert taken is not None
        await client.acknowledge(taken.batch_id, update())
        assert await groups_of(client, worker="two") == 2


async def test_the_last_steps_ask_for_no_more_than_they_use(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=4, max_staleness=3, total_steps=10, step=9))
        assert await groups_of(client) == 4


async def test_a_paused_run_wants_nothing(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.set_run_status("run", RunStatus.PAUSED)
        demand = await client.demand("sums", 0)
    assert (demand.groups, demand.finished) == (0, False)


async def test_a_finished_run_says_so_to_who_is_waiting(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=2))
        waiting = asyncio.create_task(client.demand("sums", 2, wait_seconds=60))
        await asyncio.sleep(0.1)
        await client.set_run_status("run", RunStatus.FINISHED)
        async with asyncio.timeout(50):  # less than the 60 seconds that it may wait
            demand = await waiting
    assert (demand.groups, demand.finished) == (0, True)


async def test_a_waiting_environment_wakes_when_a_batch_is_acknowledged(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=1))
        await client.post_group(group("a"))
        taken = await client.take_batch(1, 0)
        assert taken is not None
        waiting = asyncio.create_task(client.demand("sums", 0, wait_seconds=60))
        await asyncio.sleep(0.1)
        await client.acknowledge(taken.batch_id, update())
        async with asyncio.timeout(50):  # less than the 60 seconds that it may wait
            demand = await waiting
    assert (demand.groups, demand.policy_version) == (1, 1)


async def test_a_newer_question_ends_the_older_one(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=2))
        older = asyncio.create_task(client.demand("sums", 2, wait_seconds=60))
        while (await client.status()).environments["sums"].running < 2:  # until it has been heard
            await asyncio.sleep(0.01)
        assert await groups_of(client, running=1) == 1
        async with asyncio.timeout(50):  # less than the 60 seconds that it may wait
            assert (await older).groups == 0


async def test_environments_that_are_heard_of_share_by_weight(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        for name, weight in (("light", 1.0), ("heavy", 3.0), ("silent", 9.0)):
            await client.register_environment(name, weight=weight)
        for name in ("light", "heavy"):
            await groups_of(client, environment=name)
        await client.open_run(run_spec(batch=8))
        assert [await groups_of(client, environment=name) for name in ("light", "heavy")] == [2, 6]


def specs(**weights_and_minima: tuple[float, float]) -> dict[str, EnvironmentSpec]:
    return {name: EnvironmentSpec(weight=weight, min_share=least) for name, (weight, least) in weights_and_minima.items()}


@pytest.mark.parametrize(
    ("environments", "expected"),
    [
        (specs(a=(1, 0), b=(3, 0)), {"a": 0.25, "b": 0.75}),
        (specs(a=(1, 0.5), b=(3, 0), c=(1, 0)), {"a": 0.5, "b": 0.375, "c": 0.125}),
        (specs(a=(1, 0.9), b=(1, 0.9)), {"a": 0.5, "b": 0.5}),
        (specs(a=(1, 1.0), b=(1, 0)), {"a": 1.0, "b": 0.0}),
    ],
    ids=["weights", "a minimum", "minima that do not fit", "all of it"],
)
def test_no_share_is_below_its_minimum(environments: dict[str, EnvironmentSpec], expected: dict[str, float]):
    assert shares(environments) == pytest.approx(expected)


async def test_an_environment_that_has_its_share_leaves_the_rest_to_others(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.register_environment("few", weight=0.01, min_share=0.5)
        for name in ("few", "sums"):
            await groups_of(client, environment=name)
        await client.open_run(run_spec(batch=4))
        assert await groups_of(client, environment="few", running=2) == 0
        assert await groups_of(client) == 2


async def test_a_server_that_waits_for_a_run_is_told_when_it_opens(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        waiting = asyncio.create_task(client.demand("sums", 0, wait_seconds=60))
        await asyncio.sleep(0.1)
        await client.open_run(run_spec(batch=3))
        async with asyncio.timeout(50):  # less than the 60 seconds that it may wait
            assert (await waiting).groups == 3


async def test_each_run_has_a_demand_of_its_own(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        for name, batch in (("one", 2), ("two", 5)):
            await client.open_run(run_spec(name, batch=batch))
        url = client.base_url
        found = []
        for name in ("one", "two"):
            async with RolloutClient(url, run=name) as of_run:
                found.append(await groups_of(of_run))
    assert found == [2, 5]


async def test_an_environments_own_group_size_wins_over_the_runs(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.register_environment("own", group_size=5)
        await client.open_run(run_spec())
        sizes = [(await client.demand(name, 0)).group_size for name in ("sums", "own")]
    assert sizes == [2, 5]


async def test_an_unknown_environment_is_told_the_nearest_name(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        with pytest.raises(QueueError, match=r"404.*did you mean 'sums'"):
            await client.demand("sum", 0)

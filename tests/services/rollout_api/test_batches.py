"""Taking batches: leases, acknowledgements, staleness, waiting."""

import asyncio
from pathlib import Path

import pytest

from core.errors import QueueError
from core.wire import encode
from services.rollout_api.messages import GroupFilter, GroupState, RunStatus, TakeBatch
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import MSGPACK, group, ids, queue, raw, run_spec, serving, update


async def test_too_few_groups_are_no_batch(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        assert await client.take_batch(2, 0, wait_seconds=0) is None


async def test_a_waiting_trainer_wakes_when_the_last_group_arrives(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        waiting = asyncio.create_task(client.take_batch(2, 0, wait_seconds=60))
        await asyncio.sleep(0.1)
        await client.post_group(group("b"))
        async with asyncio.timeout(50):  # less than the 60 seconds that it may wait
            taken = await waiting
    assert taken is not None
    assert ids(taken.groups) == ["a", "b"]


async def test_two_trainers_never_share_a_group(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        for number in range(8):
            await client.post_group(group(f"g{number}"))
        batches = await asyncio.gather(*(client.take_batch(2, 0) for _ in range(4)))
    names = [name for taken in batches if taken is not None for name in ids(taken.groups)]
    assert sorted(names) == [f"g{number}" for number in range(8)]


async def test_the_same_batch_id_is_the_same_batch(tmp_path: Path):
    wanted = encode(TakeBatch(batch_id="mine", groups=1, policy_version=0))
    async with raw(tmp_path / "q") as http:
        await http.post("/v1/run", content=encode(run_spec()), headers=MSGPACK)
        for name in ("a", "b"):
            await http.post("/v1/groups", content=encode(group(name)), headers=MSGPACK)
        first, again = [await http.post("/v1/batches", content=wanted, headers=MSGPACK) for _ in range(2)]
    assert first.content == again.content


async def test_a_batch_can_be_read_as_json(tmp_path: Path):
    wanted = encode(TakeBatch(batch_id="mine", groups=1, policy_version=0))
    async with raw(tmp_path / "q") as http:
        await http.post("/v1/run", content=encode(run_spec()), headers=MSGPACK)
        await http.post("/v1/groups", content=encode(group("a")), headers=MSGPACK)
        answer = await http.post("/v1/batches", content=wanted, headers={**MSGPACK, "Accept": "application/json"})
    assert answer.json()["groups"][0]["id"] == "a"


async def test_refused_groups_are_dropped_and_others_take_their_place(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=3))
        for name in "abcd":
            await client.post_group(group(name))
        taken = await client.take_batch(3, 0)
        assert taken is not None
        again = [await client.refill_batch(taken, ["b"], 0) for _ in range(2)]  # as if the first answer was lost
        run = await client.acknowledge(taken.batch_id, update())
        counts = (await client.status()).counts
    assert [ids(one.groups) for one in again if one is not None] == [["a", "c", "d"]] * 2
    assert (run.step, counts.trained, counts.dropped, counts.queued, counts.leased) == (1, 3, 1, 0, 0)


async def test_a_place_that_was_refused_may_be_filled_by_a_group_that_comes_later(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.register_environment("sums")
        await client.open_run(run_spec())
        for name in "ab":
            await client.post_group(group(name))
        taken = await client.take_batch(2, 0)
        assert taken is not None
        assert (await client.demand("sums", 0)).groups == 0
        assert await client.refill_batch(taken, ["a"], 0, wait_seconds=0) is None
        assert (await client.demand("sums", 0)).groups == 1
        waiting = asyncio.create_task(client.refill_batch(taken, ["a"], 0, wait_seconds=60))
        await asyncio.sleep(0.1)
        await client.post_group(group("c"))
        async with asyncio.timeout(50):  # less than the 60 seconds that it may wait
            again = await waiting
    assert again is not None
    assert ids(again.groups) == ["b", "c"]


async def test_an_expired_lease_puts_its_groups_back_in_front(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        for name in ("a", "b", "c"):
            await client.post_group(group(name))
        await client.take_batch(2, 0, lease_seconds=0.1)
        again = await client.take_batch(3, 0, wait_seconds=60)
    assert again is not None
    assert ids(again.groups) == ["a", "b", "c"]


async def test_an_acknowledged_batch_stays_away(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        taken = await client.take_batch(1, 0, lease_seconds=0.1)
        assert taken is not None
        await client.acknowledge(taken.batch_id, update())
        assert await client.take_batch(1, 0, wait_seconds=0.3) is None
        assert (await client.status()).counts.trained == 1


async def test_a_second_acknowledgement_changes_nothing(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        taken = await client.take_batch(1, 0)
        assert taken is not None
        first = await client.acknowledge(taken.batch_id, update(1))
        assert await client.acknowledge(taken.batch_id, update(2)) == first


async def test_a_late_acknowledgement_counts_while_nobody_took_the_groups(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        taken = await client.take_batch(1, 0, lease_seconds=0.05)
        assert taken is not None
        while (await client.status()).counts.leased:
            await asyncio.sleep(0.02)
        await client.acknowledge(taken.batch_id, update())
        assert (await client.status()).counts.trained == 1


async def test_a_late_acknowledgement_of_groups_that_another_trainer_has_is_a_conflict(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        slow = await client.take_batch(1, 0, lease_seconds=0.05)
        assert slow is not None
        await client.take_batch(1, 0, wait_seconds=60)
        with pytest.raises(QueueError, match="409"):
            await client.acknowledge(slow.batch_id, update())


async def test_acknowledging_what_was_never_taken_is_404(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        with pytest.raises(QueueError, match="404"):
            await client.acknowledge("nothing", update())


async def test_stale_groups_are_dropped_and_counted(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(max_staleness=1))
        for version in range(4):
            await client.post_group(group(f"v{version}", policy_version=version))
        taken = await client.take_batch(2, 3)
        assert taken is not None
        assert ids(taken.groups) == ["v2", "v3"]
        assert (await client.status()).counts.dropped == 2


async def test_a_trainer_that_comes_back_finds_its_batch_in_the_queue(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        await client.take_batch(1, 0, lease_seconds=3600)
        await client.open_run(run_spec())
        taken = await client.take_batch(1, 0)
    assert taken is not None
    assert ids(taken.groups) == ["a"]


async def test_a_trainer_from_before_cannot_acknowledge_into_a_run_that_was_opened_again(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        taken = await client.take_batch(1, 0)
        assert taken is not None
        await client.open_run(run_spec())
        with pytest.raises(QueueError, match="409"):
            await client.acknowledge(taken.batch_id, update())


async def test_a_resumed_run_stands_where_its_checkpoint_does(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        run = await client.open_run(run_spec(step=7, policy_version=9))
    assert (run.step, run.policy_version) == (7, 9)


async def test_runs_side_by_side_have_queues_of_their_own(tmp_path: Path):
    async with serving(tmp_path / "q") as url, RolloutClient(url) as one, RolloutClient(url) as two:
        await one.open_run(run_spec("one"))
        await two.open_run(run_spec("two"))
        await one.post_group(group("a"))
        await two.post_group(group("b"))
        batches = [await client.take_batch(1, 0, wait_seconds=0) for client in (two, one)]
        for client, taken in zip((two, one), batches, strict=True):
            assert taken is not None
            await client.acknowledge(taken.batch_id, update())
        steps = [((await client.status()).run, (await client.status()).counts.trained) for client in (one, two)]
    assert [ids(taken.groups) for taken in batches if taken is not None] == [["b"], ["a"]]
    assert [(run.id, run.step, trained) for run, trained in steps if run is not None] == [("one", 1, 1), ("two", 1, 1)]


async def test_with_several_runs_open_a_group_has_to_say_whose_it_is(tmp_path: Path):
    async with serving(tmp_path / "q") as url, RolloutClient(url) as client, RolloutClient(url) as nobodys:
        for name in ("one", "two"):
            await client.open_run(run_spec(name))
        with pytest.raises(QueueError, match=r"409 2 runs are open, name one of them: one, two"):
            await nobodys.post_group(group("a"))


async def test_a_run_of_another_dialect_takes_nothing_that_is_not_its_own(tmp_path: Path):
    async with queue(tmp_path / "q") as client, RolloutClient(client.base_url) as foreign:
        await client.post_group(group("before"))
        await foreign.open_run(run_spec("foreign").model_copy(update={"dialect": "other"}))
        await client.post_group(group("beside"))
        assert await foreign.take_batch(1, 0, wait_seconds=0) is None
        await client.open_run(run_spec())
        taken = await client.take_batch(2, 0, wait_seconds=0)
    assert taken is not None
    assert ids(taken.groups) == ["before", "beside"]


async def test_groups_of_an_older_policy_come_first(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(max_staleness=5))
        for name, version in (("new", 2), ("old", 1), ("newer", 3), ("old too", 1)):
            await client.post_group(group(name, policy_version=version))
        taken = await client.take_batch(4, 3)
    assert taken is not None
    assert ids(taken.groups) == ["old", "old too", "new", "newer"]


async def test_a_batch_that_is_given_back_is_there_at_once(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        taken = await client.take_batch(1, 0, lease_seconds=3600)
        assert taken is not None
        await client.return_batch(taken.batch_id)
        again = await client.take_batch(1, 0, wait_seconds=0)
    assert again is not None
    assert ids(again.groups) == ["a"]


async def test_a_finished_run_leaves_nothing_to_the_next_one(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec("one"))
        await client.post_group(group("a"))
        await client.set_run_status("one", RunStatus.FINISHED)
        run = await client.open_run(run_spec("two"))
        left = [(counts.queued, counts.dropped) for counts in [(await client.status()).counts]]
        page = await client.groups(GroupFilter(run="one"))
    assert (run.step, left) == (0, [(0, 0)])
    assert [one.state for one in page.groups] == [GroupState.DROPPED]


async def test_the_last_acknowledged_step_finishes_the_run(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(total_steps=1))
        await client.post_group(group("a"))
        taken = await client.take_batch(1, 0)
        assert taken is not None
        run = await client.acknowledge(taken.batch_id, update())
    assert run.status is RunStatus.FINISHED


async def test_taking_without_a_run_is_a_conflict(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        with pytest.raises(QueueError, match="no run is open"):
            await client.take_batch(1, 0)

"""Posting groups: once, in order, whole."""

import asyncio
from pathlib import Path

import pytest

from core.errors import QueueError
from core.wire import encode
from tests.services.rollout_api.harness import MSGPACK, group, ids, queue, raw, run_spec


async def test_a_group_comes_out_as_it_went_in(tmp_path: Path):
    sent = group("a", scored=2, lost=1)
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(sent)
        taken = await client.take_batch(1, 0)
    assert taken is not None
    assert taken.groups == (sent,)


async def test_a_second_post_of_an_id_is_the_first_one(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        assert [await client.post_group(group("a")), await client.post_group(group("a"))] == [True, False]
        assert (await client.status()).counts.queued == 1


async def test_an_id_with_other_content_is_a_conflict(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.post_group(group("a"))
        with pytest.raises(QueueError, match="409"):
            await client.post_group(group("a", scored=3))


async def test_first_and_repeated_posts_have_their_own_status_codes(tmp_path: Path):
    body = encode(group("a"))
    async with raw(tmp_path / "q") as http:
        answers = [await http.post("/v1/groups", content=body, headers=MSGPACK) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]


async def test_json_is_accepted_as_well(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        headers = {"Content-Type": "application/json"}
        answer = await http.post("/v1/groups", content=group("a").model_dump_json(), headers=headers)
    assert answer.status_code == 201


async def test_groups_come_out_in_order_of_arrival(tmp_path: Path):
    names = [f"g{number}" for number in (3, 1, 2, 0)]
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        for name in names:
            await client.post_group(group(name))
        taken = await client.take_batch(4, 0)
    assert taken is not None
    assert ids(taken.groups) == names


async def test_posts_that_wait_together_share_commits(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        bodies = [encode(group(f"g{number}")) for number in range(40)]
        answers = await asyncio.gather(*(http.post("/v1/groups", content=body, headers=MSGPACK) for body in bodies))
        metrics = (await http.get("/metrics")).text
    assert {answer.status_code for answer in answers} == {201}
    commits = next(line for line in metrics.splitlines() if line.startswith("natgym_commits_total"))
    assert int(commits.split()[1]) < 40


async def test_a_group_without_a_score_is_counted_and_never_delivered(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("lost", scored=0, lost=2))
        assert await client.take_batch(1, 0, wait_seconds=0) is None
        counts = (await client.status()).counts
    assert (counts.accepted, counts.failed, counts.lost_trajectories) == (1, 1, 2)


async def test_the_counts_add_up(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(max_staleness=1))
        for name, version in [("stale", 0), ("a", 3), ("b", 3), ("c", 3)]:
            await client.post_group(group(name, policy_version=version))
        await client.post_group(group("lost", scored=0, lost=2))
        await client.take_batch(2, 3)
        counts = (await client.status()).counts
    assert (counts.queued, counts.leased, counts.dropped, counts.failed, counts.accepted) == (1, 2, 1, 1, 5)


async def test_metrics_name_every_state(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        await http.post("/v1/groups", content=encode(group("a")), headers=MSGPACK)
        text = (await http.get("/metrics")).text
    assert 'natgym_groups{run="",state="queued"} 1' in text.splitlines()

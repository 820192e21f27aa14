"""What lasts and what travels in Atropos's dialect: restarts, compressed bodies, broken connections, a full queue."""

import asyncio
import gzip
import json
from pathlib import Path

import httpx
import pytest
import zstandard

from services.rollout_api.base import Limits
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.atropos_client import KEYS, REGISTRATION, Atropos, Json, atropos, names, scored
from tests.services.rollout_api.harness import ApiProcess, group, ids, run_spec, serving


async def test_a_post_that_is_sent_again_after_a_restart_counts_once(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        await api.post(scored(1))
    async with atropos(tmp_path / "q") as api:
        await api.post(scored(1))  # its first answer may not have arrived
        assert (await api.status())["queue_size"] == 1
        await api.post(scored(2))
        assert names(await api.batch()) == [1, 2]


async def test_a_restart_forgets_nothing(tmp_path: Path):
    with ApiProcess(tmp_path / "q") as process:
        async with httpx.AsyncClient(base_url=process.url, trust_env=False) as http:
            api = Atropos(http)
            await api.start()
            env_id = (await api.join())["env_id"]
            await api.post(*(scored(name, env_id=env_id) for name in range(1, 6)))
            await api.batch()
            before = [await api.status(), await api.status_env(env_id), (await http.get("/info")).json()]
            process.kill()
        process.restart()
        async with httpx.AsyncClient(base_url=process.url, trust_env=False) as http:
            api = Atropos(http)
            after = [await api.status(), await api.status_env(env_id), (await http.get("/info")).json()]
            latest = (await http.get("/latest_example")).json()
            joined = await api.join()
            assert (after, names([latest])) == (before, [5])
            assert (joined["env_id"], joined["wandb_name"], names(await api.batch())) == (1, "sums_1", [3, 4])


async def test_reset_forgets_everything(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        await api.join()
        await api.post(scored(1))
        assert (await api.http.get("/reset_data")).text == "Reset successful"
        assert await api.status() == {"current_step": 0, "queue_size": 0}
        assert (await api.http.get("/latest_example")).json()["tokens"] == []
        await api.start()
        assert ((await api.join())["env_id"], names(await api.batch())) == (0, None)


async def test_the_other_dialect_has_a_queue_of_its_own(tmp_path: Path):
    async with serving(tmp_path / "q") as url, RolloutClient(url) as client, httpx.AsyncClient(base_url=url) as http:
        api = Atropos(http)
        await api.start()
        await api.post(scored(1), scored(2))
        await client.register_environment("sums")
        await client.open_run(run_spec(batch=1))
        assert await client.take_batch(1, 0, wait_seconds=0.0) is None
        await client.post_group(group("native"))
        taken = await client.take_batch(1, 0, wait_seconds=0.0)
        listed = (await http.get("/v1/groups", params={"run": "atropos"})).json()["groups"]
        body = (await http.get(f"/v1/groups/{listed[-1]['id']}")).json()
        assert taken is not None
        assert (ids(taken.groups), names([body]), names(await api.batch())) == (["native"], [1], [1, 2])


async def test_bodies_come_compressed_within_bounds(tmp_path: Path):
    body = json.dumps(scored(1)).encode()
    bomb = b'{"tokens":' + b" " * (8 << 20)
    sent = {
        "gzip": gzip.compress(body),
        "zstd": zstandard.compress(body),
        "br": body,
        "gzip, truncated": gzip.compress(body)[:-9],
        "gzip, bomb": gzip.compress(bomb),
        "zstd, bomb": zstandard.compress(bomb),
    }
    async with atropos(tmp_path / "q", max_body_bytes=1 << 20) as api:
        answers = {}
        for name, content in sent.items():
            headers = {"Content-Type": "application/json", "Content-Encoding": name.partition(",")[0]}
            answers[name] = (await api.http.post("/scored_data", content=content, headers=headers)).status_code
        queued = (await api.status())["queue_size"]
    assert answers == {
        "gzip": 200, "zstd": 200, "br": 415, "gzip, truncated": 400, "gzip, bomb": 413, "zstd, bomb": 413,
    }  # fmt: skip
    assert queued == 2


@pytest.mark.parametrize("accepted", ["gzip", "zstd", "identity", "gzip;q=0, identity", "br, gzip, deflate"])
async def test_a_batch_is_the_same_however_it_is_packed(tmp_path: Path, accepted: str):
    groups = [scored(name, 16, images="x" * 5000) for name in range(4)]
    async with atropos(tmp_path / "q") as api:
        await api.start(batch_size=64)
        await api.post(*groups)
        answer = await api.http.get("/batch", headers={"Accept-Encoding": accepted})
    packed = {"gzip": "gzip", "zstd": "zstd", "br, gzip, deflate": "gzip"}.get(accepted)
    assert answer.headers.get("content-encoding") == packed
    assert [{**group, "images": len(group["images"])} for group in answer.json()["batch"]] == [
        dict.fromkeys(KEYS) | group | {"images": 5000} for group in groups
    ]


def larger_than_sockets_buffer(name: int) -> Json:
    return scored(name, 4, images="".join(map(str, range(600_000))))


async def half_a_batch(url: httpx.URL) -> asyncio.StreamWriter:
    """A connection on which a batch has begun to arrive."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /batch HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readexactly(1000)
    return writer


async def test_a_batch_whose_trainer_goes_away_is_given_to_the_next(tmp_path: Path):
    async with atropos(tmp_path / "q", max_body_bytes=16 << 20) as api:
        await api.start(batch_size=32)
        await api.post(*map(larger_than_sockets_buffer, range(8)))
        writer = await half_a_batch(api.http.base_url)
        assert await api.status() == {"current_step": 1, "queue_size": 0}
        assert await api.batch() is None
        writer.transport.abort()
        while (await api.status())["queue_size"] == 0:
            await asyncio.sleep(0.01)
        assert names(await api.batch()) == list(range(8))
        assert (await api.status())["current_step"] == 1


async def test_a_batch_that_a_killed_server_was_sending_comes_first(tmp_path: Path):
    with ApiProcess(tmp_path / "q") as process:
        async with httpx.AsyncClient(base_url=process.url, trust_env=False) as http:
            api = Atropos(http)
            await api.start(batch_size=32)
            await api.post(*map(larger_than_sockets_buffer, range(8)), *(scored(name, 4) for name in range(8, 16)))
            writer = await half_a_batch(http.base_url)
            process.kill()
            writer.transport.abort()
        process.restart()
        async with httpx.AsyncClient(base_url=process.url, trust_env=False, timeout=60) as http:
            api = Atropos(http)
            assert await api.status() == {"current_step": 0, "queue_size": 16}
            assert [names(await api.batch()) for _ in range(2)] == [list(range(8)), list(range(8, 16))]


async def test_a_post_waits_for_room(tmp_path: Path):
    async with atropos(tmp_path / "q", limits=Limits(max_queued_groups=2, max_queued_bytes=1 << 20)) as api:
        await api.start()
        await api.post(scored(1), scored(2))
        held = asyncio.create_task(api.post(scored(3)))
        await asyncio.sleep(0.1)
        assert (held.done(), names(await api.batch())) == (False, [1, 2])
        await held
        assert (await api.status())["queue_size"] == 1


async def test_no_room_for_long_is_a_503_that_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.rollout_api.atropos.HOLD_SECONDS", 0.3)
    async with atropos(tmp_path / "q", limits=Limits(max_queued_groups=1, max_queued_bytes=1 << 20)) as api:
        await api.start(batch_size=2)
        await api.post(scored(1))
        answer = await api.http.post("/scored_data", json=scored(2))
        assert answer.status_code == 503
        assert names(await api.batch()) == [1]
        await api.post(scored(2))
        assert names(await api.batch()) == [2]


async def test_a_list_of_groups_is_queued_in_its_order(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        answers = [await api.http.post("/scored_data_list", json=sent) for sent in ([], [scored(1), scored(2)], {})]
        assert [answer.status_code for answer in answers] == [200, 200, 422]
        assert answers[1].json() == {"status": "received", "groups_processed": 2}
        assert names(await api.batch()) == [1, 2]


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"batch_size": None}, {"num_steps": "many"}, {"starting_step": 2**70}])
async def test_a_registration_that_cannot_be_is_refused(tmp_path: Path, change: Json):
    async with atropos(tmp_path / "q") as api:
        answer = await api.http.post("/register", json=REGISTRATION | change)
        assert (answer.status_code, (await api.http.get("/info")).json()["batch_size"]) == (422, -1)


async def test_an_environment_without_a_name_gets_one(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        wanted = {"max_token_length": 1, "desired_name": None, "weight": 1, "group_size": 1}
        assert (await api.http.post("/register-env", json=wanted)).json()["wandb_name"] == "environment_0"

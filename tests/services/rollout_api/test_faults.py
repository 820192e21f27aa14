"""What goes wrong with clients, networks and clocks, with real processes and sockets."""

import asyncio
import gzip
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import zstandard

from core.clock import SystemClock
from core.errors import QueueError
from core.types import ScoredGroup
from core.wire import encode
from services.rollout_api.demand import FORGET_SECONDS, Roster, Server
from services.rollout_api.messages import GroupState, RunStatus, TakeBatch
from services.rollout_api.queue import GroupQueue
from services.rollout_api.sqlite import SqliteFile
from services.rollout_api.store import LedgerStore
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import (
    MSGPACK,
    ROOMY,
    ApiProcess,
    group,
    ids,
    queue,
    raw,
    run_spec,
    serving,
    turn,
    update,
)

KILLS = 20
TRAINER = """
import asyncio, sys
from services.sdk.rollout_client import RolloutClient
async def main():
    async with RolloutClient(sys.argv[1]) as client:
        taken = await client.take_batch(2, 0, lease_seconds=2.0)
        print(len(taken.groups), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


class JumpingClock(SystemClock):
    """The machine's clock, whose date can be set."""

    ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead


def large(name: str, tokens: int) -> ScoredGroup:
    """A group of about 8 bytes a token, which do not compress."""
    chance = random.Random(7)
    completion = tuple(chance.randrange(2**31) for _ in range(tokens))
    filled = turn().model_copy(update={"completion_ids": completion, "logprobs": tuple(-chance.random() for _ in completion)})
    whole = group(name, scored=1)
    first = whole.trajectories[0].model_copy(update={"turns": (filled,)})
    return whole.model_copy(update={"trajectories": (first,)})


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection with a small window, so that an unread answer stops the sender."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 12)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request(path: str, body: bytes, **headers: str) -> bytes:
    """A POST as it goes over the wire."""
    fields = {"Host": "127.0.0.1", "Content_Type": "application/msgpack", "Content_Length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


@pytest.mark.slow
async def test_twenty_kills_at_random_moments_lose_nothing_and_train_on_nothing_twice(tmp_path: Path):
    chance = random.Random(11)
    names = [f"g{number}" for number in range(600)]
    waiting, trained = iter(names), []

    async def environment(client: RolloutClient) -> None:
        for name in waiting:
            await client.post_group(group(name))

    async def trainer(client: RolloutClient) -> None:
        while len(trained) < len(names):
            # a lease that lasts: the posts are quick, and this request may meet a server that is away several times in a row
            if taken := await client.take_batch(5, 0, wait_seconds=1.0, lease_seconds=60.0):
                await client.acknowledge(taken.batch_id, update())
                trained.extend(ids(taken.groups))

    async def killer(api: ApiProcess, client: RolloutClient) -> None:
        for _ in range(KILLS):
            seen = (await client.status()).counts.accepted + chance.randrange(1, 25)
            while (await client.status()).counts.accepted < min(seen, len(names)):
                await asyncio.sleep(0.002)
            api.kill()
            await asyncio.to_thread(api.restart)

    with ApiProcess(tmp_path / "q") as api:
        async with RolloutClient(api.url) as client:
            await client.open_run(run_spec(batch=5, total_steps=1000))
            async with asyncio.timeout(300), asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(environment(client))
                tasks.create_task(trainer(client))
                tasks.create_task(killer(api, client))
            counts = (await client.status()).counts
    assert sorted(trained) == sorted(names)
    assert (counts.accepted, counts.trained, counts.queued, counts.leased) == (600, 600, 0, 0)


async def test_the_batch_of_a_trainer_that_was_killed_goes_to_another(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        for name in ("a", "b"):
            await client.post_group(group(name))
        command = [sys.executable, "-c", TRAINER, client.base_url]
        dying = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert dying.stdout is not None
        assert await dying.stdout.readline() == b"2\n"
        os.kill(dying.pid, signal.SIGKILL)
        await dying.wait()
        taken = await client.take_batch(2, 0, wait_seconds=60)
    assert taken is not None
    assert ids(taken.groups) == ["a", "b"]


async def test_a_client_that_leaves_in_the_middle_of_a_batch_can_ask_for_it_again(tmp_path: Path):
    sent = large("a", 1_000_000)
    wanted = encode(TakeBatch(batch_id="mine", groups=1, policy_version=0))
    async with raw(tmp_path / "q", max_body_bytes=32 << 20) as http:
        await http.post("/v1/run", content=encode(run_spec()), headers=MSGPACK)
        await http.post("/v1/groups", content=encode(sent), headers=MSGPACK, timeout=60)
        async with connected(str(http.base_url)) as (reader, writer):
            writer.write(request("/v1/batches", wanted))
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        again = await http.post("/v1/batches", content=wanted, headers={**MSGPACK, "Accept-Encoding": "identity"}, timeout=60)
        ready = await http.get("/ready")
    assert again.content.endswith(encode(sent))
    assert ready.status_code == 200


async def test_a_slow_reader_holds_nobody_up(tmp_path: Path):
    sent = large("a", 1_000_000)
    wanted = encode(TakeBatch(batch_id="mine", groups=1, policy_version=0))
    async with raw(tmp_path / "q", max_body_bytes=32 << 20) as http:
        await http.post("/v1/run", content=encode(run_spec()), headers=MSGPACK)
        assert (await http.post("/v1/groups", content=encode(sent), headers=MSGPACK, timeout=60)).status_code == 201
        async with connected(str(http.base_url)) as (reader, writer):
            writer.write(request("/v1/batches", wanted))
            head = await reader.readuntil(b"\r\n\r\n")
            answers = [await http.post("/v1/groups", content=encode(group(f"b{n}")), headers=MSGPACK) for n in range(5)]
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
    assert [answer.status_code for answer in answers] == [201] * 5
    assert body.endswith(encode(sent))


@pytest.mark.parametrize("stated", [10 << 20, 1 << 30], ids=["10 MB", "1 GB"])
async def test_a_body_over_the_limit_is_refused_by_its_header(tmp_path: Path, stated: int):
    async with serving(tmp_path / "q") as url, connected(url) as (reader, writer):
        writer.write(request("/v1/groups", b"", Content_Length=str(stated)))
        async with asyncio.timeout(60):  # nothing of the body is waited for
            status = await reader.readline()
    assert b"413" in status


async def test_a_body_of_ten_megabytes_is_one_group_like_others(tmp_path: Path):
    sent = large("a", 900_000)
    async with queue(tmp_path / "q", max_body_bytes=16 << 20) as client:
        assert len(encode(sent)) > 10 << 20
        await client.open_run(run_spec())
        await client.post_group(sent)
        taken = await client.take_batch(1, 0)
    assert taken is not None
    assert taken.groups == (sent,)


def zstd_without_size(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(body)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(bytes(50 << 20)), 413),
        ("gzip", gzip.compress(bytes(1 << 19)) * 4, 413),
        ("zstd", zstandard.compress(bytes(50 << 20)), 413),
        ("zstd", zstd_without_size(bytes(50 << 20)), 413),
        ("gzip", gzip.compress(encode(group("a")))[:-9], 400),
        ("gzip", b"not gzip", 400),
        ("gzip", b"", 400),
        ("zstd", zstandard.compress(encode(group("a")))[:-9], 400),
        ("zstd", zstandard.compress(b"x") * 2, 400),
        ("zstd", b"not zstd", 400),
        ("gzip", gzip.compress(encode(group("a"))), 201),
        ("zstd", zstandard.compress(encode(group("a"))), 201),
        ("zstd", zstd_without_size(encode(group("a"))), 201),
    ],
)
async def test_what_comes_out_of_a_compressed_body_is_bounded(tmp_path: Path, encoding: str, body: bytes, status: int):
    async with raw(tmp_path / "q") as http:
        answer = await http.post("/v1/groups", content=body, headers={**MSGPACK, "Content-Encoding": encoding})
    assert answer.status_code == status


def test_a_server_that_comes_back_under_another_name_is_counted_once_when_the_old_one_was_silent():
    roster = Roster()
    roster.report(Server("run", "sums", "old"), 4, now=0.0)
    roster.report(Server("run", "sums", "new"), 4, now=FORGET_SECONDS - 1)
    before = roster.running("run", "sums")
    roster.forget_silent(FORGET_SECONDS + 1)
    assert (before, roster.running("run", "sums"), roster.running("run")) == (8, 4, 4)


async def test_a_clock_that_jumps_ends_no_lease_and_lengthens_none(tmp_path: Path):
    clock = JumpingClock()

    def still_here() -> bool:
        return False

    def opened() -> GroupQueue:
        return GroupQueue(LedgerStore(SqliteFile(tmp_path / "q", min_free_bytes=0), ROOMY), clock)

    async with serving(tmp_path / "q") as url, RolloutClient(url) as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
    async with opened() as first:
        wanted = TakeBatch(batch_id="b", groups=1, policy_version=0, lease_seconds=2.0)
        assert await first.take_batch(wanted, still_here) is not None
        clock.ahead = 86_400.0
        await first.put_note("anything", b"else")
        assert first.snapshot.total("run").leased == 1
    clock.ahead = -86_400.0  # set back by two days while the API was away: the lease seems to end in two days
    async with opened() as second:
        again = TakeBatch(batch_id="c", groups=1, policy_version=0, wait_seconds=60.0)
        assert await second.take_batch(again, still_here) is not None


async def test_groups_of_any_size_make_batches_and_what_is_left_waits(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(batch=3))
        for number, size in enumerate((1, 7, 3, 2, 5, 1, 4)):
            await client.post_group(group(f"g{number}", scored=size, lost=number % 2))
        batches = [await client.take_batch(3, 0, wait_seconds=0) for _ in range(3)]
        counts = (await client.status()).counts
    assert [ids(taken.groups) if taken else None for taken in batches] == [["g0", "g1", "g2"], ["g3", "g4", "g5"], None]
    assert (counts.leased, counts.queued) == (6, 1)


async def test_a_thousand_environments_share_one_queue(tmp_path: Path):
    async def join(http: httpx.AsyncClient, names: range) -> None:
        for number in names:
            assert (await http.put(f"/v1/environments/env{number}", json={})).status_code == 200

    async def ask(http: httpx.AsyncClient, number: int) -> int:
        params = {"environment": f"env{number}", "running": 0, "wait_seconds": 60.0}
        return (await http.get("/v1/demand", params=params, timeout=120)).json()["groups"]

    async with serving(tmp_path / "q") as url, AsyncExitStack() as stack, RolloutClient(url) as trainer:
        # each with connections of its own: one pool of a thousand takes long to look through
        clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False)) for _ in range(25)]
        await asyncio.gather(*(join(http, range(at, 1000, 25)) for at, http in enumerate(clients)))
        waiting = [asyncio.create_task(ask(clients[number % 25], number)) for number in range(1000)]
        while (await clients[0].get("/metrics")).text.count("natgym_running_groups{") < 1000:
            await asyncio.sleep(0.2)
        await trainer.open_run(run_spec(batch=600))
        while sum(task.result() for task in waiting if task.done()) < 600:
            await asyncio.sleep(0.05)
        await trainer.set_run_status("run", RunStatus.FINISHED)
        granted = await asyncio.gather(*waiting)
    assert (sum(granted), max(granted)) == (600, 1)


async def test_a_batch_that_was_dropped_meanwhile_is_refused_and_not_cut_short(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        taken = await client.take_batch(1, 0)
        assert taken is not None
        await client.acknowledge(taken.batch_id, update())
        with pytest.raises(QueueError, match="404"):
            await client.group("a")
        page = await client.groups()
    assert [one.state for one in page.groups] == [GroupState.TRAINED]

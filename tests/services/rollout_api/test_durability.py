"""kill -9, restarts and a full disk, with real processes and sockets."""

import asyncio
import random
import shutil
import subprocess
from array import array
from pathlib import Path

import httpx
import pytest

from core.errors import ConfigError
from core.wire import encode
from services.rollout_api.base import Limits
from services.rollout_api.sqlite import SqliteFile
from services.rollout_api.store import LedgerStore
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import MSGPACK, ApiProcess, group, ids, run_spec, turn, update

DISK_BYTES = 12 << 20


def small_disk(path: Path) -> list[str]:
    """A command prefix that gives its command a disk of 12 MiB at that path, or skips the test."""
    path.mkdir()
    prefix = ["bwrap", "--dev-bind", "/", "/", "--size", str(DISK_BYTES), "--tmpfs", str(path), "--die-with-parent"]
    if shutil.which("bwrap") is None or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("bubblewrap cannot make namespaces here")
    return prefix


def large_group(name: str) -> bytes:
    """About 100 kB, which do not compress."""
    noise = tuple(number >> 1 for number in array("I", random.Random(name).randbytes(100_000)))
    first = group(name, scored=1).trajectories[0]
    fat = first.model_copy(update={"turns": (turn().model_copy(update={"prompt_ids": noise}),)})
    return encode(group(name, scored=1).model_copy(update={"trajectories": (fat,)}))


async def fill(http: httpx.AsyncClient, prefix: str) -> tuple[list[str], httpx.Response]:
    """Post until something is refused: the names that were accepted, and the refusal."""
    accepted: list[str] = []
    while True:
        name = f"{prefix}{len(accepted)}"
        answer = await http.post("/v1/groups", content=large_group(name), headers=MSGPACK)
        if answer.status_code != 201:
            return accepted, answer
        accepted.append(name)


async def test_kill_9_under_load_loses_and_doubles_nothing(tmp_path: Path):
    names = [f"g{number}" for number in range(400)]
    waiting = iter(names)

    async def post_some(client: RolloutClient) -> None:
        for name in waiting:
            await client.post_group(group(name))

    with ApiProcess(tmp_path / "q") as api:
        async with RolloutClient(api.url) as client:
            await client.open_run(run_spec())
            async with asyncio.TaskGroup() as tasks:
                for _ in range(8):
                    tasks.create_task(post_some(client))
                for threshold in (50, 150, 250):
                    while (await client.status()).counts.accepted < threshold:
                        await asyncio.sleep(0.005)
                    api.kill()
                    api.restart()
            taken = await client.take_batch(len(names), 0, wait_seconds=0)
            more = await client.take_batch(1, 0, wait_seconds=0)
    assert taken is not None
    assert sorted(ids(taken.groups)) == sorted(names)
    assert more is None


async def test_a_lease_survives_kill_9_and_can_be_acknowledged(tmp_path: Path):
    with ApiProcess(tmp_path / "q") as api:
        async with RolloutClient(api.url) as client:
            await client.open_run(run_spec())
            await client.post_group(group("a"))
            taken = await client.take_batch(1, 0, lease_seconds=3600)
            assert taken is not None
            api.kill()
            api.restart()
            run = await client.acknowledge(taken.batch_id, update())
            assert (run.step, (await client.status()).counts.trained) == (1, 1)


async def test_a_lease_that_ends_while_the_api_is_down_returns(tmp_path: Path):
    with ApiProcess(tmp_path / "q") as api:
        async with RolloutClient(api.url) as client:
            await client.open_run(run_spec())
            await client.post_group(group("a"))
            await client.take_batch(1, 0, lease_seconds=1)
            api.kill()
            api.restart()
            taken = await client.take_batch(1, 0, wait_seconds=60)
    assert taken is not None
    assert ids(taken.groups) == ["a"]


async def test_a_restart_resumes_the_same_run_at_the_same_step(tmp_path: Path):
    with ApiProcess(tmp_path / "q") as api:
        async with RolloutClient(api.url) as client:
            await client.register_environment("sums", weight=2.0)
            await client.open_run(run_spec(step=4, policy_version=4))
            await client.post_group(group("a", policy_version=4))
            taken = await client.take_batch(1, 4)
            assert taken is not None
            await client.acknowledge(taken.batch_id, update(5))
            before = await client.status()
            api.kill()
            api.restart()
            assert await client.status() == before


async def test_an_orderly_stop_ends_long_polls_at_once(tmp_path: Path):
    with ApiProcess(tmp_path / "q") as api:
        async with RolloutClient(api.url, retry_seconds=0) as client:
            await client.register_environment("sums")
            waiting = asyncio.create_task(client.demand("sums", 7, wait_seconds=60))
            while (await client.status()).environments["sums"].running < 7:  # until it has been heard
                await asyncio.sleep(0.01)
            code, printed = await asyncio.to_thread(api.stop)
            assert (await waiting).groups == 0
    assert (code, printed) == (0, "")


async def test_a_full_disk_refuses_new_groups_and_keeps_the_old_ones(tmp_path: Path):
    with ApiProcess(tmp_path / "disk" / "q", within=small_disk(tmp_path / "disk")) as api:
        async with httpx.AsyncClient(base_url=api.url) as http, RolloutClient(api.url) as client:
            await client.open_run(run_spec())
            accepted, refusal = await fill(http, "g")
            counts = (await client.status()).counts
            read = [(await http.get(f"/v1/groups/{name}")).content for name in accepted]
    assert (refusal.status_code, counts.queued) == (507, len(accepted))
    assert read == [large_group(name) for name in accepted]
    assert len(accepted) > 10


async def test_training_frees_a_disk_that_is_kept_from_filling_up(tmp_path: Path):
    with ApiProcess(tmp_path / "disk" / "q", within=small_disk(tmp_path / "disk"), min_free_mib=2) as api:
        async with httpx.AsyncClient(base_url=api.url) as http, RolloutClient(api.url) as client:
            await client.open_run(run_spec())
            accepted, refusal = await fill(http, "g")
            taken = await client.take_batch(len(accepted), 0)
            assert taken is not None
            await client.acknowledge(taken.batch_id, update())
            counts = (await client.status()).counts
            more, _ = await fill(http, "h")
    assert len(more) > 10
    assert refusal.status_code == 507
    assert ids(taken.groups) == accepted
    assert counts.trained == len(accepted)


def test_two_servers_cannot_share_a_database(tmp_path: Path):
    with (
        ApiProcess(tmp_path / "q"),
        pytest.raises(ConfigError, match="in use by another rollout API"),
    ):
        LedgerStore(SqliteFile(tmp_path / "q", min_free_bytes=0), Limits(1, 1))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "q").write_text("not a database, but long enough to look at\n" * 50)
    with pytest.raises(ConfigError, match="not a database"):
        LedgerStore(SqliteFile(tmp_path / "q", min_free_bytes=0), Limits(1, 1))

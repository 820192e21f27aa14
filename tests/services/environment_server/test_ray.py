"""Environment servers on a real Ray cluster of two nodes, of which one dies while it plays."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from core.settings import child_environ
from services.rollout_api.messages import RunStatus
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import run_spec, serving, update
from tests.services.small_policy import NATGYM, ROOT

pytestmark = [pytest.mark.slow]
pytest.importorskip("ray", reason="the package 'ray' is not installed")

LIMIT_SECONDS = 500  # a cluster takes 15 seconds to start where nothing else runs, and many times that on a busy machine
BATCH, GROUP_SIZE, GROUPS_AT_ONCE = 2, 2, 2
SETTINGS = (
    "rollouts.backend=unsafe-local",
    f"rollouts.max_groups={GROUPS_AT_ONCE}",
    "policy.kind=server",
    "policy.timeout_seconds=600",
)


class HeldPolicy:
    """An OpenAI-compatible server that answers nonsense, and at times not yet."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.held = 0

    async def models(self, request: Request) -> JSONResponse:
        return JSONResponse({"data": [{"id": "policy"}]})

    async def complete(self, request: Request) -> JSONResponse:
        self.held += 1
        try:
            await self.open.wait()
        finally:
            self.held -= 1
        message = {"role": "assistant", "content": "I do not know."}
        return JSONResponse({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


@asynccontextmanager
async def policy_server() -> AsyncIterator[tuple[str, HeldPolicy]]:
    """Its address, and the policy."""
    policy = HeldPolicy()
    routes = [
        Route("/health", policy.models),
        Route("/v1/models", policy.models),
        Route("/v1/chat/completions", policy.complete, methods=["POST"]),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="error", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", policy
    finally:
        policy.open.set()
        server.should_exit = True
        await running


@asynccontextmanager
async def program(*command: str, **streams: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that ends with the block, with everything that it started."""
    environ = child_environ(PYTHONPATH=str(ROOT), RAY_USAGE_STATS_ENABLED="0")
    process = await asyncio.create_subprocess_exec(*command, env=environ, cwd=ROOT, start_new_session=True, **streams)
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(30):
                    await process.wait()
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


@asynccontextmanager
async def cluster() -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The address of two nodes, and the program that holds them."""
    script = Path(__file__).with_name("ray_cluster.py")
    async with program(sys.executable, str(script), stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        assert address, "the cluster did not start"
        try:
            yield address, process
        finally:
            process.stdin.close()
            async with asyncio.timeout(60):
                await process.wait()


async def lose_a_node(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    assert await process.stdout.readline() == b"lost\n"


async def train_on(client: RolloutClient, wanted: set[int]) -> list[int]:
    """What a trainer does, without learning, until it got the groups of these numbers: the numbers of all that it got."""
    run, trained = (await client.status()).run, list[int]()
    assert run is not None
    while not wanted <= set(trained):
        taken = await client.take_batch(BATCH, 0, wait_seconds=60.0)
        if taken is not None:
            trained += [int(group.id.rpartition("-")[2]) for group in taken.groups]
            run = await client.acknowledge(taken.batch_id, update(run.step + 1))
    await client.set_run_status(run.id, RunStatus.FINISHED)
    return trained


async def test_a_node_that_dies_loses_no_accepted_group_and_its_tasks_are_played_again(tmp_path: Path):
    async with (
        asyncio.timeout(LIMIT_SECONDS),
        serving(tmp_path / "queue.sqlite") as api_url,
        RolloutClient(api_url) as client,
        policy_server() as (policy_url, policy),
        cluster() as (address, nodes),
    ):
        await client.open_run(run_spec(batch=BATCH, max_staleness=15))
        command = (*NATGYM, "serve", "env", "reverse_text", "--ray", address, "--api-url", api_url, "--policy-url", policy_url)
        with (tmp_path / "log").open("wb") as log:
            async with program(*command, *(f"--set={one}" for one in SETTINGS), stderr=log.fileno()) as fleet:
                policy.open.set()
                while (await client.status()).counts.queued < 2:
                    assert fleet.returncode is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.2)
                policy.open.clear()
                while policy.held <= GROUPS_AT_ONCE * GROUP_SIZE:  # more than one server may play, so both do
                    assert fleet.returncode is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.2)
                handed_out = (await client.status()).counts.queued + policy.held // GROUP_SIZE
                await lose_a_node(nodes)
                while not (lost := re.search(r"server_lost .*tasks_again=(\d)", (tmp_path / "log").read_text())):
                    assert fleet.returncode is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.2)
                policy.open.set()
                trained = await train_on(client, set(range(handed_out)))
                assert await fleet.wait() == 0, (tmp_path / "log").read_text()
    assert len(set(trained)) == len(trained)  # none twice
    assert 1 <= int(lost[1]) <= GROUPS_AT_ONCE

"""Small groups, and a rollout API of one's own on a free port: in this process, or as a process that can be killed."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import httpx
from pydantic import SecretStr

from core.clock import SystemClock
from core.types import Failure, Message, Reward, Role, ScoredGroup, StopReason, Task, Trajectory, Turn, Update
from services.bind import claim_socket, make_server, url_of
from services.rollout_api.access import Tokens
from services.rollout_api.app import create_app
from services.rollout_api.base import Limits
from services.rollout_api.messages import RunSpec
from services.rollout_api.postgres import PostgresServer
from services.rollout_api.queue import GroupQueue
from services.rollout_api.sqlite import SqliteFile
from services.rollout_api.store import LedgerStore
from services.sdk.rollout_client import RolloutClient

MSGPACK = {"Content-Type": "application/msgpack"}
ROOMY = Limits(max_queued_groups=1000, max_queued_bytes=1 << 30)
SERVE = """
import sys
from services.rollout_api.server import RolloutApiConfig, serve_api
serve_api(RolloutApiConfig.model_validate_json(sys.argv[1]))
"""


def turn(policy_version: int = 0, tokens: int = 3) -> Turn:
    return Turn(
        prompt_ids=(1, 2),
        completion_ids=tuple(range(tokens)),
        logprobs=(-0.25,) * tokens,
        message=Message(role=Role.ASSISTANT, content="4"),
        policy_version=policy_version,
    )


def group(name: str, *, environment: str = "sums", policy_version: int = 0, scored: int = 2, lost: int = 0) -> ScoredGroup:
    """A group of that id with `scored` rewards and `lost` failures."""
    task = Task(id="task", environment=environment, messages=(Message(role=Role.USER, content="2 + 2?"),))
    turns = (turn(policy_version),)
    good = [
        Trajectory(id=f"{name}/{i}", task_id="task", turns=turns, stop=StopReason.FINISHED, reward=Reward.of(correct=float(i)))
        for i in range(scored)
    ]
    failure = Failure(boundary="sandbox", error="SandboxLost", message="died")
    bad = [
        Trajectory(id=f"{name}/lost{i}", task_id="task", turns=turns, stop=StopReason.FAILED, failure=failure)
        for i in range(lost)
    ]
    return ScoredGroup(id=name, environment=environment, task=task, trajectories=(*good, *bad))


def update(step: int = 1) -> Update:
    return Update(
        step=step,
        policy_version=step,
        loss=0.5,
        kl=0.01,
        entropy=1.0,
        grad_norm=0.3,
        clipped_fraction=0.0,
        tokens=12,
        seconds=0.1,
    )


def run_spec(name: str = "run", *, batch: int = 2, max_staleness: int = 0, total_steps: int = 100, **more: int) -> RunSpec:
    return RunSpec(id=name, groups_per_batch=batch, group_size=2, max_staleness=max_staleness, total_steps=total_steps, **more)


def ids(groups: Sequence[ScoredGroup]) -> list[str]:
    return [one.id for one in groups]


@asynccontextmanager
async def serving(
    database: Path | str,
    *,
    limits: Limits = ROOMY,
    min_free_bytes: int = 0,
    max_body_bytes: int = 1 << 20,
    token: SecretStr | None = None,
    tokens: Tokens | None = None,
) -> AsyncIterator[str]:
    """The address of a rollout API that runs in this event loop, behind a real socket."""
    clock = SystemClock()
    file = isinstance(database, Path)
    connector = SqliteFile(database, min_free_bytes=min_free_bytes) if file else PostgresServer(database)
    opened = GroupQueue(LedgerStore(connector, limits), clock)
    sock = claim_socket("127.0.0.1", 0)
    url = url_of(sock)

    async def end_long_polls() -> None:
        opened.stop_waiting()

    app = create_app(opened, clock=clock, tokens=tokens or Tokens(token), max_body_bytes=max_body_bytes)
    server = make_server(app, on_shutdown=end_long_polls)
    running = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield url
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def queue(database: Path | str, **options: Limits | int) -> AsyncIterator[RolloutClient]:
    """A client of a rollout API of its own, with the environment `sums` registered."""
    async with serving(database, **options) as url, RolloutClient(url, retry_seconds=0.0) as client:  # type: ignore[arg-type]
        await client.register_environment("sums")
        yield client


@asynccontextmanager
async def raw(database: Path, **options: Limits | int | SecretStr | Tokens) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client of a rollout API of its own."""
    async with serving(database, **options) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:  # type: ignore[arg-type]
        yield http


class ApiProcess:
    """`natgym serve api` as a process that can be killed and started again. `within`: a command that runs its command."""

    def __init__(self, database: Path | str, *, min_free_mib: int = 0, within: Sequence[str] = ()) -> None:
        self._database, self._min_free_mib, self._within = database, min_free_mib, within
        self.url = ""

    def __enter__(self) -> Self:
        self._start(port=0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.communicate()

    def stop(self) -> tuple[int, str]:
        """SIGTERM: the exit code, and what was printed after the first line."""
        self._process.terminate()
        printed, _ = self._process.communicate()
        return self._process.returncode, printed

    def restart(self) -> None:
        """Start again on the same port."""
        self._start(int(self.url.rpartition(":")[2]))

    def _start(self, port: int) -> None:
        config = json.dumps({"port": port, "database": str(self._database), "min_free_mib": self._min_free_mib})
        command = [*self._within, sys.executable, "-c", SERVE, config]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[2]

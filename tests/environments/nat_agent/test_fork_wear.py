"""A worn fork server is replaced by a fresh one, and nobody who holds a child of it notices."""

import asyncio
import json
from pathlib import Path

import pytest

from backends.base import Process, SandboxError, SandboxSpec
from core.errors import RewardError
from core.types import JsonObject
from environments.nat_agent.fork_client import HEADER, Fork
from environments.nat_agent.fork_server import ForkServer, Wear
from tests.fakes import FakeBackend, FakeSandbox

HELLO: JsonObject = {"nat_version": "1.9.0", "walls": [], "missing": [], "memory_mib": 100}
ASKED: JsonObject = {"do": "load", "names": []}


class SpokenServer:
    """Speaks a fork server's protocol: children answer every request with its number, each one costs 10 MiB."""

    def __init__(self, number: int, refuses: bool) -> None:
        self._number, self._refuses = number, refuses
        self._said: asyncio.Queue[bytes] = asyncio.Queue()
        self._ended = 0
        self._say(0, {"hello": HELLO})

    async def send(self, data: bytes) -> None:
        _, channel = HEADER.unpack_from(data)
        order = json.loads(data[HEADER.size :])
        if channel:
            if not self._refuses:
                self._say(channel, {"result": {"server": self._number}})
        elif order["do"] == "kill" or self._refuses:
            self._ended += 1
            facts = {"reason": "cannot fork", "cpu_seconds": 0.5, "memory_mib": 100 + 10 * self._ended}
            self._say(0, {"ended": order["channel"], "blameless": self._refuses, **facts})

    async def receive(self) -> bytes:
        return await self._said.get()

    async def kill(self) -> None:
        self._said.put_nowait(b"")

    def stderr_tail(self) -> str:
        return ""

    def _say(self, channel: int, message: JsonObject) -> None:
        body = json.dumps(message).encode()
        self._said.put_nowait(HEADER.pack(len(body), channel) + body)


class ServerSandbox(FakeSandbox):
    refuses = False

    async def spawn(self, argv: object, *, cwd: str = "/workspace") -> Process:
        return SpokenServer(int(self.id.rpartition("-")[2]), self.refuses)


class ServerBackend(FakeBackend):
    """Makes sandboxes in which fork servers start, at most so many of them."""

    def __init__(self, most: int = 9, refuses: bool = False) -> None:
        super().__init__()
        self._most, self._refuses = most, refuses

    async def create(self, spec: SandboxSpec, **asked: object) -> FakeSandbox:
        if len(self.made) == self._most:
            raise SandboxError("no more of them")
        sandbox = ServerSandbox(len(self.made), self._answer)
        sandbox.refuses = self._refuses
        self.made.append(sandbox)
        return sandbox


@pytest.fixture
def nat_python(tmp_path: Path) -> Path:
    """The place of an interpreter."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (tmp_path / "bin/python").touch()
    return tmp_path / "bin/python"


async def server_of(fork: Fork) -> object:
    return (await fork.ask(ASKED))["server"]


async def fork_once(server: ForkServer) -> object:
    """Which server a fresh child belongs to; afterwards its replacement has started, where it needs one."""
    async with server.fork() as fork:
        number = await server_of(fork)
    if server.replacing is not None:
        await server.replacing
    return number


@pytest.mark.parametrize("wear", [Wear(forks=2), Wear(growth_mib=15)], ids=["by forks", "by memory"])
async def test_a_worn_server_is_replaced(nat_python: Path, wear: Wear):
    backend = ServerBackend()
    server = ForkServer(backend, nat_python, wear=wear)
    assert [await fork_once(server) for _ in range(5)] == [0, 0, 1, 1, 2]
    await server.stop()
    assert [one.destroyed for one in backend.made] == [True, True, True]


async def test_a_child_keeps_its_worn_server_alive(nat_python: Path):
    backend = ServerBackend()
    server = ForkServer(backend, nat_python, wear=Wear(forks=2))
    async with server.fork() as held:
        assert await fork_once(server) == 0
        assert await fork_once(server) == 1
        assert await server_of(held) == 0
    assert [one.destroyed for one in backend.made] == [True, False]
    await server.stop()


async def test_a_worn_server_goes_on_where_no_fresh_one_starts(nat_python: Path):
    server = ForkServer(ServerBackend(most=1), nat_python, wear=Wear(forks=1))
    assert [await fork_once(server) for _ in range(3)] == [0, 0, 0]
    await server.stop()


async def test_what_children_cost_is_kept_over_a_replacement(nat_python: Path):
    server = ForkServer(ServerBackend(), nat_python, wear=Wear(forks=2))
    for _ in range(5):
        await fork_once(server)
    assert server.cpu_seconds == 2.5
    await server.stop()


async def test_a_fork_that_cannot_be_made_says_nothing_about_the_policy(nat_python: Path):
    server = ForkServer(ServerBackend(refuses=True), nat_python)
    with pytest.raises(RewardError, match="cannot fork"):
        async with server.fork() as fork:
            await fork.ask(ASKED)
    await server.stop()

"""Transfers with an agent in hostile hands: what it lists and sends touches nothing of the host but the destination."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from backends.agent.frames import pack, take_request
from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import ProtocolViolation, SandboxPathError
from backends.channel import Channel

Answer = Callable[[dict], tuple[dict[str, object], bytes]]


class Gone:
    """A Host that holds nothing up."""

    async def end(self, seconds: float) -> str:
        return ""


class Impostor:
    """Sandboxes whose agent is a function of the test's: request -> (header, body)."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self.made: list[AgentSandbox] = []

    async def sandbox(self, answer: Answer, *, twin: AgentSandbox | None = None) -> AgentSandbox:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        self._tasks.append(asyncio.create_task(self._serve(reader, writer, answer)))

        async def another() -> AgentSandbox:
            assert twin is not None
            return twin

        async def free(sandbox: AgentSandbox) -> None:
            """Nothing of it is left."""

        self.made.append(AgentSandbox(await Channel.open(ours), Gone(), Hooks(free, another)))
        return self.made[-1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
        received = bytearray()
        while data := await reader.read(1 << 16):
            received += data
            while (frame := take_request(received)) is not None:
                header, body = answer(frame[0])
                writer.write(pack({"id": frame[0]["id"], **header}, len(body)) + body)
        writer.close()

    async def aclose(self) -> None:
        for sandbox in self.made:
            await sandbox.destroy()
        await asyncio.gather(*self._tasks)


@pytest.fixture
async def impostor() -> AsyncIterator[Impostor]:
    impostor = Impostor()
    yield impostor
    await impostor.aclose()


LISTINGS = {
    "up": b"../escaped",
    "up from below": b"a/../../escaped",
    "absolute": b"/etc/escaped",
    "nothing": b"a\0\0b",
    "itself": b".",
    "an empty part": b"a//b",
    "no text": b"\xff\xfe",
    "one name twice": b"a\0a",
    "a file and below it": b"a\0a/b",
    "below a file and the file": b"a/b\0a",
    "more than was asked for": b"\0".join(b"%d" % number for number in range(5)),
}


@pytest.mark.parametrize("listing", LISTINGS)
async def test_a_list_that_no_honest_agent_sends_ends_the_download(impostor: Impostor, tmp_path: Path, listing: str):
    def answer(request: dict) -> tuple[dict[str, object], bytes]:
        return {}, LISTINGS[listing] if request["op"] == "files" else b"hostile"

    sandbox = await impostor.sandbox(answer)
    (tmp_path / "in").mkdir()
    with pytest.raises(ProtocolViolation):
        await sandbox.download("/workspace", tmp_path / "in", max_files=3)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert sandbox.broke_protocol


async def test_a_name_longer_than_the_host_allows_is_refused(impostor: Impostor, tmp_path: Path):
    sandbox = await impostor.sandbox(lambda request: ({}, b"x" * 5000 if request["op"] == "files" else b""))
    with pytest.raises(SandboxPathError, match="too long"):
        await sandbox.download("/workspace", tmp_path)


async def test_a_file_of_more_bytes_than_were_asked_for_ends_the_download(impostor: Impostor, tmp_path: Path):
    sandbox = await impostor.sandbox(lambda request: ({}, b"bomb" if request["op"] == "files" else b"x" * 1001))
    with pytest.raises(ProtocolViolation):
        await sandbox.download("/workspace", tmp_path, max_bytes=1000)
    assert list(tmp_path.iterdir()) == []


async def test_a_snapshot_that_is_shorter_than_it_says_ends_the_fork_and_both_sandboxes(impostor: Impostor):
    def answer(request: dict) -> tuple[dict[str, object], bytes]:
        return ({"snapshot": 1, "size": 1 << 40}, b"") if request["op"] == "snapshot" else ({}, b"short")

    twin = await impostor.sandbox(lambda request: ({}, b""))
    sandbox = await impostor.sandbox(answer, twin=twin)
    with pytest.raises(ProtocolViolation):
        await sandbox.fork()
    assert not await twin.alive()


async def test_a_snapshot_without_end_is_refused_where_it_is_put(impostor: Impostor):
    parts = 0

    def endless(request: dict) -> tuple[dict[str, object], bytes]:
        return ({"snapshot": 1, "size": 1 << 60}, b"") if request["op"] == "snapshot" else ({}, b"x" * request.get("size", 0))

    def full(request: dict) -> tuple[dict[str, object], bytes]:
        nonlocal parts
        parts += 1
        return ({"error": "limit", "message": "full"} if parts > 3 else {}), b""

    sandbox = await impostor.sandbox(endless, twin=await impostor.sandbox(full))
    with pytest.raises(Exception, match="full"):
        await sandbox.fork()
    assert parts == 4

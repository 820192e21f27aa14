"""Start an agent behind whatever walls a backend built, and shake hands with it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from backends.agent_sandbox import END_SECONDS, AgentSandbox
from backends.base import SandboxError, SandboxSpec
from backends.channel import Channel
from backends.host_process import HostProcess
from core.types import JsonObject

AGENT = Path(__file__).with_name("agent")
START_SECONDS = 20.0
BASE_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "TERM": "dumb"}  # noqa: S108
MIB = 1 << 20
ADDRESS_SPACE_FACTOR = 4  # address space that is mapped and hardly used: arrow, thread stacks, allocator arenas
AGENT_PROCESSES = 8  # the agent and a nanny for every command count as well


class Launch(NamedTuple):
    """How to start one agent: a command line made from the number of its socket, inherited descriptors, a user."""

    argv: Callable[[int], Sequence[str]]
    fds: Sequence[int] = ()
    user: int | None = None


def agent_command(python: Path, library: str, end: int) -> list[str]:
    """Run the agent found in the folder `library`, without the interpreter's own site packages and start-up files."""
    start = f"import sys; sys.path.insert(0, {library!r}); from backends.agent.main import main; main()"
    return [str(python), "-I", "-S", "-B", "-c", start, str(end)]


async def start_sandbox(launch: Launch, hello: JsonObject, free: Callable[[AgentSandbox], Awaitable[None]]) -> AgentSandbox:
    """A sandbox whose agent has answered. `free` runs after its end. Raises SandboxError with what was printed."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            host = HostProcess.start(launch.argv(theirs.fileno()), theirs, launch.fds, launch.user)
        except BaseException:
            ours.close()
            raise
    channel = None
    try:
        channel = await Channel.open(ours)
        await channel.request(hello, seconds=START_SECONDS)
    except BaseException as error:
        messages = await asyncio.shield(asyncio.get_running_loop().create_task(_give_up(channel, host)))
        if isinstance(error, SandboxError):
            raise SandboxError(f"the sandbox did not start: {messages or error}") from error
        raise
    return AgentSandbox(channel, host, free)


def hello(spec: SandboxSpec, *, workspace: str, isolated: bool) -> JsonObject:
    """The first request to an agent: what commands get and what holds them."""
    return {
        "workspace": workspace,
        "isolated": isolated,
        "env": {**BASE_ENV, **spec.env},
        "limits": {
            "RLIMIT_AS": spec.memory_mib * MIB * ADDRESS_SPACE_FACTOR,
            "RLIMIT_FSIZE": spec.disk_mib * MIB,
            "RLIMIT_CORE": 0,
            **({"RLIMIT_NPROC": spec.processes + AGENT_PROCESSES} if isolated else {}),
        },
    }


async def _give_up(channel: Channel | None, host: HostProcess) -> str:
    if channel is not None:  # else asyncio has closed the socket already
        await channel.close()
    return await host.end(END_SECONDS)

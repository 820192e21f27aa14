"""Start an agent behind whatever walls a backend built, and shake hands with it.

A backend of one file: put `agent_source()` where the sandbox can read it, run `agent_command` there, wrap the byte stream
to it in a `Channel`, and give both to `shake_hands`. backends/local.py does so over a socketpair; a backend that attaches
to a remote program's standard input and output passes `STDIO` and uses `Channel.over`.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from backends.agent_sandbox import END_SECONDS, AgentSandbox, Hooks, Host
from backends.base import SandboxError, SandboxSpec
from backends.channel import Channel
from backends.host_process import HostProcess
from backends.staging import step_down
from core.types import JsonObject

START_SECONDS = 20.0
STDIO = "stdio"
# not LANG, for which every shell would read a dozen files
BASE_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LC_CTYPE": "C.UTF-8", "TERM": "dumb"}  # noqa: S108
WRITABLE = ("/workspace", "/tmp", "/dev/shm")  # noqa: S108
MIB = 1 << 20
ADDRESS_SPACE_FACTOR = 4  # address space that is mapped and hardly used: arrow, thread stacks, allocator arenas
AGENT_PROCESSES = 8  # the agent and a nanny for every command count as well


class Launch(NamedTuple):
    """How to start one agent: a command line made from the number of its socket, inherited descriptors, a user."""

    argv: Callable[[int], Sequence[str]]
    fds: Sequence[int] = ()
    user: int | None = None


async def start_sandbox(launch: Launch, hello: JsonObject, hooks: Hooks) -> AgentSandbox:
    """A sandbox held up by a process of this machine. Raises SandboxError with what that printed."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            prefix = [] if launch.user is None else step_down(launch.user)
            host = HostProcess.start([*prefix, *launch.argv(theirs.fileno())], theirs, launch.fds)
        except BaseException:
            ours.close()
            raise
    try:
        channel = await Channel.open(ours)
    except BaseException:
        ours.close()
        await host.end(END_SECONDS)
        raise
    return await shake_hands(channel, host, hello, hooks)


async def shake_hands(
    channel: Channel, host: Host, hello: JsonObject, hooks: Hooks, *, seconds: float = START_SECONDS
) -> AgentSandbox:
    """A sandbox whose agent has answered. Where it does not, channel and host are ended. Raises SandboxError."""
    try:
        await channel.request(hello, seconds=seconds)
    except BaseException as error:
        messages = await asyncio.shield(asyncio.get_running_loop().create_task(_give_up(channel, host)))
        if isinstance(error, SandboxError):
            raise SandboxError(f"the sandbox did not start: {messages or error}") from error
        raise
    return AgentSandbox(channel, host, hooks)


def hello(
    spec: SandboxSpec, *, workspace: str = "/workspace", isolated: bool, writable: Sequence[str] = WRITABLE
) -> JsonObject:
    """The first request to an agent: what commands get and what holds them.

    `isolated`: the agent is PID 1 of a namespace, so that every process that it sees is its own. `writable`: the
    directories whose files a snapshot keeps and a reset removes, as paths that the agent sees.
    """
    return {
        "workspace": workspace,
        "isolated": isolated,
        "writable": list(writable),
        "env": {**BASE_ENV, **spec.env},
        "limits": {
            "RLIMIT_AS": spec.memory_mib * MIB * ADDRESS_SPACE_FACTOR,
            "RLIMIT_FSIZE": spec.disk_mib * MIB,
            "RLIMIT_CORE": 0,
            "RLIMIT_MSGQUEUE": 0,  # these queues would outlive a reset
            **({"RLIMIT_NPROC": spec.processes + AGENT_PROCESSES} if isolated else {}),
        },
    }


async def _give_up(channel: Channel, host: Host) -> str:
    await channel.close()
    return await host.end(END_SECONDS)

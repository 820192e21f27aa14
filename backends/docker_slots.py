"""Many sandboxes in one docker container, each in a slot with a user and disks of its own.

The container's agent runs as root with the capabilities to change its user and to kill, and nothing else. In every slot it
starts another agent, which reaches files as the slot's user and runs commands as that user: one slot can neither read nor
signal another, nor the agents. The kernel counts the processes of each user, and each slot has memory disks of a fixed size.

Slots share what a container has once: its network, where one may listen and another connect; the list of processes; its
bounds on memory and CPU, as many times a sandbox's as there are slots. So they are for episodes of equal trust.
"""

import asyncio
from collections.abc import Awaitable, Callable
from secrets import randbelow
from typing import NamedTuple

from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import Capabilities, Feature, Limit, Process, SandboxError, SandboxSpec, Tier
from backends.bubblewrap import system_python
from backends.channel import Channel
from backends.confined import inner_command
from backends.docker_container import memory_disk
from backends.start import AGENT_PROCESSES, STDIO, hello, shake_hands
from core.types import JsonObject

FIRST_USER, LAST_USER = 1 << 20, 1 << 30
CAPABILITIES = ("KILL", "SETGID", "SETUID")
# System V memory, queues and semaphores would be everybody's and outlive a slot
NO_IPC = {"kernel.shmmni": "0", "kernel.msgmni": "0", "kernel.sem": "0 0 0 0", "fs.mqueue.queues_max": "0"}
END = """
import os, sys
user = int(sys.argv[1])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
try:
    os.kill(-1, 9)
except ProcessLookupError:
    pass
for path in sys.argv[2:]:
    os.chmod(path, 0o700)
"""
"""Leaves nothing of a user, its disks closed to everybody else. What is on them is removed before they are used again."""


class Users(NamedTuple):
    """Those of one container's slots. No other container has them, because the kernel counts processes by user."""

    first: int
    slots: int

    @classmethod
    def fresh(cls, slots: int) -> "Users":
        """As many as that, which nobody has."""
        return cls(FIRST_USER + randbelow(LAST_USER - FIRST_USER), slots)

    def of(self, slot: int) -> int:
        """The user of a slot."""
        return self.first + slot


def disks(slot: int) -> tuple[str, str]:
    """The writable directories of a slot."""
    return f"/slots/{slot}/workspace", f"/slots/{slot}/tmp"  # noqa: S108


def with_slots(config: JsonObject, spec: SandboxSpec, users: Users) -> JsonObject:
    """What to POST to /containers/create, made from what it would be for one sandbox."""
    host = config["HostConfig"]
    assert isinstance(host, dict)
    tmpfs: JsonObject = {
        disk: memory_disk(spec.disk_mib, users.of(slot), "0700") for slot in range(users.slots) for disk in disks(slot)
    }
    bounds: JsonObject = {name: _times(host[name], users.slots) for name in ("PidsLimit", "Memory", "MemorySwap", "CpuQuota")}
    shared: JsonObject = {"CapAdd": [*CAPABILITIES], "Sysctls": {**NO_IPC}, "Tmpfs": tmpfs}
    return {**config, "User": "0:0", "HostConfig": {**host, **bounds, **shared}}


def slots_promise(found: Capabilities, slots: int) -> Capabilities:
    """What holds for each of the sandboxes in a container, given what holds for the container."""
    return found.model_copy(
        update={
            "tier": Tier.NAMESPACES,
            "detail": f"{found.detail}; {slots} sandboxes in a container, each with a user of its own",
            "private_pids": False,
            "limits": found.limits & {Limit.DISK} | {Limit.PROCESSES},
            "features": frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK}),
        }
    )


class _Container:
    def __init__(self, sandbox: AgentSandbox, spec: SandboxSpec, users: Users) -> None:
        self.sandbox, self.spec, self.users = sandbox, spec, users
        self.python = "python3" if spec.image else str(system_python())
        self.free = list(reversed(range(users.slots)))
        self.taken = 0


class SlotContainers:
    """Containers with slots. `open_container` makes one for those users; it ends with its last sandbox."""

    def __init__(self, slots: int, open_container: Callable[[SandboxSpec, Users], Awaitable[AgentSandbox]]) -> None:
        self._slots, self._open = slots, open_container
        self._containers: list[_Container] = []
        self._opening = asyncio.Lock()

    async def make(self, spec: SandboxSpec, hooks: Hooks) -> AgentSandbox:
        """A sandbox in a free slot of a container of the same spec, which is made where there is none."""
        container, slot = await self._free_slot(spec)
        held = _Slot(container, slot, self._release)
        try:
            await held.start()
        except BaseException:
            await asyncio.shield(asyncio.get_running_loop().create_task(self._release(container, None)))
            raise
        sandbox = await shake_hands(Channel.over(held), held, _greeting(spec, container.users.of(slot), slot), hooks)
        try:
            await sandbox.reset()  # what the one before left
        except BaseException:
            await sandbox.destroy()
            raise
        return sandbox

    async def aclose(self) -> None:
        """End the containers; their sandboxes were destroyed."""
        containers, self._containers = self._containers, []
        await asyncio.gather(*(container.sandbox.destroy() for container in containers))

    async def _free_slot(self, spec: SandboxSpec) -> tuple[_Container, int]:
        async with self._opening:
            container = next((one for one in self._containers if one.free and one.spec == spec), None)
            if container is None:
                users = Users.fresh(self._slots)
                container = _Container(await self._open(spec, users), spec, users)
                self._containers.append(container)
            container.taken += 1
            return container, container.free.pop()

    async def _release(self, container: _Container, slot: int | None) -> None:
        """A sandbox has ended; None: its slot may not be used again, nor a container that is dead."""
        container.taken -= 1
        if slot is not None:
            container.free.append(slot)
        elif not await container.sandbox.alive():
            container.free.clear()
        if container.taken == 0 and container in self._containers:
            self._containers.remove(container)
            await container.sandbox.destroy()


class _Slot:
    """The ByteStream to the agent of a slot, and the Host that holds it up."""

    def __init__(self, container: _Container, slot: int, release: Callable[[_Container, int | None], Awaitable[None]]) -> None:
        self._container, self._slot, self._release = container, slot, release
        self._program: Process | None = None

    async def start(self) -> None:
        """Start the agent. Cancelled, it leaves none."""
        command = inner_command(self._container.python, STDIO)
        starting = asyncio.get_running_loop().create_task(self._container.sandbox.spawn(command, cwd="/"))
        try:
            self._program = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_kill)
            raise

    async def receive(self) -> bytes:
        """See ByteStream.receive."""
        assert self._program is not None
        return await self._program.receive()

    async def send(self, data: bytes) -> None:
        """See ByteStream.send."""
        assert self._program is not None
        await self._program.send(data)

    async def aclose(self) -> None:
        """See ByteStream.aclose; `end` ends the agent."""

    async def end(self, seconds: float) -> str:
        """See Host.end: the agent, then everything of the slot's user."""
        assert self._program is not None
        user, slot = self._container.users.of(self._slot), self._slot
        clean = False
        try:
            async with asyncio.timeout(seconds):
                await self._program.kill()
                argv = [self._container.python, "-I", "-S", "-c", END, str(user), *disks(slot)]
                clean = (await self._container.sandbox.exec(argv, timeout_seconds=seconds, cwd="/")).exit_code == 0
        except (SandboxError, TimeoutError):
            pass  # the slot is not used again
        await self._release(self._container, slot if clean else None)
        return self._program.stderr_tail()


def _kill(starting: "asyncio.Task[Process]") -> None:
    if not starting.cancelled() and starting.exception() is None:
        asyncio.get_running_loop().create_task(starting.result().kill())


def _greeting(spec: SandboxSpec, user: int, slot: int) -> JsonObject:
    """The first words to the agent of a slot."""
    workspace, temporary = disks(slot)
    spec = spec.model_copy(update={"env": {"HOME": temporary, "TMPDIR": temporary, **spec.env}})
    words = hello(spec, workspace=workspace, isolated=False, writable=(workspace, temporary))
    limits = words["limits"]
    assert isinstance(limits, dict)
    return {**words, "limits": {**limits, "RLIMIT_NPROC": spec.processes + AGENT_PROCESSES}, "walls": {"user": user}}


def _times(bound: object, count: int) -> int:
    assert isinstance(bound, int)
    return bound * count

"""Start a sandbox behind bubblewrap's walls, in control groups of its own where these can be made.

Started by root, bubblewrap runs as an unprivileged user of the host: the kernel does not limit the number of root's
processes, and root's files in /proc/sys would have to be covered, which forbids a fresh /proc in a nested namespace.
"""

import asyncio
import json
import os
import shutil
from contextlib import suppress

from backends import cgroups
from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import Capabilities, Feature, Limit, SandboxError, SandboxSpec, Tier
from backends.bubblewrap import agent_argv, binds, forbidden_by, walls
from backends.container_start import bound_files
from backends.memory_disks import SHM_MIB, files_on
from backends.memory_files import MemoryFiles
from backends.staging import UNPRIVILEGED, everybody_reaches, stage, step_down
from backends.start import Launch, hello, start_sandbox
from core.errors import MissingRuntime

INFO_BYTES = 4096


class Bubblewrap:
    """The walls that bubblewrap builds; `program` is its name or path."""

    def __init__(self, program: str) -> None:
        self._program = program

    def capabilities(self, backend: str) -> Capabilities:
        """What is enforced, given that a sandbox could be made."""
        user = f"as user {UNPRIVILEGED}" if os.geteuid() == 0 else "as you"
        limits = {Limit.PROCESSES, Limit.DISK}
        grouped = cgroups.hierarchies() is not None
        if grouped:
            limits |= {Limit.MEMORY, Limit.CPU}
            how = "processes, memory and CPU of all commands by cgroups, disk by sized tmpfs"
        else:
            how = "processes, address space and file size by rlimits, disk by sized tmpfs; no cgroup can be made here"
        return Capabilities(
            backend=backend,
            tier=Tier.CONTAINED if grouped else Tier.NAMESPACES,
            detail=f"bubblewrap {user}; own user, pid, mount, network, ipc namespaces; no network; limits: {how}",
            private_pids=True,
            no_network=True,
            hides_host=True,
            limits=frozenset(limits),
            features=frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK}),
        )

    async def start(self, spec: SandboxSpec, hooks: Hooks) -> AgentSandbox:
        """A sandbox. Raises MissingRuntime where bubblewrap is missing or may not build its walls, and SandboxError."""
        program = shutil.which(self._program)
        if program is None:
            raise MissingRuntime("bubblewrap is not installed: apt-get install bubblewrap")
        found = cgroups.hierarchies()
        group = cgroups.Group(found, spec) if found else None
        try:
            return await self._start(program, spec, Grouped(group, hooks))
        except BaseException as error:
            if group:
                group.remove()
            reason = forbidden_by(str(error)) if isinstance(error, SandboxError) else None
            if reason is None:
                raise
            raise MissingRuntime(f"bubblewrap cannot build its walls: {reason}") from error

    async def _start(self, program: str, spec: SandboxSpec, grouped: "Grouped") -> AgentSandbox:
        moving = None
        try:
            with MemoryFiles() as memory:
                info, number = memory.pipe()
                moving = asyncio.get_running_loop().run_in_executor(None, _moved, info, grouped.group)
                launch = self._launch([program, "--info-fd", number], spec, memory)
                sandbox = await start_sandbox(launch, hello(spec, isolated=True), grouped.hooks())
        except BaseException:
            if moving:  # the pipe's other end was closed, so this ends
                await asyncio.gather(asyncio.shield(moving), return_exceptions=True)
            raise
        await _bounded(moving, sandbox, spec)
        return sandbox

    def _launch(self, program: list[str], spec: SandboxSpec, memory: MemoryFiles) -> Launch:
        prefix, shown = [], binds(spec)
        if os.geteuid() == 0:
            reached = all(everybody_reaches(source) for source in shown)
            prefix, shown = (step_down(UNPRIVILEGED), shown) if reached else stage(shown, UNPRIVILEGED)
        options = [word for option in walls(spec, shown, memory.file) for word in option]
        if spec.nested_namespaces:  # where maps of users are written to /proc
            more = []
        else:
            options += ["--remount-ro", "/proc"]
            more = [memory.directory("/proc")]
        command = [*prefix, *program, *options, "--"]
        return Launch(argv=lambda end: [*command, *agent_argv(end, *more)], fds=memory.fds)


class Grouped:
    """The hooks of a sandbox in control groups."""

    def __init__(self, group: cgroups.Group | None, hooks: Hooks) -> None:
        self.group, self._hooks = group, hooks

    def hooks(self) -> Hooks:
        """The same, and the groups are removed when the sandbox was destroyed."""
        return self._hooks._replace(free=self._free, oom_kills=self.group.oom_kills) if self.group else self._hooks

    async def _free(self, sandbox: AgentSandbox) -> None:
        if self.group:
            self.group.remove()
        await self._hooks.free(sandbox)


def _moved(info: int, group: cgroups.Group | None) -> int:
    """Put the agent, whose pid bubblewrap writes to that pipe, into its groups while it starts up. Closes `info`.

    Returns the pid; 0 where bubblewrap failed, which is told elsewhere.
    """
    with os.fdopen(info, "rb", buffering=0) as pipe:
        text = b""
        # the other end stays open until the agent is there, which need not be waited for
        while not text.rstrip().endswith(b"}") and (part := pipe.read(INFO_BYTES)):
            text += part
    pid = int(json.loads(text)["child-pid"]) if text else 0
    if pid and group:
        group.take(pid)
    return pid


async def _bounded(moving: "asyncio.Future[int]", sandbox: AgentSandbox, spec: SandboxSpec) -> None:
    """No command may run before its limits hold."""
    try:
        pid = await asyncio.shield(moving)
        with suppress(PermissionError):  # neither may a user, nor root of a container; the bound on memory holds for files too
            for disk, mib in (("workspace", spec.disk_mib), ("tmp", spec.disk_mib), ("dev/shm", SHM_MIB)):
                bound_files(f"/proc/{pid}/root/{disk}", files_on(mib))
    except BaseException as error:
        await sandbox.destroy()
        if isinstance(error, OSError):
            raise SandboxError(f"the sandbox could not be given its limits: {error}") from error
        raise

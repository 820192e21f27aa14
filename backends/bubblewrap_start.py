"""Start a sandbox behind bubblewrap's walls, in control groups of its own where these can be made.

Started by root, bubblewrap runs as an unprivileged user of the host: the kernel does not limit the number of root's
processes, and root's files in /proc/sys would have to be covered, which forbids a fresh /proc in a nested namespace.
"""

import asyncio
import os
import shutil

from backends import cgroups
from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import Capabilities, Feature, Limit, SandboxError, SandboxSpec, Tier
from backends.bubblewrap import agent_argv, binds, forbidden_by, walls
from backends.memory_files import MemoryFiles
from backends.staging import UNPRIVILEGED, everybody_reaches, stage, step_down
from backends.start import Launch, hello, start_sandbox
from core.errors import MissingRuntime


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
                options = []
                if grouped.group:
                    info, number = memory.pipe()
                    options = ["--info-fd", number]
                    moving = asyncio.get_running_loop().run_in_executor(None, grouped.group.take_agent, info)
                launch = self._launch([program, *options], spec, memory)
                sandbox = await start_sandbox(launch, hello(spec, isolated=True), grouped.hooks())
        except BaseException:
            if moving:  # the pipe's other end was closed, so this ends
                await asyncio.gather(asyncio.shield(moving), return_exceptions=True)
            raise
        if moving:
            await _moved(moving, sandbox)
        return sandbox

    def _launch(self, program: list[str], spec: SandboxSpec, memory: MemoryFiles) -> Launch:
        prefix, shown = [], binds(spec)
        if os.geteuid() == 0:
            reached = all(everybody_reaches(source) for source in shown)
            prefix, shown = (step_down(UNPRIVILEGED), shown) if reached else stage(shown, UNPRIVILEGED)
        options = [word for option in walls(spec, shown, memory.file) for word in option]
        command = [*prefix, *program, *options, "--"]
        return Launch(argv=lambda end: [*command, *agent_argv(end)], fds=memory.fds)


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


async def _moved(moving: "asyncio.Future[None]", sandbox: AgentSandbox) -> None:
    """No command may run before its limits hold."""
    try:
        await asyncio.shield(moving)
    except BaseException as error:
        await sandbox.destroy()
        if isinstance(error, OSError):
            raise SandboxError(f"the sandbox could not be put into its control groups: {error}") from error
        raise

"""Sandboxes on this machine, walled by bubblewrap: own user, pid, mount, network and ipc namespaces.

Inside: /usr and its neighbours and the paths of the spec, read only; /workspace, /tmp and /dev/shm as memory of a
fixed size; user 1000 without capabilities; no network; nothing of /home, /root and most of /etc. The agent is PID 1.

Started by root, bubblewrap runs as an unprivileged user of the host: the kernel does not limit the number of root's
processes, and root's files in /proc/sys would have to be covered, which forbids a fresh /proc in a nested namespace.
"""

import asyncio
import os
import shutil
from contextlib import ExitStack

from backends.agent_sandbox import AgentSandbox
from backends.base import Capabilities, SandboxError, SandboxSpec, Tier
from backends.bubblewrap import Bubblewrap, agent_argv, find_bubblewrap, forbidden_by, walls
from backends.start import Launch, hello, start_sandbox
from core.errors import MissingRuntime

UNPRIVILEGED = 60999  # in no range that Debian, systemd or subordinate users hand out
OTHERWISE = "or choose the backend 'unsafe-local', which has no walls"


class LocalBackend:
    """Sandboxes by bubblewrap. Holds what it made until it is destroyed."""

    name = "local"

    def __init__(self, program: str = "bwrap") -> None:
        self._program = program
        self._bubblewrap: Bubblewrap | None = None
        self._sandboxes: set[AgentSandbox] = set()

    async def probe(self) -> Capabilities:
        """Make a sandbox and destroy it. Raises MissingRuntime saying what to install or to allow."""
        sandbox = await self.create(SandboxSpec())
        await sandbox.destroy()
        user = f"as user {UNPRIVILEGED}" if os.geteuid() == 0 else "as you"
        limits = "processes, address space and file size by rlimits, disk by sized tmpfs"
        detail = f"bubblewrap {user}; own user, pid, mount, network, ipc namespaces; no network; limits: {limits}"
        return Capabilities(backend=self.name, tier=Tier.NAMESPACES, detail=detail)

    async def create(self, spec: SandboxSpec) -> AgentSandbox:
        """See Backend.create. Raises ConfigError for a path of the spec that does not exist or cannot be shown."""
        bubblewrap = self._bubblewrap = self._bubblewrap or await self._find()
        with ExitStack() as opened:
            options, fds = walls(spec, bubblewrap, opened)
            launch = Launch(
                argv=lambda end: [bubblewrap.path, *options, "--", *agent_argv(end)],
                fds=fds,
                user=UNPRIVILEGED if os.geteuid() == 0 else None,
            )
            try:
                sandbox = await start_sandbox(launch, hello(spec, workspace="/workspace", isolated=True), self._forget)
            except SandboxError as error:
                setting = forbidden_by(str(error))
                if setting is None:
                    raise
                raise MissingRuntime(f"the backend 'local' cannot build its walls: {setting}; {OTHERWISE}") from error
        self._sandboxes.add(sandbox)
        return sandbox

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await asyncio.gather(*(sandbox.destroy() for sandbox in list(self._sandboxes)))

    async def _find(self) -> Bubblewrap:
        path = shutil.which(self._program)
        if path is None:
            raise MissingRuntime(f"the backend 'local' needs bubblewrap: apt-get install bubblewrap, {OTHERWISE}")
        return await asyncio.to_thread(find_bubblewrap, path)

    async def _forget(self, sandbox: AgentSandbox) -> None:
        self._sandboxes.discard(sandbox)

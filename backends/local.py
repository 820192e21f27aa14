"""Sandboxes on this machine, walled by bubblewrap: own user, pid, mount, network and ipc namespaces.

Inside: /usr and its neighbours and the paths of the spec, read only; /workspace, /tmp and /dev/shm as memory of a
fixed size; user 1000 without capabilities; no network; nothing of /home, /root and most of /etc. The agent is PID 1.

Started by root, bubblewrap runs as an unprivileged user of the host: the kernel does not limit the number of root's
processes, and root's files in /proc/sys would have to be covered, which forbids a fresh /proc in a nested namespace.
"""

import os
import shutil

from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import Capabilities, CapabilityError, Feature, Limit, Network, SandboxError, SandboxSpec, Tier
from backends.bubblewrap import agent_argv, binds, forbidden_by, walls
from backends.memory_files import MemoryFiles
from backends.sandboxes import Sandboxes
from backends.staging import everybody_reaches, stage
from backends.start import Launch, hello, start_sandbox
from core.errors import MissingRuntime

UNPRIVILEGED = 60999  # in no range that Debian, systemd or subordinate users hand out
OTHERWISE = "or choose the backend 'unsafe-local', which has no walls"


class LocalBackend:
    """Sandboxes by bubblewrap. Holds what it made until it is destroyed."""

    name = "local"

    def __init__(self, program: str = "bwrap") -> None:
        self._program = program
        self._sandboxes = Sandboxes()

    async def probe(self) -> Capabilities:
        """Make a sandbox and destroy it. Raises MissingRuntime saying what to install or to allow."""
        sandbox = await self.create(SandboxSpec())
        await sandbox.destroy()
        user = f"as user {UNPRIVILEGED}" if os.geteuid() == 0 else "as you"
        limits = "processes, address space and file size by rlimits, disk by sized tmpfs"
        detail = f"bubblewrap {user}; own user, pid, mount, network, ipc namespaces; no network; limits: {limits}"
        return Capabilities(
            backend=self.name,
            tier=Tier.NAMESPACES,
            detail=detail,
            private_pids=True,
            no_network=True,
            hides_host=True,
            limits=frozenset({Limit.PROCESSES, Limit.DISK}),
            features=frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK}),
        )

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> AgentSandbox:
        """See Backend.create. Raises ConfigError for a path of the spec that does not exist or cannot be shown."""
        if spec.network is not Network.NONE:
            raise CapabilityError("the backend 'local' gives no sandbox a network; docker and modal do")
        return await self._sandboxes.create(lambda: self._make(spec), token, deadline_seconds)

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        """See Backend.reap. The kernel ends every sandbox of a process with it, so there is nothing to find."""
        return ()

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await self._sandboxes.aclose()

    async def _make(self, spec: SandboxSpec) -> AgentSandbox:
        hooks = Hooks(self._sandboxes.forget, another=lambda: self.create(spec))
        with MemoryFiles() as memory:
            launch = self._launch(spec, memory)
            try:
                return await start_sandbox(launch, hello(spec, isolated=True), hooks)
            except SandboxError as error:
                reason = forbidden_by(str(error))
                if reason is None:
                    raise
                raise MissingRuntime(f"the backend 'local' cannot build its walls: {reason}; {OTHERWISE}") from error

    def _launch(self, spec: SandboxSpec, memory: MemoryFiles) -> Launch:
        program = shutil.which(self._program)
        if program is None:
            raise MissingRuntime(f"the backend 'local' needs bubblewrap: apt-get install bubblewrap, {OTHERWISE}")
        user = UNPRIVILEGED if os.geteuid() == 0 else None
        prefix, shown = [], binds(spec)
        if user is not None and [source for source in shown if not everybody_reaches(source)]:
            prefix, shown = stage(shown, user)
            user = None  # the stage is built by root, which then steps down by itself
        options = [word for option in walls(spec, shown, memory.file) for word in option]
        command = [*prefix, program, *options, "--"]
        return Launch(argv=lambda end: [*command, *agent_argv(end)], fds=memory.fds, user=user)

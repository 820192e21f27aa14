"""Sandboxes on this machine, behind the strongest walls that it has: bubblewrap's, else those of Landlock and seccomp.

Inside bubblewrap: /usr and its neighbours and the paths of the spec, read only; /workspace, /tmp and /dev/shm as memory of a
fixed size; user 1000 without capabilities; no network; nothing of /home, /root and most of /etc. The agent is PID 1.
backends/landlocked.py says what holds without it. `probe` tells which of the two it is.
"""

from backends import cgroups
from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import Capabilities, CapabilityError, Network, SandboxSpec
from backends.bubblewrap_start import Bubblewrap
from backends.landlocked import Landlocked
from backends.sandboxes import Sandboxes
from core.errors import MissingRuntime
from core.logs import get_logger

log = get_logger("local")
OTHERWISE = "or choose the backend 'unsafe-local', which has no walls"


class LocalBackend:
    """Sandboxes of this machine. Holds what it made until it is destroyed."""

    name = "local"

    def __init__(self, program: str = "bwrap") -> None:
        self._bubblewrap, self._landlocked = Bubblewrap(program), Landlocked()
        self._walls: Bubblewrap | Landlocked | None = None
        self._sandboxes = Sandboxes()

    async def probe(self) -> Capabilities:
        """Make a sandbox and destroy it. Raises MissingRuntime saying what to install or to allow."""
        await (await self.create(SandboxSpec())).destroy()
        assert self._walls is not None  # a sandbox was made
        return self._walls.capabilities(self.name)

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> AgentSandbox:
        """See Backend.create. Raises ConfigError for a path of the spec that does not exist or cannot be shown."""
        if spec.network is not Network.NONE:
            raise CapabilityError("the backend 'local' gives no sandbox a network; docker and modal do")
        return await self._sandboxes.create(lambda: self._make(spec), token, deadline_seconds)

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        """See Backend.reap. The kernel ends every sandbox of a process with it; empty control groups are left to find."""
        return tuple(cgroups.reap())

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await self._sandboxes.aclose()

    async def _make(self, spec: SandboxSpec) -> AgentSandbox:
        hooks = Hooks(self._sandboxes.forget, another=lambda: self.create(spec))
        if self._walls is not None:
            return await self._walls.start(spec, hooks)
        try:
            sandbox = await self._bubblewrap.start(spec, hooks)
        except MissingRuntime as missing:
            sandbox = await self._without_bubblewrap(spec, hooks, missing)
            log.warning("weaker_walls", walls="landlock", reason=str(missing))
            self._walls = self._landlocked
        else:
            self._walls = self._bubblewrap
        return sandbox

    async def _without_bubblewrap(self, spec: SandboxSpec, hooks: Hooks, missing: MissingRuntime) -> AgentSandbox:
        try:
            return await self._landlocked.start(spec, hooks)
        except (MissingRuntime, CapabilityError) as error:
            raise MissingRuntime(f"the backend 'local' has no walls here: {missing}; {error}; {OTHERWISE}") from missing

"""Commands as plain processes of the host's user in a private directory. By explicit choice only: there are no walls.

A command can read and write whatever the user can, and reach the network. What is kept: a clean environment, time
limits that kill everything, capped output, and the contract, so that code which works here works behind walls.
"""

import sys

from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import Capabilities, Feature, SandboxSpec, Tier
from backends.private_directory import PrivateDirectory
from backends.sandboxes import Sandboxes
from core.logs import get_logger

log = get_logger("unsafe_local")


class UnsafeLocalBackend:
    """Sandboxes that are none. Warns once."""

    name = "unsafe-local"

    def __init__(self) -> None:
        self._sandboxes = Sandboxes()
        self._starter = PrivateDirectory(sys.executable, None, None)
        self._warned = False

    async def probe(self) -> Capabilities:
        """What little it enforces."""
        detail = "no walls: commands are processes of your user, with your files and your network; limits: time, output"
        features = frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK})
        return Capabilities(backend=self.name, tier=Tier.UNSAFE, detail=detail, features=features)

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> AgentSandbox:
        """See Backend.create. /workspace is a private directory; a path of the spec must keep its place."""
        self._warn()
        hooks = Hooks(self._sandboxes.forget, another=lambda: self.create(spec))
        return await self._sandboxes.create(lambda: self._starter.start(spec, hooks), token, deadline_seconds)

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        """See Backend.reap. Nothing outlives its owner but a directory, which is left to the system's clean-up."""
        return ()

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await self._sandboxes.aclose()

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning("commands_run_without_walls", backend=self.name, instead="local")

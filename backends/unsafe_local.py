"""Commands as plain processes of the host's user in a private directory. By explicit choice only: there are no walls.

A command can read and write whatever the user can, and reach the network. What is kept: a clean environment, time
limits that kill everything, capped output, and the contract, so that code which works here works behind walls.
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from backends.agent_sandbox import AgentSandbox
from backends.base import Capabilities, SandboxSpec, Tier
from backends.start import AGENT, Launch, agent_command, hello, start_sandbox
from core.errors import ConfigError
from core.logs import get_logger

LIBRARY = AGENT.parent.parent
log = get_logger("unsafe_local")


class UnsafeLocalBackend:
    """Sandboxes that are none. Warns once."""

    name = "unsafe-local"

    def __init__(self) -> None:
        self._directories: dict[AgentSandbox, Path] = {}
        self._warned = False

    async def probe(self) -> Capabilities:
        """What little it enforces."""
        detail = "no walls: commands are processes of your user, with your files and your network; limits: time, output"
        return Capabilities(backend=self.name, tier=Tier.UNSAFE, detail=detail)

    async def create(self, spec: SandboxSpec) -> AgentSandbox:
        """See Backend.create. /workspace is a private directory; a path of the spec must keep its place."""
        self._warn()
        _refuse_moved(spec)
        directory = Path(tempfile.mkdtemp(prefix="natgym-"))
        try:
            sandbox = await self._start(spec, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        self._directories[sandbox] = directory
        return sandbox

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await asyncio.gather(*(sandbox.destroy() for sandbox in list(self._directories)))

    async def _start(self, spec: SandboxSpec, directory: Path) -> AgentSandbox:
        workspace, temporary = directory / "workspace", directory / "tmp"
        workspace.mkdir()
        temporary.mkdir()
        private = {"HOME": str(temporary), "TMPDIR": str(temporary)}
        spec = spec.model_copy(update={"env": {**private, **spec.env}})
        python = Path(sys.executable)
        launch = Launch(argv=lambda end: agent_command(python, str(LIBRARY), end))
        return await start_sandbox(launch, hello(spec, workspace=str(workspace), isolated=False), self._free)

    async def _free(self, sandbox: AgentSandbox) -> None:
        directory = self._directories.pop(sandbox, None)
        if directory is not None:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning("commands_run_without_walls", backend=self.name, instead="local")


def _refuse_moved(spec: SandboxSpec) -> None:
    for source, inside in spec.readonly.items():
        if source != inside or not Path(source).exists():
            raise ConfigError(f"sandbox path {source} as {inside}: without walls it must exist and keep its place")

"""Commands as plain processes of the host's user in a private directory. By explicit choice only: there are no walls.

A command can read and write whatever the user can, and reach the network. What is kept: a clean environment, time
limits that kill everything, capped output, and the contract, so that code which works here works behind walls.
"""

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from backends.agent_bundle import compiled_agent, compiled_command
from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import Capabilities, Feature, SandboxSpec, Tier
from backends.memory_files import MemoryFiles
from backends.sandboxes import Sandboxes
from backends.start import Launch, hello, start_sandbox
from core.errors import ConfigError
from core.logs import get_logger

log = get_logger("unsafe_local")


class UnsafeLocalBackend:
    """Sandboxes that are none. Warns once."""

    name = "unsafe-local"

    def __init__(self) -> None:
        self._sandboxes = Sandboxes()
        self._directories: dict[AgentSandbox, Path] = {}
        self._warned = False

    async def probe(self) -> Capabilities:
        """What little it enforces."""
        detail = "no walls: commands are processes of your user, with your files and your network; limits: time, output"
        features = frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK})
        return Capabilities(backend=self.name, tier=Tier.UNSAFE, detail=detail, features=features)

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> AgentSandbox:
        """See Backend.create. /workspace is a private directory; a path of the spec must keep its place."""
        self._warn()
        _refuse_moved(spec)
        return await self._sandboxes.create(lambda: self._make(spec), token, deadline_seconds)

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        """See Backend.reap. Nothing outlives its owner but a directory, which is left to the system's clean-up."""
        return ()

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await self._sandboxes.aclose()

    async def _make(self, spec: SandboxSpec) -> AgentSandbox:
        directory = Path(tempfile.mkdtemp(prefix="natgym-"))
        try:
            sandbox = await self._start(spec, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        self._directories[sandbox] = directory
        return sandbox

    async def _start(self, spec: SandboxSpec, directory: Path) -> AgentSandbox:
        workspace, temporary = directory / "workspace", directory / "tmp"
        workspace.mkdir()
        temporary.mkdir()
        private = {"HOME": str(temporary), "TMPDIR": str(temporary)}
        spec = spec.model_copy(update={"env": {**private, **spec.env}})
        writable = [str(workspace), str(temporary)]
        with MemoryFiles() as memory:
            agent = memory.path(compiled_agent(sys.executable))
            launch = Launch(lambda end: compiled_command(sys.executable, agent, str(end)), memory.fds)
            greeting = hello(spec, workspace=str(workspace), isolated=False, writable=writable)
            return await start_sandbox(launch, greeting, Hooks(self._free, lambda: self.create(spec)))

    async def _free(self, sandbox: AgentSandbox) -> None:
        await self._sandboxes.forget(sandbox)
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

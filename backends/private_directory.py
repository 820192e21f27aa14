"""Sandboxes without a file system of their own: /workspace stands for a private directory of the host."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from backends.agent_bundle import compiled_agent, compiled_command
from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import SandboxSpec
from backends.memory_files import MemoryFiles
from backends.ssh_far import remove_folder
from backends.start import Launch, hello, start_sandbox
from core.errors import ConfigError
from core.types import JsonObject


class Place(NamedTuple):
    """The private directory of one sandbox, and what is in it."""

    directory: Path

    @property
    def writable(self) -> list[str]:
        """The directories that a command may write: its workspace and its temporary files."""
        return [str(self.directory / "workspace"), str(self.directory / "tmp")]

    def make(self, user: int | None) -> None:
        """Make them, and give them to that user."""
        for path in self.writable:
            Path(path).mkdir()
        for path in (self.directory, *self.writable) if user is not None else ():
            os.chown(path, user or 0, user or 0)

    def remove(self) -> None:
        """Remove all of it, also what a command has closed to everybody, or put deeper than a path can say."""
        remove_folder(str(self.directory))


class PrivateDirectory:
    """Starts agents under `python`, as `user` where one is given, behind the walls that `walls` describes to the agent."""

    def __init__(self, python: str, user: int | None, walls: Callable[[SandboxSpec, Place], JsonObject] | None) -> None:
        self._python, self._user, self._walls = python, user, walls

    async def start(self, spec: SandboxSpec, hooks: Hooks) -> AgentSandbox:
        """A sandbox whose directory goes with it. Raises ConfigError where a path of the spec would have to move."""
        refuse_moved(spec)
        place = Place(Path(tempfile.mkdtemp(prefix="natgym-")))

        async def free(sandbox: AgentSandbox) -> None:
            await asyncio.to_thread(place.remove)
            await hooks.free(sandbox)

        try:
            return await self._start(spec, place, hooks._replace(free=free))
        except BaseException:
            place.remove()
            raise

    async def _start(self, spec: SandboxSpec, place: Place, hooks: Hooks) -> AgentSandbox:
        place.make(self._user)
        workspace, temporary = place.writable
        private = {"HOME": temporary, "TMPDIR": temporary}
        spec = spec.model_copy(update={"env": {**private, **spec.env}})
        greeting = hello(spec, workspace=workspace, isolated=False, writable=place.writable)
        if self._walls is not None:
            greeting["walls"] = self._walls(spec, place)
        with MemoryFiles() as memory:
            number = memory.file(await asyncio.to_thread(compiled_agent, self._python))
            launch = Launch(lambda end: compiled_command(self._python, int(number), str(end)), memory.fds, self._user)
            return await start_sandbox(launch, greeting, hooks)


def refuse_moved(spec: SandboxSpec) -> None:
    """Raises ConfigError for a path that does not exist, or that commands would find elsewhere."""
    for source, inside in spec.readonly.items():
        if source != inside or not Path(source).exists():
            raise ConfigError(f"sandbox path {source} as {inside}: without namespaces it must exist and keep its place")

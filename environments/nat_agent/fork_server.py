"""Keeps a fork server alive in a sandbox: starts it when it is first needed, again after it died, and anew before it
has grown too large."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from backends.base import Backend, Sandbox, SandboxSpec, host_path
from core.config import Config
from core.errors import MissingRuntime, NatgymError
from core.logs import get_logger
from environments.nat_agent.fork_client import Fork, ForkLimits, Hello, ServerLink

log = get_logger("nat_agent.fork_server")

RUNTIME = Path(__file__).parent / "runtime"
START_SECONDS = 180.0
DEFAULT_LIMITS = ForkLimits()
NAT_VERSION = "1.9.0"


class Wear(Config):
    """When a fork server is replaced by a fresh one: what forks leave in its memory is paid for by every later fork."""

    forks: int = Field(default=50_000, gt=0)
    growth_mib: float = Field(default=256.0, gt=0)


@dataclass(eq=False)
class _Running:
    """One fork server that answered."""

    sandbox: Sandbox
    link: ServerLink
    reader: asyncio.Task[None]
    hello: Hello

    def worn(self, wear: Wear) -> bool:
        return self.link.forks >= wear.forks or self.link.memory_mib - self.hello.memory_mib > wear.growth_mib

    async def end(self) -> None:
        await self.sandbox.destroy()
        self.reader.cancel()
        await asyncio.gather(self.reader, return_exceptions=True)


DEFAULT_WEAR = Wear()


class ForkServer:
    """Children of a Python that has NAT imported already."""

    def __init__(
        self, backend: Backend, nat_python: Path, limits: ForkLimits = DEFAULT_LIMITS, wear: Wear = DEFAULT_WEAR
    ) -> None:
        if not nat_python.exists():
            raise MissingRuntime(f"there is no NAT runtime at {nat_python}; `make nat` makes it")
        self._backend, self._nat_python, self._limits, self._wear = backend, nat_python.absolute(), limits, wear
        self._changing = asyncio.Lock()
        self._running: _Running | None = None
        self._retired: set[_Running] = set()
        """Replaced ones that somebody still holds a child of."""
        self._successor: asyncio.Task[None] | None = None
        self._spent_seconds = 0.0

    async def start(self) -> None:
        """Import NAT, which takes some seconds. Raises RewardError, SandboxError, MissingRuntime."""
        await self._alive()

    async def stop(self) -> None:
        """Kill the server and everything in its sandbox."""
        if self._successor is not None:
            self._successor.cancel()
            await asyncio.gather(self._successor, return_exceptions=True)
        async with self._changing:
            await asyncio.shield(self._stop())

    @asynccontextmanager
    async def fork(self, limits: ForkLimits | None = None) -> AsyncIterator[Fork]:
        """A fresh child, killed with all that it started when the block ends. Raises RewardError, SandboxError."""
        running = await self._alive()
        fork = await running.link.fork(limits or self._limits)
        try:
            yield fork
        finally:
            await asyncio.shield(self._end(running, fork))

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all children that have ended."""
        alive = [self._running, *self._retired] if self._running is not None else [*self._retired]
        return self._spent_seconds + sum(one.link.cpu_seconds for one in alive)

    @property
    def replacing(self) -> asyncio.Task[None] | None:
        """The start of a fresh server beside a worn one, where one was begun."""
        return self._successor

    async def _alive(self) -> _Running:
        async with self._changing:
            if self._running is not None and self._running.link.dead is not None:
                await self._retire(self._running)
            if self._running is None:
                self._running = await self._start()
            return self._running

    async def _start(self) -> _Running:
        sandbox = await self._backend.create(sandbox_spec(self._nat_python))
        try:
            process = await sandbox.spawn([str(self._nat_python), "-I", host_path(RUNTIME / "fork_server.py")])
            link = ServerLink(process)
            reader = asyncio.create_task(link.read_forever(), name="fork-server-reader")
            try:
                hello = await link.hello(START_SECONDS)
            except BaseException:
                reader.cancel()
                raise
        except BaseException:
            await asyncio.shield(sandbox.destroy())
            raise
        _report(hello)
        return _Running(sandbox, link, reader, hello)

    async def _end(self, running: _Running, fork: Fork) -> None:
        await running.link.end(fork)
        if running in self._retired and running.link.idle:
            await self._dismiss(running)
        elif running is self._running and running.worn(self._wear) and (self._successor is None or self._successor.done()):
            self._successor = asyncio.create_task(self._replace(running), name="fork-server-successor")

    async def _replace(self, worn: _Running) -> None:
        """Start a fresh server while the worn one goes on, and let that end when its last child has ended."""
        log.info("fork_server_worn", forks=worn.link.forks, memory_mib=worn.link.memory_mib, first_mib=worn.hello.memory_mib)
        try:
            fresh = await self._start()
        except NatgymError as error:
            log.warning("fork_server_not_replaced", problem=str(error))
            return
        async with self._changing:
            if self._running is worn:
                await self._retire(worn)
                self._running = fresh
                return
        await fresh.end()  # the worn one died meanwhile and has a successor already

    async def _retire(self, running: _Running) -> None:
        """No new children of it; end it at once where nobody holds one."""
        self._retired.add(running)
        self._running = None
        if running.link.idle or running.link.dead is not None:
            await self._dismiss(running)

    async def _dismiss(self, running: _Running) -> None:
        if running in self._retired:
            self._retired.discard(running)
            self._spent_seconds += running.link.cpu_seconds
            await asyncio.shield(running.end())

    async def _stop(self) -> None:
        if self._running is not None:
            await self._retire(self._running)
        for running in list(self._retired):
            await self._dismiss(running)


def _report(hello: Hello) -> None:
    log.info("fork_server_ready", nat_version=hello.nat_version, walls=",".join(hello.walls))
    if hello.missing:
        log.warning("isolation_weaker", missing=",".join(hello.missing))
    if hello.nat_version != NAT_VERSION:
        log.warning("nat_version_differs", found=hello.nat_version, expected=NAT_VERSION)


def sandbox_spec(nat_python: Path) -> SandboxSpec:
    """The sandbox of the fork server: NAT's environment, the Python under it and the runtime, at their own paths."""
    environment = nat_python.parent.parent
    directories = {str(environment), host_path(environment), host_path(RUNTIME), *base_prefix(environment)}
    return SandboxSpec(
        readonly={directory: directory for directory in sorted(directories)},
        memory_mib=8192,
        processes=2048,
        disk_mib=256,
        nested_namespaces=True,
    )


def base_prefix(environment: Path) -> set[str]:
    """Where the Python that a virtual environment was made from lives; nothing for the system's own."""
    for line in (environment / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home":
            prefix = Path(value.strip()).parent
            return {str(prefix), host_path(prefix)} - {"/usr"}
    return set()

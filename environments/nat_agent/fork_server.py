"""Keeps one fork server alive in a sandbox: starts it when it is first needed, and again after it died."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from backends.base import Backend, Sandbox, SandboxSpec, host_path
from core.errors import MissingRuntime
from core.logs import get_logger
from environments.nat_agent.fork_client import Fork, ForkLimits, Hello, ServerLink

log = get_logger("nat_agent.fork_server")

RUNTIME = Path(__file__).parent / "runtime"
START_SECONDS = 180.0
NAT_VERSION = "1.9.0"


class ForkServer:
    """Children of a Python that has NAT imported already."""

    def __init__(self, backend: Backend, nat_python: Path) -> None:
        if not nat_python.exists():
            raise MissingRuntime(f"there is no NAT runtime at {nat_python}; `make nat` makes it")
        self._backend, self._nat_python = backend, nat_python.absolute()
        self._changing = asyncio.Lock()
        self._link: ServerLink | None = None
        self._sandbox: Sandbox | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Import NAT, which takes some seconds. Raises RewardError, SandboxError, MissingRuntime."""
        await self._alive()

    async def stop(self) -> None:
        """Kill the server and everything in its sandbox."""
        async with self._changing:
            await asyncio.shield(self._stop())

    @asynccontextmanager
    async def fork(self, limits: ForkLimits | None = None) -> AsyncIterator[Fork]:
        """A fresh child, killed with all that it started when the block ends. Raises RewardError, SandboxError."""
        link = await self._alive()
        fork = await link.fork(limits or ForkLimits())
        try:
            yield fork
        finally:
            await asyncio.shield(link.end(fork))

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all children of the running server that have ended."""
        return self._link.cpu_seconds if self._link is not None else 0.0

    async def _alive(self) -> ServerLink:
        async with self._changing:
            if self._link is None or self._link.dead is not None:
                await self._stop()
                self._link = await self._start()
            return self._link

    async def _start(self) -> ServerLink:
        self._sandbox = await self._backend.create(sandbox_spec(self._nat_python))
        process = await self._sandbox.spawn([str(self._nat_python), "-I", host_path(RUNTIME / "fork_server.py")])
        link = ServerLink(process)
        self._reader = asyncio.create_task(link.read_forever(), name="fork-server-reader")
        _report(await link.hello(START_SECONDS))
        return link

    async def _stop(self) -> None:
        sandbox, reader, self._sandbox, self._reader, self._link = self._sandbox, self._reader, None, None, None
        if sandbox is not None:
            await sandbox.destroy()
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


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
        processes=512,
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

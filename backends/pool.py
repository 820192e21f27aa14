"""A bounded number of sandboxes alive at once, some of them ready before they are wanted."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from backends.base import Backend, Sandbox, SandboxError, SandboxSpec
from core.errors import NatgymError, boundary
from core.logs import get_logger

log = get_logger("pool")


class SandboxPool:
    """Leases of fresh sandboxes of one spec: each is destroyed after its lease, none is used twice.

    At most `maximum` are alive; `warm` of these are kept ready once it is entered. The backend stays its owner's.
    """

    def __init__(self, backend: Backend, spec: SandboxSpec, maximum: int, *, warm: int = 0) -> None:
        self._backend, self._spec = backend, spec
        self._maximum, self._warm = maximum, warm
        self._ready: deque[Sandbox] = deque()
        self._waiting: deque[asyncio.Future[Sandbox]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._alive = 0
        self._being_made = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        self._make()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Sandbox]:
        """A sandbox of one's own; waits while `maximum` are alive. Raises what the backend's `create` raises."""
        sandbox = await self._take()
        try:
            yield sandbox
        finally:
            await asyncio.shield(self._start(self._destroy(sandbox)))

    async def aclose(self) -> None:
        """Refuse those who wait, and destroy what is ready or being made. Leases end by themselves."""
        self._closed = True
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(_closed())
        while self._tasks or self._ready:
            while self._ready:
                self._start(self._destroy(self._ready.popleft()))
            await asyncio.wait(self._tasks)

    async def _take(self) -> Sandbox:
        while self._ready:
            sandbox = self._ready.popleft()
            try:
                usable = await sandbox.alive()
            except BaseException:  # nobody holds it any more
                self._start(self._destroy(sandbox))
                raise
            if usable:
                self._make()
                return sandbox
            await self._destroy(sandbox)
        if self._closed:
            raise _closed()
        waiting: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._make()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self._deliver(waiting.result())
            raise

    def _make(self) -> None:
        """Start as many as are waited for or to be kept ready, within the bound."""
        self._waiting = deque(waiting for waiting in self._waiting if not waiting.done())
        missing = len(self._waiting) + self._warm - len(self._ready) - self._being_made
        for _ in range(min(missing, self._maximum - self._alive) if not self._closed else 0):
            self._alive += 1
            self._being_made += 1
            self._start(self._create())

    async def _create(self) -> None:
        try:
            with boundary(SandboxError, "pool.create"):
                sandbox = await self._backend.create(self._spec)
        except NatgymError as error:
            self._alive -= 1
            self._fail(error)
        else:
            self._deliver(sandbox)
        finally:
            self._being_made -= 1

    def _deliver(self, sandbox: Sandbox) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(sandbox)
                return
        if self._closed:
            self._start(self._destroy(sandbox))
        else:
            self._ready.append(sandbox)

    def _fail(self, error: NatgymError) -> None:
        """Tell the one who waits longest; the others get tries of their own."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(error)
                return
        log.warning("sandbox_not_made", problem=str(error))

    async def _destroy(self, sandbox: Sandbox) -> None:
        try:
            await sandbox.destroy()
        finally:
            self._alive -= 1
            self._make()

    def _start(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _closed() -> SandboxError:
    return SandboxError("the pool of sandboxes is closed")

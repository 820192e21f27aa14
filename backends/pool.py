"""A bounded number of sandboxes alive at once, some of them ready before they are wanted."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from backends.base import Backend, Sandbox, SandboxError, SandboxSpec
from backends.pacing import Maker, PoolRules
from core.clock import Clock, SystemClock
from core.errors import NatgymError
from core.logs import get_logger

log = get_logger("pool")


class PoolStats(NamedTuple):
    """What a pool did so far, and holds."""

    alive: int
    ready: int
    leased: int
    made: int
    failed: int
    quarantined: int
    expired: int


@dataclass
class _Lease:
    sandbox: Sandbox
    until: float
    expired: bool = False


class SandboxPool:
    """Leases of clean sandboxes of one spec: each is destroyed after its lease, or reset where the rules allow it.

    At most `maximum` are alive; `warm` of these are kept ready once it is entered, after what earlier processes left behind
    was destroyed. The backend stays its owner's.
    """

    def __init__(
        self,
        backend: Backend,
        spec: SandboxSpec,
        maximum: int,
        *,
        warm: int = 0,
        rules: PoolRules | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._backend, self._maximum, self._warm = backend, maximum, warm
        self._rules, self._clock = rules or PoolRules(), clock or SystemClock()
        self._maker = Maker(backend, spec, self._rules, self._clock)
        self._ready: deque[Sandbox] = deque()
        self._waiting: deque[asyncio.Future[Sandbox]] = deque()
        self._leases: dict[str, _Lease] = {}
        self._uses: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._janitor: asyncio.Task[None] | None = None
        self._alive = self._being_made = self._made = self._failed = self._quarantined = self._expired = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            for name in await self._backend.reap():
                log.info("sandbox_reaped", sandbox=name)
        except SandboxError as error:
            log.warning("sandboxes_not_reaped", problem=str(error))
        if self._rules.lease_seconds:
            self._janitor = asyncio.get_running_loop().create_task(self._end_leases())
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
        lease = self._leases[sandbox.id] = _Lease(sandbox, self._clock.monotonic() + self._rules.lease_seconds)
        try:
            yield sandbox
        finally:
            del self._leases[sandbox.id]
            await asyncio.shield(self._start(self._release(lease)))

    def heartbeat(self, sandbox: Sandbox) -> None:
        """Its holder is still there: the lease goes on for as long again. Raises SandboxError where it has ended."""
        lease = self._leases.get(sandbox.id)
        if lease is None or lease.expired:
            raise SandboxError(f"the lease of sandbox {sandbox.id} has ended")
        lease.until = self._clock.monotonic() + self._rules.lease_seconds

    def stats(self) -> PoolStats:
        """What it did and holds."""
        counts = (self._made, self._failed, self._quarantined, self._expired)
        return PoolStats(self._alive, len(self._ready), len(self._leases), *counts)

    async def aclose(self) -> None:
        """Refuse those who wait, and destroy what is ready or being made. Leases end by themselves."""
        self._closed = True
        if self._janitor is not None:
            self._janitor.cancel()
            await asyncio.gather(self._janitor, return_exceptions=True)
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
            sandbox = await self._maker.make()
        except NatgymError as error:
            self._alive -= 1
            self._failed += 1
            self._fail(error)
        else:
            self._made += 1
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

    async def _release(self, lease: _Lease) -> None:
        """Reset it for the next one, where that is allowed and works; else destroy it."""
        sandbox = lease.sandbox
        if getattr(sandbox, "broke_protocol", False):
            self._quarantined += 1
            log.error("sandbox_quarantined", sandbox=sandbox.id)
        elif not lease.expired and self._uses.get(sandbox.id, 0) < self._rules.reuses and not self._closed:
            self._uses[sandbox.id] = self._uses.get(sandbox.id, 0) + 1
            try:
                await sandbox.reset()
            except SandboxError as error:
                log.warning("sandbox_not_reset", sandbox=sandbox.id, problem=str(error))
            else:
                self._deliver(sandbox)
                return
        await self._destroy(sandbox)

    async def _end_leases(self) -> None:
        """Destroy the sandboxes of those who hold one and are heard of no more."""
        while True:
            await self._clock.sleep(self._rules.lease_seconds / 4)
            for lease in list(self._leases.values()):
                if lease.until < self._clock.monotonic() and not lease.expired:
                    lease.expired = True
                    self._expired += 1
                    log.warning("lease_expired", sandbox=lease.sandbox.id)
                    await lease.sandbox.destroy()

    async def _destroy(self, sandbox: Sandbox) -> None:
        try:
            await sandbox.destroy()
        finally:
            self._uses.pop(sandbox.id, None)
            self._alive -= 1
            self._make()

    def _start(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _closed() -> SandboxError:
    return SandboxError("the pool of sandboxes is closed")

"""Leases of sandboxes: how many live, and that each ends with its lease."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import Capabilities, SandboxError, SandboxSpec
from backends.pool import SandboxPool
from backends.unsafe_local import UnsafeLocalBackend
from tests.backends.processes import children

SPEC = SandboxSpec()


class Counting:
    """A backend over a real one that counts, and that fails as often as told."""

    name = "counting"

    def __init__(self, failures: int = 0) -> None:
        self._real = UnsafeLocalBackend()
        self.failures = failures
        self.made: list[AgentSandbox] = []

    async def probe(self) -> Capabilities:
        return await self._real.probe()

    async def create(self, spec: SandboxSpec) -> AgentSandbox:
        if self.failures:
            self.failures -= 1
            raise SandboxError("no room")
        sandbox = await self._real.create(spec)
        self.made.append(sandbox)
        return sandbox

    async def aclose(self) -> None:
        await self._real.aclose()

    async def alive(self) -> int:
        return sum([await sandbox.alive() for sandbox in self.made])


@pytest.fixture
async def backend() -> AsyncIterator[Counting]:
    """A backend that counts; everything it made must be gone when its test and the pool have ended."""
    backend = Counting()
    yield backend
    assert await backend.alive() == 0
    await backend.aclose()
    assert children() == []


async def test_a_lease_ends_with_its_sandbox(backend: Counting):
    async with SandboxPool(backend, SPEC, 2) as pool:
        async with pool.lease() as sandbox:
            assert await sandbox.alive()
        assert not await sandbox.alive()


async def test_no_sandbox_is_leased_twice(backend: Counting):
    async with SandboxPool(backend, SPEC, 1) as pool:
        async with pool.lease() as one:
            pass
        async with pool.lease() as other:
            assert other.id != one.id


async def test_as_many_as_the_maximum_are_alive_and_no_more(backend: Counting):
    pair, alive = asyncio.Barrier(2), set()

    async def use(pool: SandboxPool) -> None:
        async with pool.lease():
            async with pair:  # two must be leased at once, or nobody goes on
                alive.add(await backend.alive())
            await pair.wait()

    async with SandboxPool(backend, SPEC, 2, warm=2) as pool:
        await asyncio.gather(*(use(pool) for _ in range(6)))
    assert alive == {2}


async def test_warm_sandboxes_are_ready_before_they_are_wanted(backend: Counting):
    async with SandboxPool(backend, SPEC, 3, warm=2) as pool:
        while await backend.alive() < 2:
            await asyncio.sleep(0.01)
        ready = {sandbox.id for sandbox in backend.made}
        async with pool.lease() as sandbox:
            assert sandbox.id in ready


async def test_a_warm_sandbox_that_died_is_replaced(backend: Counting):
    async with SandboxPool(backend, SPEC, 1, warm=1) as pool:
        while await backend.alive() < 1:
            await asyncio.sleep(0.01)
        await backend.made[0].destroy()
        async with pool.lease() as sandbox:
            assert await sandbox.alive()


async def test_a_cancelled_lease_destroys_its_sandbox(backend: Counting):
    async with SandboxPool(backend, SPEC, 1) as pool:

        async def hold() -> None:
            async with pool.lease():
                await asyncio.sleep(3600)

        holding = asyncio.create_task(hold())
        while await backend.alive() < 1:
            await asyncio.sleep(0.01)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        async with pool.lease() as sandbox:
            assert await sandbox.alive()


async def test_who_gives_up_waiting_does_not_take_a_place(backend: Counting):
    async with SandboxPool(backend, SPEC, 1) as pool:
        async with pool.lease():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05), pool.lease():
                    pass
        async with pool.lease() as sandbox:
            assert await sandbox.alive()


async def test_a_failure_to_make_one_is_the_waiters_error_and_frees_its_place(backend: Counting):
    backend.failures = 1
    async with SandboxPool(backend, SPEC, 1) as pool:
        with pytest.raises(SandboxError, match="no room"):
            async with pool.lease():
                pass
        async with pool.lease() as sandbox:
            assert await sandbox.alive()


async def test_closing_refuses_those_who_wait(backend: Counting):
    pool = SandboxPool(backend, SPEC, 1)
    async with pool.lease():

        async def wait() -> None:
            async with pool.lease():
                pass

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        closing = asyncio.create_task(pool.aclose())
        with pytest.raises(SandboxError, match="closed"):
            await waiting
    await closing


async def leased(pool: SandboxPool) -> None:
    async with pool.lease():
        pass


async def test_who_is_cancelled_while_a_ready_sandbox_is_asked_leaves_none_behind(backend: Counting):
    async with SandboxPool(backend, SPEC, 1, warm=1) as pool:
        while await backend.alive() < 1:
            await asyncio.sleep(0.01)
        taking = asyncio.create_task(leased(pool))
        await asyncio.sleep(0)  # it has asked, and no answer has come yet
        taking.cancel()
        async with asyncio.timeout(30):
            await leased(pool)  # there is room for one: the other's place is free again

"""Leases of sandboxes: how many live, and that each ends with its lease."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import BackendUnavailable, Capabilities, ImageError, RateLimited, SandboxError, SandboxSpec
from backends.pacing import Pace, PoolRules
from backends.pool import SandboxPool
from backends.unsafe_local import UnsafeLocalBackend
from tests.backends.processes import children
from tests.fakes import HeldClock

SPEC = SandboxSpec()


class Counting:
    """A backend over a real one that counts, and that fails as often as told."""

    name = "counting"

    def __init__(self, failures: int = 0) -> None:
        self._real = UnsafeLocalBackend()
        self.failures = failures
        self.error: SandboxError = SandboxError("no room")
        self.tokens: list[str] = []
        self.reaped = 0
        self.made: list[AgentSandbox] = []

    async def probe(self) -> Capabilities:
        return await self._real.probe()

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> AgentSandbox:
        self.tokens.append(token)
        if self.failures:
            self.failures -= 1
            raise self.error
        sandbox = await self._real.create(spec)
        self.made.append(sandbox)
        return sandbox

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        self.reaped += 1
        return ()

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


async def test_what_was_left_behind_is_reaped_at_the_start(backend: Counting):
    async with SandboxPool(backend, SPEC, 1):
        assert backend.reaped == 1


async def test_an_error_that_is_worth_it_is_tried_again_with_the_same_token(backend: Counting):
    backend.failures, backend.error = 2, RateLimited("slowly", retry_after_seconds=7)
    clock = HeldClock()
    async with SandboxPool(backend, SPEC, 1, clock=clock) as pool, pool.lease():
        assert len(set(backend.tokens)) == 1
    assert len(backend.tokens) == 3
    assert [7 <= pause <= 10.5 for pause in clock.slept] == [True, True]


async def test_an_error_that_is_not_worth_it_is_told_at_once(backend: Counting):
    backend.failures, backend.error = 1, ImageError("no such image")
    async with SandboxPool(backend, SPEC, 1) as pool:
        with pytest.raises(ImageError):
            async with pool.lease():
                pass
    assert len(backend.tokens) == 1


async def test_creations_are_paced(backend: Counting):
    clock = HeldClock()
    rules = PoolRules(creations_per_second=4)
    async with SandboxPool(backend, SPEC, 4, rules=rules, clock=clock) as pool, pool.lease(), pool.lease(), pool.lease():
        assert sum(clock.slept) == pytest.approx(0.5)


async def test_processes_that_share_a_file_share_the_pace(tmp_path: Path):
    clock = HeldClock()
    paces = [Pace(2, str(tmp_path / "pace"), clock) for _ in range(2)]
    for pace in paces * 2:
        await pace.wait()
    assert clock.slept == pytest.approx([0, 0.5, 0.5, 0.5])


async def test_a_file_of_nonsense_does_not_stop_the_pace(tmp_path: Path):
    (tmp_path / "pace").write_text("nonsense")
    clock = HeldClock()
    await Pace(2, str(tmp_path / "pace"), clock).wait()
    assert clock.slept == [0]


async def test_a_backend_that_fails_again_and_again_is_left_alone_for_a_while(backend: Counting):
    backend.failures = 3
    clock = HeldClock()
    rules = PoolRules(breaker_failures=2, breaker_seconds=30)
    async with SandboxPool(backend, SPEC, 1, rules=rules, clock=clock) as pool:
        for expected in (SandboxError, SandboxError, BackendUnavailable, BackendUnavailable):
            with pytest.raises(expected):
                async with pool.lease():
                    pass
        assert len(backend.tokens) == 2
        clock.seconds += 31
        with pytest.raises(SandboxError, match="no room"):  # the one that is tried
            async with pool.lease():
                pass
        with pytest.raises(BackendUnavailable):
            async with pool.lease():
                pass
        clock.seconds += 31
        async with pool.lease() as sandbox:
            assert await sandbox.alive()


async def test_a_lease_without_a_heartbeat_ends(backend: Counting):
    clock = HeldClock()
    async with SandboxPool(backend, SPEC, 1, rules=PoolRules(lease_seconds=10), clock=clock) as pool:
        async with pool.lease() as sandbox:
            pool.heartbeat(sandbox)
            async with asyncio.timeout(60):
                while await sandbox.alive():
                    await asyncio.sleep(0)
            with pytest.raises(SandboxError, match="has ended"):
                pool.heartbeat(sandbox)
        assert pool.stats().expired == 1


async def test_a_sandbox_is_used_again_after_a_reset_as_often_as_allowed(backend: Counting):
    seen = []
    async with SandboxPool(backend, SPEC, 1, rules=PoolRules(reuses=1)) as pool:
        for _ in range(3):
            async with pool.lease() as sandbox:
                assert await sandbox.files() == ()
                await sandbox.write("dirt", b"")
                seen.append(sandbox.id)
    assert seen[0] == seen[1] != seen[2]


async def test_a_sandbox_that_broke_its_protocol_is_not_used_again(backend: Counting):
    async with SandboxPool(backend, SPEC, 1, rules=PoolRules(reuses=9)) as pool:
        async with pool.lease() as sandbox:
            assert isinstance(sandbox, AgentSandbox)
            sandbox._channel.feed(b"\xff" * 64)
            first = sandbox.id
        async with pool.lease() as sandbox:
            assert sandbox.id != first
        assert pool.stats().quarantined == 1

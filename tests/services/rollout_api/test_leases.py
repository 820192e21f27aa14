"""How long a lease is kept, on a clock that only moves when it is told to."""

import asyncio
from pathlib import Path

from core.wire import encode
from services.rollout_api.base import Parcel
from services.rollout_api.leases import LeaseTimers
from services.rollout_api.messages import TakeBatch
from services.rollout_api.queue import GroupQueue
from services.rollout_api.sqlite import SqliteFile
from services.rollout_api.store import LedgerStore
from tests.fakes import HeldClock
from tests.services.rollout_api.harness import ROOMY, group, run_spec


def parcel(name: str) -> Parcel:
    return Parcel(name, "sums", policy_version=0, scored=2, lost=0, body=encode(group(name)), accepted_at=0.0)


def still_here() -> bool:
    return False


async def test_a_batch_that_is_being_filled_keeps_its_lease(tmp_path: Path):
    clock = HeldClock()
    async with GroupQueue(LedgerStore(SqliteFile(tmp_path / "q", min_free_bytes=0), ROOMY), clock) as opened:
        await opened.open_run(run_spec())
        for name in ("a", "b"):
            await opened.put_group(parcel(name))
        wanted = TakeBatch(batch_id="filled", groups=2, policy_version=0, lease_seconds=10)
        assert await opened.take_batch(wanted, still_here) is not None
        for _ in range(4):  # longer than the lease, all together
            clock.seconds += 8
            assert await opened.take_batch(wanted.model_copy(update={"refused": ("a",)}), still_here) is None
        await opened.put_group(parcel("c"))
        brief = TakeBatch(batch_id="brief", groups=1, policy_version=0, lease_seconds=0.01)
        assert await opened.take_batch(brief, still_here) is not None
        clock.seconds += 1
        async with asyncio.timeout(60):
            while opened.snapshot.total("run").queued == 0:  # until leases have been looked at
                await asyncio.sleep(0.01)
        counts = opened.snapshot.total("run")
    assert (counts.leased, counts.queued, counts.dropped) == (1, 1, 1)


async def test_a_lease_that_another_process_let_begin_anew_does_not_end_before_its_time(tmp_path: Path):
    clock = HeldClock()
    async with LedgerStore(SqliteFile(tmp_path / "q", min_free_bytes=0), ROOMY) as store:
        await store.open_run(run_spec(batch=1))
        for name in ("a", "b", "c"):
            await store.put_group(parcel(name))
        longer = TakeBatch(batch_id="longer", groups=1, policy_version=0, lease_seconds=10)
        for wanted in (longer, longer.model_copy(update={"batch_id": "shorter"})):
            await store.take_batch(wanted, clock.now())
        timers = LeaseTimers(store, clock)
        await timers.adopt()
        clock.seconds += 8
        await store.take_batch(longer.model_copy(update={"refused": ("a",)}), clock.now())  # by another process
        await timers.adopt()
        clock.seconds += 4
        running = asyncio.create_task(timers.run())
        async with asyncio.timeout(60):
            while "shorter" in (left := [lease.batch_id for lease in await store.open_leases()]):
                await asyncio.sleep(0.01)
        running.cancel()
    assert left == ["longer"]

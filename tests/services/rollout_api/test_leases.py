"""Leases that several processes time."""

import asyncio
from pathlib import Path

from core.wire import encode
from services.rollout_api.base import Parcel
from services.rollout_api.leases import LeaseTimers
from services.rollout_api.messages import TakeBatch
from services.rollout_api.sqlite import SqliteFile
from services.rollout_api.store import LedgerStore
from tests.fakes import HeldClock
from tests.services.rollout_api.harness import ROOMY, group, run_spec


async def test_a_lease_that_another_process_let_begin_anew_does_not_end_before_its_time(tmp_path: Path):
    clock = HeldClock()
    async with LedgerStore(SqliteFile(tmp_path / "q", min_free_bytes=0), ROOMY) as store:
        await store.open_run(run_spec(batch=1))
        for name in ("a", "b", "c"):
            body = encode(group(name))
            await store.put_group(Parcel(name, "sums", policy_version=0, scored=2, lost=0, body=body, accepted_at=0.0))
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

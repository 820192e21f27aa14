"""The timers of leases: a batch that is not acknowledged in time goes back to the queue."""

import asyncio
from contextlib import suppress

from core.clock import Clock
from core.logs import get_logger
from services.rollout_api.base import Store
from services.rollout_api.refusals import Refusal

RETRY_SECONDS = 5.0
LOOK_SECONDS = 5.0  # how often leases of other processes are looked for, whose process may have died

log = get_logger("rollout_api")


class LeaseTimers:
    """Ends leases of one store. Measured on a clock that never jumps; across a restart at most the lease's length."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._ends: dict[str, float] = {}
        self._stored: dict[str, float] = {}  # the ends that the store named at the last look
        self._changed = asyncio.Event()

    async def adopt(self) -> None:
        """Time the leases that the store knows and this does not, and those that another process let begin anew."""
        leases = await self._store.open_leases()
        now, wall = self._clock.monotonic(), self._clock.now()
        for lease in leases:
            # a wall clock that was set back must not make a lease longer than it was
            end = now + min(max(lease.expires_at - wall, 0.0), lease.length)
            anew = self._stored.get(lease.batch_id, lease.expires_at) != lease.expires_at
            self._ends[lease.batch_id] = end if anew else self._ends.get(lease.batch_id, end)
            self._stored[lease.batch_id] = lease.expires_at
        self._changed.set()

    def start(self, batch_id: str, seconds: float, *, anew: bool = False) -> None:
        """Time a lease that begins now; one that is timed already keeps its end, unless it begins `anew`."""
        if anew:
            self.stop(batch_id)
        self._ends.setdefault(batch_id, self._clock.monotonic() + seconds)
        self._changed.set()

    def stop(self, batch_id: str) -> None:
        """The lease is over."""
        self._ends.pop(batch_id, None)
        self._stored.pop(batch_id, None)

    def clear(self) -> None:
        """All leases are over; those that are not are found again in the store."""
        self._ends.clear()
        self._stored.clear()

    async def run(self) -> None:
        """End leases as their time comes, until cancelled."""
        while True:
            self._changed.clear()
            now = self._clock.monotonic()
            for batch_id in [name for name, end in self._ends.items() if end <= now]:
                await self._end(batch_id)
            await self._wait(min(self._ends.values(), default=None))

    async def _wait(self, next_end: float | None) -> None:
        seconds = None if next_end is None else max(0.0, next_end - self._clock.monotonic())
        if self._store.shared:
            seconds = LOOK_SECONDS if seconds is None else min(seconds, LOOK_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
                return
        if self._store.shared:
            with suppress(Refusal):  # told to callers already; the next look tries again
                await self.adopt()

    async def _end(self, batch_id: str) -> None:
        try:
            groups = await self._store.return_batch(batch_id)
        except Refusal as error:
            log.error("lease_not_ended", batch=batch_id, error=str(error))
            self._ends[batch_id] = self._clock.monotonic() + RETRY_SECONDS
            return
        self.stop(batch_id)
        if groups:
            log.warning("lease_expired", batch=batch_id, groups=groups)

"""The queue as the routes see it: durable through the writer, awake through the snapshot of the last commit."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from core.clock import Clock
from core.errors import did_you_mean
from core.logs import get_logger
from core.types import Update
from services.rollout_api import ledger
from services.rollout_api.demand import Roster, group_size, groups_to_start
from services.rollout_api.ledger import Lease, Limits, Parcel, Snapshot
from services.rollout_api.messages import (
    Demand,
    DemandQuery,
    EnvironmentSpec,
    EnvironmentStatus,
    GroupCounts,
    QueueStatus,
    Run,
    RunChange,
    RunSpec,
    RunStatus,
    TakeBatch,
)
from services.rollout_api.refusals import NotKnown, Refusal, StorageFull
from services.rollout_api.schema import lock_database, open_database
from services.rollout_api.writer import Writer

RETRY_EXPIRY_SECONDS = 5.0

log = get_logger("rollout_api")


class Store:
    """One queue in one SQLite file. `async with store:` starts and ends its thread and its leases' timer."""

    def __init__(self, path: Path, limits: Limits, *, min_free_bytes: int, clock: Clock) -> None:
        """Opens and locks the file. Raises ConfigError where that cannot be."""
        self._lock = lock_database(path)
        try:
            self._db = open_database(path)
        except BaseException:
            self._lock.close()
            raise
        self._path, self._limits, self._min_free_bytes, self._clock = path, limits, min_free_bytes, clock
        self._log_path = path.with_name(path.name + "-wal")
        self.snapshot = ledger.read_snapshot(self._db)
        self._roster = Roster()
        self._changed, self._leases_changed = asyncio.Event(), asyncio.Event()
        self._ends: dict[str, float] = {}
        self._closing = False

    async def __aenter__(self) -> Self:
        now, wall = self._now(), self._clock.now()
        for batch_id, length, expires_at in ledger.open_leases(self._db):
            # a wall clock that was set back must not make a lease longer than it was
            self._ends[batch_id] = now + min(max(expires_at - wall, 0.0), length)
        self._writer = Writer(self._db, self._publish)
        self._reaper = asyncio.create_task(self._end_leases())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_waiting()
        self._reaper.cancel()
        with suppress(asyncio.CancelledError):
            await self._reaper
        await self._writer.close()
        self._db.close()
        self._lock.close()

    @property
    def ready(self) -> bool:
        """Whether the store takes work."""
        return not self._closing and self._writer.alive

    @property
    def commits(self) -> int:
        """Transactions so far; each is one fsync, shared by all that waited."""
        return self._writer.commits

    def stop_waiting(self) -> None:
        """End all long polls now, for a shutdown."""
        self._closing = True
        self._wake()

    async def register_environment(self, name: str, spec: EnvironmentSpec) -> None:
        """Make an environment known, or change what is known of it."""
        await self._writer.run(partial(ledger.register_environment, name=name, spec=spec))
        log.info("environment_registered", environment=name, group_size=spec.group_size, weight=spec.weight)

    async def open_run(self, spec: RunSpec) -> Run:
        """Start or resume a run. Raises Conflict while another one is not finished."""
        run = await self._writer.run(partial(ledger.open_run, spec=spec))
        self._ends.clear()
        log.info("run_opened", run=run.id, step=run.step, policy_version=run.policy_version, status=run.status.value)
        return run

    async def change_run(self, change: RunChange) -> Run:
        """Pause, continue or finish the run. Raises NotKnown."""
        return await self._writer.run(partial(ledger.change_run, change=change))

    async def accept_group(self, parcel: Parcel, worker: str) -> bool:
        """Queue a group; False where it was accepted before. Raises Conflict, QueueFull and StorageFull."""
        self._check_disk()
        first = await self._writer.run(partial(ledger.accept_group, parcel=parcel, limits=self._limits))
        if first:
            self._roster.delivered(parcel.environment, worker)
            self._wake()
        return first

    async def demand(self, query: DemandQuery) -> Demand:
        """How many groups to start; waits for one up to `wait_seconds`. A newer request of the server ends this one."""
        name, worker = query.environment, query.worker
        if name not in self.snapshot.environments:
            known = sorted(self.snapshot.environments)
            hint = did_you_mean(name, known)
            raise NotKnown(f"no environment {name!r}{hint}; registered: {', '.join(known) or 'none'}")
        asked = self._roster.report(name, worker, query.running, self._now())
        self._wake()
        deadline = self._now() + query.wait_seconds
        while True:
            changed = self._changed
            if self._roster.asked(name, worker) != asked:
                return self._demand(name, 0)
            groups = groups_to_start(name, self.snapshot, self._roster.running(self._now()))
            if groups or self._finished or not await self._wait(changed, deadline):
                self._roster.started(name, worker, groups, self._now())
                return self._demand(name, groups)

    async def take_batch(self, wanted: TakeBatch, gone: Callable[[], Awaitable[bool]]) -> Lease | None:
        """A batch under a lease, or None when there are too few groups after `wait_seconds`. Raises Conflict.

        Nothing is taken for a caller that is `gone`.
        """
        deadline = self._now() + wanted.wait_seconds
        while True:
            changed = self._changed
            if await gone():
                return None
            lease = await self._writer.run(partial(ledger.take_batch, wanted=wanted, now=self._clock.now()))
            if lease is not None:
                self._ends.setdefault(wanted.batch_id, self._now() + wanted.lease_seconds)
                self._leases_changed.set()
                return lease
            if not await self._wait_for_queue(wanted.groups, changed, deadline):
                return None

    async def acknowledge(self, batch_id: str, update: Update) -> Run:
        """The update used that batch; a second time changes nothing. Raises NotKnown and Conflict."""
        run = await self._writer.run(partial(ledger.acknowledge, batch_id=batch_id, update=update))
        self._ends.pop(batch_id, None)
        return run

    def status(self) -> QueueStatus:
        """Counts, run and environments as of the last commit."""
        snapshot, running = self.snapshot, self._roster.running(self._now())
        environments = {
            name: EnvironmentStatus(
                weight=spec.weight,
                group_size=spec.group_size,
                running=running.get(name, 0),
                counts=snapshot.counts.get(name, GroupCounts()),
            )
            for name, spec in snapshot.environments.items()
        }
        update = Update.model_validate_json(snapshot.last_update) if snapshot.last_update else None
        return QueueStatus(run=snapshot.run, counts=snapshot.total, environments=environments, last_update=update)

    def _check_disk(self) -> None:
        # space is kept back so that batches can still be taken and acknowledged; what is in the log needs room
        # in the database as well, except where trained groups have left some
        log_bytes = self._log_path.stat().st_size if self._log_path.exists() else 0
        free = shutil.disk_usage(self._path.parent).free
        room = free - log_bytes + self.snapshot.reusable_bytes
        if room < self._min_free_bytes or free < self._min_free_bytes / 2:
            raise StorageFull(f"the disk is full: {min(free, max(room, 0))} bytes left, {self._min_free_bytes} are kept back")

    @property
    def _finished(self) -> bool:
        return self.snapshot.run is not None and self.snapshot.run.status is RunStatus.FINISHED

    def _demand(self, environment: str, groups: int) -> Demand:
        run = self.snapshot.run
        return Demand(
            groups=groups,
            group_size=group_size(environment, self.snapshot),
            policy_version=run.policy_version if run else 0,
            finished=self._finished,
        )

    def _publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _wait(self, changed: asyncio.Event, deadline: float) -> bool:
        """True when something changed before the deadline, False when it is time to answer."""
        if self._closing or self._now() >= deadline:
            return False
        try:
            async with asyncio.timeout_at(deadline):
                await changed.wait()
        except TimeoutError:
            return False
        return not self._closing

    async def _wait_for_queue(self, groups: int, changed: asyncio.Event, deadline: float) -> bool:
        """True when that many groups are queued; each look that costs a transaction is worth it then."""
        while await self._wait(changed, deadline):
            changed = self._changed
            if self.snapshot.total.queued >= groups:
                return True
        return False

    async def _end_leases(self) -> None:
        while True:
            self._leases_changed.clear()
            for batch_id in [name for name, end in self._ends.items() if end <= self._now()]:
                await self._end_lease(batch_id)
            next_end = min(self._ends.values(), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_end):
                    await self._leases_changed.wait()

    async def _end_lease(self, batch_id: str) -> None:
        try:
            groups = await self._writer.run(partial(ledger.return_batch, batch_id=batch_id))
        except Refusal as error:
            log.error("lease_not_ended", batch=batch_id, error=str(error))
            self._ends[batch_id] = self._now() + RETRY_EXPIRY_SECONDS
            return
        self._ends.pop(batch_id, None)
        if groups:
            log.warning("lease_expired", batch=batch_id, groups=groups)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

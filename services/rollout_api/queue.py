"""The queue as the routes see it: durable through a store, awake through the snapshot of the last commit."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Self

from core.clock import Clock
from core.errors import did_you_mean
from core.logs import get_logger
from core.types import Update
from services.rollout_api.base import Choose, Event, Head, Lease, Parcel, Snapshot, Store
from services.rollout_api.demand import Roster, Server, Shares, free_groups, group_size, groups_to_start
from services.rollout_api.events import EventFeed
from services.rollout_api.leases import LeaseTimers
from services.rollout_api.messages import (
    Demand,
    DemandQuery,
    EnvironmentSpec,
    EnvironmentStatus,
    GroupCounts,
    GroupFacts,
    GroupFilter,
    QueueStatus,
    Run,
    RunChange,
    RunSpec,
    RunStatus,
    TakeBatch,
)
from services.rollout_api.refusals import Conflict, NotKnown

READ_BYTES = 2 << 20  # of frames that are in memory for one response

log = get_logger("rollout_api")


class GroupQueue:
    """The queues of all runs in one store. `async with queue:` opens it, starts its timers, and ends both."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self.feed = EventFeed()
        self._roster, self._shares, self._leases = Roster(), Shares(), LeaseTimers(store, clock)
        self._queue_bell, self._demand_bell = asyncio.Event(), asyncio.Event()
        self._waiting: dict[Server, int] = {}
        self._closing = False
        self._turn = 0  # what other processes told up to here is known

    async def __aenter__(self) -> Self:
        self._store.listener = self
        await self._store.__aenter__()
        await self._leases.adopt()
        self._timers = asyncio.create_task(self._leases.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self.stop_waiting()
        self._timers.cancel()
        with suppress(asyncio.CancelledError):
            await self._timers
        await self._store.__aexit__(*error)

    @property
    def snapshot(self) -> Snapshot:
        """The state as of the last commit."""
        return self._store.snapshot

    @property
    def ready(self) -> bool:
        """Whether the queue takes work."""
        return not self._closing and self._store.ready

    @property
    def shared(self) -> bool:
        """Whether other processes may work on the same queue."""
        return self._store.shared

    @property
    def commits(self) -> int:
        """Transactions so far; each is one fsync, shared by all that waited."""
        return self._store.commits

    def committed(self, snapshot: Snapshot, events: Sequence[Event]) -> None:
        """See Listener."""
        self.feed.add(events)
        newest = snapshot.newest_run()
        self._roster.unnamed = newest.id if newest else ""
        self._ring_queue()
        if any(event.kind in ("run", "update", "environment") for event in events):
            self._ring_demand()
        else:
            self._ring_demand_if_free()

    def heard(self, events: Sequence[Event]) -> None:
        """See Listener."""
        self.feed.add(events)
        for event in events:
            server = Server(
                str(event.facts.get("for", "")), str(event.facts.get("environment", "")), str(event.facts.get("worker", ""))
            )
            if event.kind == "worker" and int(event.facts["turn"] or 0) > self._turn:
                handed_over = event.facts.get("handed_over")
                told = None if handed_over is None else int(handed_over)
                self._roster.report(server, int(event.facts["running"] or 0), self._clock.monotonic(), told)
            elif event.kind == "group":
                self._roster.delivered(server, self._clock.monotonic())
        self._ring_demand_if_free()

    def stop_waiting(self) -> None:
        """End all long polls and streams now, for a shutdown."""
        self._closing = True
        self.feed.close()
        self._ring_queue()
        self._ring_demand()

    async def register_environment(self, name: str, spec: EnvironmentSpec) -> None:
        """Make an environment known, or change what is known of it."""
        await self._store.register_environment(name, spec)
        log.info("environment_registered", environment=name, group_size=spec.group_size, weight=spec.weight)

    async def open_run(self, spec: RunSpec) -> Run:
        """Start or resume a run; what its trainers had taken is queued again."""
        run = await self._store.open_run(spec)
        self._leases.clear()
        await self._leases.adopt()
        log.info("run_opened", run=run.id, step=run.step, policy_version=run.policy_version, status=run.status.value)
        return run

    async def change_run(self, change: RunChange) -> Run:
        """Pause, continue or finish a run. Raises NotKnown."""
        return await self._store.change_run(change)

    async def clear_run(self, run: str) -> int:
        """Forget the run, its groups and its batches; how many groups that were."""
        groups = await self._store.clear_run(run)
        self._leases.clear()
        await self._leases.adopt()
        log.warning("run_cleared", run=run, groups=groups)
        return groups

    def post(self) -> AbstractContextManager[None]:
        """While a post is being read: what is about to be written waits a moment for it, to share the fsync."""
        return self._store.post()

    async def put_group(self, parcel: Parcel, worker: str = "", handed_over: int | None = None) -> bool:
        """Queue a group; False where it was accepted before. Raises Conflict, QueueFull and StorageFull.

        Nothing of the body is decoded; whoever calls has validated it. `handed_over`: see PostQuery.
        """
        self._store.check_space()
        first = await self._store.put_group(parcel)
        server = Server(parcel.run, parcel.environment, worker)
        if first or (handed_over is not None and self._roster.arrived(server) <= handed_over):
            self._roster.delivered(server, self._clock.monotonic(), handed_over)
            self._ring_demand_if_free()
        return first

    async def take_batch(self, wanted: TakeBatch, gone: Callable[[], bool], choose: Choose | None = None) -> Lease | None:
        """A batch under a lease, or None when there are too few groups after `wait_seconds`. Raises Conflict.

        `choose` picks it out of the oldest queued groups, where it is not simply the oldest `groups` of them.
        Nothing is taken for a caller that is `gone`.
        """
        deadline = self._clock.monotonic() + wanted.wait_seconds
        while True:
            changed = self._queue_bell
            if gone():
                return None
            lease = await self._store.take_batch(wanted, self._clock.now(), choose)
            if lease is not None:
                self._leases.start(wanted.batch_id, wanted.lease_seconds, anew=bool(wanted.refused))
                return lease
            if wanted.refused:
                self._leases.start(wanted.batch_id, wanted.lease_seconds, anew=True)
            needed = 1 if choose else min(len(wanted.refused) or wanted.groups, wanted.groups)
            if not await self._wait_for_queue(wanted, needed, changed, deadline):
                return None

    async def frames(self, heads: Sequence[Head]) -> AsyncIterator[bytes]:
        """The zstd frame of each group's body, read as it is asked for. Raises NotKnown where one is gone."""
        start = 0
        while start < len(heads):
            end, size = start + 1, heads[start].stored
            while end < len(heads) and size + heads[end].stored <= READ_BYTES:
                size += heads[end].stored
                end += 1
            for frame in await self._store.read_frames([head.arrival for head in heads[start:end]]):
                yield frame
            start = end

    async def acknowledge(self, batch_id: str, update: Update | None) -> Run:
        """The update used that batch; None where nothing is known of it. A second time changes nothing.

        Raises NotKnown and Conflict.
        """
        run = await self._store.acknowledge(batch_id, update)
        self._leases.stop(batch_id)
        return run

    async def return_batch(self, batch_id: str) -> int:
        """Give a batch back before its lease ends; how many groups came back."""
        groups = await self._store.return_batch(batch_id)
        self._leases.stop(batch_id)
        return groups

    async def demand(self, query: DemandQuery) -> Demand:
        """How many groups to start; waits for one up to `wait_seconds`. A newer request of the server ends this one.

        Raises NotKnown for an environment that did not register and Conflict where it is unclear which run is meant.
        """
        name = query.environment
        self._check_registered(name)
        self._run(query.run)
        server = Server(query.run, name, query.worker)
        asked = self._roster.report(server, query.running, self._clock.monotonic(), query.handed_over)
        if server in self._waiting:
            self._ring_demand()  # the older request of this server ends
        else:
            self._ring_demand_if_free()
        deadline = self._clock.monotonic() + query.wait_seconds
        self._waiting[server] = self._waiting.get(server, 0) + 1
        try:
            groups = await self._grant(server, query, asked, deadline)
        finally:
            self._waiting[server] -= 1
            if not self._waiting[server]:
                del self._waiting[server]
        run = self._run(query.run)
        return Demand(
            groups=groups,
            group_size=group_size(name, self.snapshot, run),
            policy_version=run.policy_version if run else 0,
            finished=run is not None and run.status is RunStatus.FINISHED,
        )

    async def groups(self, wanted: GroupFilter) -> list[GroupFacts]:
        """Facts of groups, newest first."""
        return await self._store.groups(wanted)

    async def group_frame(self, facts: GroupFacts) -> bytes:
        """The zstd frame of one group. Raises NotKnown where it is gone."""
        return (await self._store.read_frames([facts.arrival]))[0]

    async def put_note(self, key: str, value: bytes | None) -> None:
        """Remember a value under a key, durably; None forgets it."""
        await self._store.put_note(key, value)

    async def notes(self, prefix: str) -> dict[str, bytes]:
        """The notes whose key starts so."""
        return await self._store.notes(prefix)

    def status(self, name: str = "") -> QueueStatus:
        """Counts, run and environments as of the last commit, of that run, or of the one opened last. Raises NotKnown."""
        snapshot = self.snapshot
        run = snapshot.runs.get(name) if name else snapshot.newest_run()
        if name and run is None:
            raise NotKnown(f"no run {name!r}; known: {', '.join(snapshot.runs)[:300] or 'none'}")
        key = run.id if run else ""
        environments = {
            name: EnvironmentStatus(
                weight=spec.weight,
                group_size=spec.group_size,
                running=self._roster.running(key, name),
                counts=snapshot.counts.get((key, name), GroupCounts()),
            )
            for name, spec in snapshot.environments.items()
        }
        update = snapshot.updates.get(key)
        return QueueStatus(
            run=run,
            runs=tuple(snapshot.runs.values()),
            counts=snapshot.total(key),
            environments=environments,
            last_update=Update.model_validate_json(update) if update else None,
        )

    def running(self) -> dict[tuple[str, str], int]:
        """Groups that environment servers are making, by run and environment."""
        return {
            (run, name): self._roster.running(run, name)
            for run in ("", *self.snapshot.runs)
            for name in self._roster.active(run)
        }

    def _run(self, name: str) -> Run | None:
        """The run that is meant; see `ledger_runs.queue_of`. Raises Conflict."""
        if name:
            return self.snapshot.runs.get(name)
        unfinished = self.snapshot.open_runs()
        if len(unfinished) > 1:
            names = ", ".join(run.id for run in unfinished)
            raise Conflict(f"{len(unfinished)} runs are open, name one of them: {names[:300]}")
        return self.snapshot.newest_run()

    def _check_registered(self, name: str) -> None:
        if name not in self.snapshot.environments:
            known = sorted(self.snapshot.environments)
            listed = ", ".join(known)[:300] or "none"
            raise NotKnown(f"no environment {name[:80]!r}{did_you_mean(name, known)}; registered: {listed}")

    async def _grant(self, server: Server, query: DemandQuery, asked: int, deadline: float) -> int:
        """The answer to a server, which no other process gave to another one at the same time."""
        while True:
            groups = await self._groups_for(server, query, asked, deadline)
            if not self._store.shared:
                return groups
            told = await self._store.tell(_said(query, groups), self._turn if groups else None)
            self.heard(told.others)
            self._turn = max(self._turn, told.turn)
            if not groups or not told.others:
                return groups
            self._roster.started(server, -groups, self._clock.monotonic())

    async def _groups_for(self, server: Server, query: DemandQuery, asked: int, deadline: float) -> int:
        while True:
            changed = self._demand_bell
            run, now = self._run(query.run), self._clock.monotonic()
            if self._roster.asked(server) != asked:
                return 0
            self._roster.forget_silent(now)
            shares = self._shares.of(run.id, self.snapshot.environments, self._roster) if run else {}
            share = shares.get(server.environment, 1.0)
            groups = min(query.most, groups_to_start(run, server.environment, self.snapshot, self._roster, share))
            finished = run is not None and run.status is RunStatus.FINISHED
            if groups or finished or not await self._wait(changed, deadline):
                self._roster.started(server, groups, now)
                return groups

    async def _wait(self, changed: asyncio.Event, deadline: float) -> bool:
        """True when something changed before the deadline, False when it is time to answer."""
        left = deadline - self._clock.monotonic()
        if self._closing or left <= 0:
            return False
        try:
            async with asyncio.timeout(left):
                await changed.wait()
        except TimeoutError:
            return False
        return not self._closing

    async def _wait_for_queue(self, wanted: TakeBatch, groups: int, changed: asyncio.Event, deadline: float) -> bool:
        """True when that many groups are queued; each look that costs a transaction is worth it then."""
        while await self._wait(changed, deadline):
            changed = self._queue_bell
            run = self._run(wanted.run)
            if run is None or self.snapshot.total(run.id).queued >= groups:
                return True
        return False

    def _ring_queue(self) -> None:
        bell, self._queue_bell = self._queue_bell, asyncio.Event()
        bell.set()

    def _ring_demand_if_free(self) -> None:
        # a thousand servers may wait: they are only woken when there is something to start
        if self._waiting and any(free_groups(run, self.snapshot, self._roster) > 0 for run in self.snapshot.open_runs()):
            self._ring_demand()

    def _ring_demand(self) -> None:
        bell, self._demand_bell = self._demand_bell, asyncio.Event()
        bell.set()


def _said(query: DemandQuery, groups: int) -> Event:
    """What a server makes, with what it is given now, for the other processes."""
    running = query.running + groups
    return Event(
        "worker",
        query.run,
        {
            "for": query.run,
            "environment": query.environment,
            "worker": query.worker,
            "running": running,
            "handed_over": query.handed_over,
        },
    )

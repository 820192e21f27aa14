"""The queue on a disk: every change through one writer, every read beside it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Self, TypeVar
from uuid import uuid4

from core.logs import get_logger
from core.types import Update
from services.rollout_api import ledger, ledger_runs, ledger_servers
from services.rollout_api.base import Choose, Event, Lease, Limits, Listener, OpenLease, Parcel, Sealed, Snapshot, Told
from services.rollout_api.compression import seal
from services.rollout_api.database import Connector, Database
from services.rollout_api.messages import EnvironmentSpec, GroupFacts, GroupFilter, Run, RunChange, RunSpec, TakeBatch
from services.rollout_api.refusals import Damaged, Refusal
from services.rollout_api.transaction import Transaction, read_snapshot
from services.rollout_api.writer import Writer

T = TypeVar("T")

log = get_logger("rollout_api")


class Nobody:
    """A listener that has nothing to do."""

    def committed(self, snapshot: Snapshot, events: Sequence[Event]) -> None:
        """See Listener."""

    def heard(self, events: Sequence[Event]) -> None:
        """See Listener."""


class LedgerStore:
    """The one Store; what differs between databases is its connector."""

    def __init__(self, connector: Connector, limits: Limits) -> None:
        """Connects. Raises ConfigError where that cannot be."""
        self._connector, self._limits = connector, limits
        try:
            self._db = connector.connect()
        except BaseException:
            connector.close()
            raise
        self.snapshot = read_snapshot(self._db)
        self.listener: Listener = Nobody()
        self._process = uuid4().hex

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(self._db, self._limits, self._publish)
        if not self._limits.kept_payloads:  # an earlier process may have kept some
            await self._writer.run(ledger.forget_payloads)
        self._reader_db = self._connector.connect_reader()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="rollout-reader")
        self._refreshing: asyncio.Task[None] | None = None
        self._heard: list[Event] = []
        self._stale = False
        self._end_watch = self._connector.watch(self._changed_elsewhere)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._end_watch is not None:
            await asyncio.to_thread(self._end_watch)
        if self._refreshing is not None:
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await self._writer.close()
        await asyncio.to_thread(self._reader.shutdown)
        self._reader_db.close()
        self._db.close()
        self._connector.close()

    @property
    def ready(self) -> bool:
        """Whether the store takes work."""
        return self._writer.alive

    @property
    def commits(self) -> int:
        """Transactions so far; each is one fsync, shared by all that waited."""
        return self._writer.commits

    @property
    def shared(self) -> bool:
        """See Store."""
        return self._end_watch is not None

    def check_space(self) -> None:
        """See Store."""
        self._connector.check_space()

    async def tell(self, event: Event, seen: int | None) -> Told:
        """See Store."""
        teller = ledger_servers.Teller(self._process, time.time())
        told = await self._read(partial(ledger_servers.tell, teller=teller, event=event, seen=seen))
        if told.others:
            await self._writer.run(_read_again)
        return told

    async def register_environment(self, name: str, spec: EnvironmentSpec) -> None:
        """See Store."""
        await self._writer.run(partial(ledger_runs.register_environment, name=name, spec=spec))

    async def open_run(self, spec: RunSpec) -> Run:
        """See Store."""
        return await self._writer.run(partial(ledger_runs.open_run, spec=spec))

    async def change_run(self, change: RunChange) -> Run:
        """See Store."""
        return await self._writer.run(partial(ledger_runs.change_run, change=change))

    async def clear_run(self, run: str) -> int:
        """See Store."""
        return await self._writer.run(partial(ledger_runs.clear_run, name=run))

    def post(self) -> AbstractContextManager[None]:
        """See Store."""
        return self._writer.post()

    async def put_group(self, parcel: Parcel) -> bool:
        """See Store."""
        post = _Post(parcel)
        return await self._writer.run(post.put, prepare=post.seal, size=len(parcel.body))

    async def take_batch(self, wanted: TakeBatch, now: float, choose: Choose | None = None) -> Lease | None:
        """See Store."""
        return await self._writer.run(partial(ledger.take_batch, wanted=wanted, now=now, choose=choose))

    async def acknowledge(self, batch_id: str, update: Update | None) -> Run:
        """See Store."""
        return await self._writer.run(partial(ledger.acknowledge, batch_id=batch_id, update=update))

    async def return_batch(self, batch_id: str) -> int:
        """See Store."""
        return await self._writer.run(partial(ledger.return_batch, batch_id=batch_id))

    async def open_leases(self) -> list[OpenLease]:
        """See Store."""
        return await self._read(ledger.open_leases)

    async def read_frames(self, arrivals: Sequence[int]) -> list[bytes]:
        """See Store."""
        try:
            return await self._read(partial(ledger.read_frames, arrivals=arrivals))
        except Damaged as error:
            await self._writer.run(partial(ledger.give_up, arrival=error.arrival))
            raise

    async def groups(self, wanted: GroupFilter) -> list[GroupFacts]:
        """See Store."""
        return await self._read(partial(ledger.read_groups, wanted=wanted))

    async def put_note(self, key: str, value: bytes | None) -> None:
        """See Store."""
        await self._writer.run(partial(ledger.put_note, key=key, value=value))

    async def notes(self, prefix: str) -> dict[str, bytes]:
        """See Store."""
        return await self._read(partial(ledger.read_notes, prefix=prefix))

    async def _read(self, question: Callable[[Database], T]) -> T:
        return await self._loop.run_in_executor(self._reader, self._ask, question)

    def _ask(self, question: Callable[[Database], T]) -> T:
        try:
            return question(self._reader_db)
        except self._reader_db.errors as error:
            refusal = self._reader_db.refusal(error)
            self._reader_db.rollback()
            raise refusal from error

    def _publish(self, snapshot: Snapshot, events: Sequence[Event]) -> None:
        self.snapshot = snapshot
        self.listener.committed(snapshot, events)

    def _changed_elsewhere(self, events: Sequence[Event]) -> None:
        self._loop.call_soon_threadsafe(self._hear, events)

    def _hear(self, events: Sequence[Event]) -> None:
        self._heard.extend(events)
        self._stale = True
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        # what others did is heard when it is in the snapshot: a group that is no longer being made is queued then
        while self._stale:
            heard, self._heard, self._stale = self._heard, [], False
            try:
                await self._writer.run(_read_again)
            except Refusal as error:  # told to every caller already; the next change tries again
                log.warning("not_refreshed", error=str(error))
                self._heard = heard + self._heard
                return
            self.listener.heard(heard)


class _Post:
    """A parcel on its way: compressed by the thread that writes it, between two transactions."""

    def __init__(self, parcel: Parcel) -> None:
        self._parcel = parcel
        self._sealed: Sealed | None = None

    def seal(self) -> Sealed:
        if self._sealed is None:
            self._sealed = seal(self._parcel)
        return self._sealed

    def put(self, t: Transaction) -> bool:
        return ledger.put_group(t, self.seal())


def _read_again(t: Transaction) -> None:
    t.rewritten = True

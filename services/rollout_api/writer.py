"""One thread that owns the database connection. Operations that wait at the same time share one fsync."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from core.logs import get_logger
from services.rollout_api.ledger import Snapshot, read_snapshot
from services.rollout_api.refusals import Closing, Refusal, StorageFull, TryLater

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
MAX_TOGETHER = 256
MAX_WAITING = 4096  # operations, each with the body that it writes

log = get_logger("rollout_api")


@dataclass
class _Job(Generic[T]):
    operation: Operation[T]
    answer: "asyncio.Future[T]"
    outcome: T | None = None
    error: Exception | None = field(default=None)


class Writer:
    """Runs operations in order, each in a transaction that is on the disk before its caller hears of it."""

    def __init__(
        self, connection: sqlite3.Connection, publish: Callable[[Snapshot], None], max_waiting: int = MAX_WAITING
    ) -> None:
        """`publish` is called on the loop after each commit, before the callers of that commit go on."""
        self._connection = connection
        self._publish = publish
        self._max_waiting = max_waiting
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._work, name="rollout-store", daemon=True)
        self._closed = False
        self.commits = 0
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether operations are taken."""
        return not self._closed and self._thread.is_alive()

    async def run(self, operation: Operation[T]) -> T:
        """The operation's result, once it is on the disk.

        Raises what the operation raised, StorageFull, Closing, and TryLater where too many wait already.
        """
        if not self.alive:
            raise Closing("the store is closed")
        if self._jobs.qsize() >= self._max_waiting:
            raise TryLater(f"{self._max_waiting} operations wait for the disk already")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(operation, answer))
        # the operation happens whether or not its caller still waits
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """Finish what was given, then end the thread."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        ended = False
        while not ended:
            jobs, ended = self._next_jobs()
            if jobs:
                self._run_jobs(jobs)

    def _next_jobs(self) -> tuple[list[_Job], bool]:
        job = self._jobs.get()
        jobs: list[_Job] = []
        while job is not None:
            jobs.append(job)
            if len(jobs) == MAX_TOGETHER:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return jobs, False
        return jobs, True

    def _run_jobs(self, jobs: list[_Job]) -> None:
        snapshot: Snapshot | None = None
        try:
            snapshot = self._transaction(jobs)
        except sqlite3.Error as error:
            if len(jobs) > 1:
                # one of them may not fit on the disk: each stands for itself
                for job in jobs:
                    self._run_jobs([job])
                return
            jobs[0].error = _refusal(error)
        except Exception as error:  # the thread has to live, and every caller has to get an answer
            log.error("store_failed", error=f"{type(error).__name__}: {error}")
            for job in jobs:
                job.error = Closing(f"the store failed: {type(error).__name__}")
        self._loop.call_soon_threadsafe(self._deliver, jobs, snapshot)

    def _transaction(self, jobs: list[_Job]) -> Snapshot:
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        try:
            for job in jobs:
                self._run_one(db, job)
            snapshot = read_snapshot(db)
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        self.commits += 1
        return snapshot

    def _run_one(self, db: sqlite3.Connection, job: _Job) -> None:
        job.outcome, job.error = None, None
        db.execute("SAVEPOINT job")
        try:
            job.outcome = job.operation(db)
        except sqlite3.Error:
            raise  # SQLite may have rolled all of it back
        except Exception as error:
            job.error = error
            db.execute("ROLLBACK TO job")
        db.execute("RELEASE job")

    def _deliver(self, jobs: list[_Job], snapshot: Snapshot | None) -> None:
        if snapshot is not None:
            self._publish(snapshot)
        for job in jobs:
            if job.answer.cancelled():
                continue
            if job.error is not None:
                job.answer.set_exception(job.error)
            else:
                job.answer.set_result(job.outcome)


def _refusal(error: sqlite3.Error) -> Refusal:
    name = getattr(error, "sqlite_errorname", "")
    log.error("store_failed", error=str(error), name=name)
    if name in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):
        return StorageFull("the disk is full: free some space; nothing that was accepted is lost")
    return Closing(f"the database failed: {error}")

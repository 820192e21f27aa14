"""One thread that owns a connection for changes. Changes that wait at the same time share one transaction and one fsync."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from core.logs import get_logger
from services.rollout_api.base import Event, Limits, Snapshot
from services.rollout_api.database import Database
from services.rollout_api.refusals import Closing, Refusal, TryLater
from services.rollout_api.transaction import Transaction, read_snapshot

T = TypeVar("T")
Operation = Callable[[Transaction], T]
Publish = Callable[[Snapshot, Sequence[Event]], None]
MAX_TOGETHER = 256
GATHER_SECONDS = 0.008  # that a commit waits for posts that are on their way: it costs as much as several of them
MAX_WAITING = 4096  # operations
MAX_WAITING_BYTES = 512 << 20  # of the bodies that they write; one alone may have more

log = get_logger("rollout_api")


@dataclass
class _Job(Generic[T]):
    operation: Operation[T]
    prepare: Callable[[], object] | None
    answer: "asyncio.Future[T]"
    bytes: int
    outcome: T | None = None
    error: Exception | None = field(default=None)


class Writer:
    """Runs operations in order, each in a transaction that is on the disk before its caller hears of it."""

    def __init__(
        self,
        db: Database,
        limits: Limits,
        publish: Publish,
        max_waiting: int = MAX_WAITING,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        """`publish` is called on the loop after each commit, before the callers of that commit go on."""
        self._db, self._limits, self._publish = db, limits, publish
        self._max_waiting, self._max_waiting_bytes = max_waiting, max_waiting_bytes
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._work, name="rollout-store", daemon=True)
        self._closed = False
        self._posts = self._inside = self._bytes = 0
        self._snapshot = read_snapshot(db)
        self.commits = 0
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether operations are taken."""
        return not self._closed and self._thread.is_alive()

    async def run(self, operation: Operation[T], prepare: Callable[[], object] | None = None, size: int = 0) -> T:
        """The operation's result, once it is on the disk. `prepare` runs in the same thread, as soon as it can.

        `size`: how many bytes the operation keeps in memory until then.
        Raises what the operation raised, StorageFull, Closing, and TryLater where too many wait already.
        """
        if not self.alive:
            raise Closing("the store is closed")
        if self._jobs.qsize() >= self._max_waiting:
            raise TryLater(f"{self._max_waiting} operations wait for the disk already")
        if self._bytes and self._bytes + size > self._max_waiting_bytes:
            raise TryLater(f"{self._bytes} bytes wait for the disk already")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._inside, self._bytes = self._inside + 1, self._bytes + size
        self._jobs.put(_Job(operation, prepare, answer, size))
        return await answer  # the operation happens whether or not its caller still waits

    @contextmanager
    def post(self) -> Iterator[None]:
        """A post is being read, and `run` will be called: a commit waits a moment for it."""
        self._posts += 1
        try:
            yield
        finally:
            self._posts -= 1

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
        until = time.monotonic() + GATHER_SECONDS
        jobs: list[_Job] = []
        while job is not None:
            if job.prepare is not None:
                with suppress(Exception):  # the operation meets it again, and its caller hears of it
                    job.prepare()
            jobs.append(job)
            if len(jobs) == MAX_TOGETHER:
                return jobs, False
            left = until - time.monotonic() if self._posts > self._inside else 0.0
            try:
                job = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except Empty:
                return jobs, False
        return jobs, True

    def _run_jobs(self, jobs: list[_Job]) -> None:
        events: Sequence[Event] = ()
        try:
            events = self._transaction(jobs)
        except Exception as error:  # the thread has to live, and every caller has to get an answer
            if len(jobs) > 1:
                # one of them may not fit on the disk: each stands for itself
                for job in jobs:
                    self._run_jobs([job])
                return
            jobs[0].error = self._refusal(error)
        self._loop.call_soon_threadsafe(self._deliver, jobs, self._snapshot, events)

    def _transaction(self, jobs: list[_Job]) -> Sequence[Event]:
        try:
            self._db.begin()
            t = Transaction(self._db, self._snapshot, self._limits)
            for job in jobs:
                self._run_one(t, job)
            t.write_counts()
            snapshot = t.after()
            self._db.commit(t.events)
        except BaseException:
            self._db.rollback()
            raise
        self.commits += 1
        self._snapshot = snapshot
        return t.events

    def _run_one(self, t: Transaction, job: _Job) -> None:
        job.outcome, job.error = None, None
        try:
            job.outcome = job.operation(t)
        except Refusal as error:  # the operation has changed nothing then
            job.error = error

    def _refusal(self, error: Exception) -> Exception:
        if isinstance(error, self._db.errors):
            return self._db.refusal(error)
        log.error("store_failed", error=f"{type(error).__name__}: {error}")
        return error

    def _deliver(self, jobs: list[_Job], snapshot: Snapshot, events: Sequence[Event]) -> None:
        self._inside, self._bytes = self._inside - len(jobs), self._bytes - sum(job.bytes for job in jobs)
        self._publish(snapshot, events)
        for job in jobs:
            if job.answer.cancelled():
                continue
            if job.error is not None:
                job.answer.set_exception(job.error)
            else:
                job.answer.set_result(job.outcome)

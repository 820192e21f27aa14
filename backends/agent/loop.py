"""The agent's event loop: descriptors, deadlines, replies, and the end of processes that belong to nobody."""

from __future__ import annotations

import os
import time
from select import POLLIN, POLLOUT, poll

from backends.agent.frames import pack
from backends.agent.nannies import Command, Nanny, order_for
from backends.agent.processes import Setup, Suppressed, kill, orphans, strays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

READ, WRITE = POLLIN, POLLOUT
PARKED = 4
"""How many nannies are kept while they have nothing to do."""
PURGE_SECONDS = 5.0
PURGE_PAUSE_SECONDS = 0.0002
QUICK_LOOKS = 20
LONGEST_WAIT_SECONDS = 3600.0  # the system call takes no more than some weeks


class Refused(Exception):
    """A request that cannot be carried out. `kind` tells the host which error to raise, `problem` what a path lacks."""

    def __init__(self, kind: str, message: str, problem: str = "other") -> None:
        self.kind, self.problem = kind, problem
        super().__init__(message)


class Running:
    """What the loop knows of a running job: its nanny and when it has to be over."""

    nanny: Nanny
    deadline: float | None = None

    def done(self, status: int) -> None:
        """Its command has ended with that wait status; nothing of it is left."""

    def on_deadline(self) -> None:
        """Its time is over; asked of what has a deadline."""


class Loop:
    """One thread, which no command can block. Jobs stand in `jobs` by their nanny's pid while they run."""

    def __init__(self, link: int, setup: Setup) -> None:
        self._link, self.setup = link, setup
        self.jobs: dict[int, Running] = {}
        self._nannies: dict[int, Nanny] = {}
        self._parked: list[Nanny] = []
        self._wants_another = True
        self._statuses: dict[int, int] = {}
        self._poll = poll()  # not epoll, of which a command can use up what the user of both may have
        self._watched: dict[int, tuple[int, Callable[[], object]]] = {}

    def run(self) -> None:
        """Serve for ever; `end` leaves."""
        while True:
            if self._wants_another and not self._nannies:
                self._wants_another = False  # or else one that cannot live would be made again and again
                with Suppressed(OSError):
                    self._parked.append(self._hire())
            ready = [(fd, self._watched.get(fd)) for fd, _ in self._poll.poll(self._milliseconds_to_deadline())]
            for fd, watch in ready:
                # an earlier callback of this round may have closed or changed it
                if watch is not None and self._watched.get(fd) is watch:
                    watch[1]()
            now = time.monotonic()
            for job in list(self.jobs.values()):
                if job.deadline is not None and job.deadline <= now and self.jobs.get(job.nanny.pid) is job:
                    job.on_deadline()

    @property
    def parked(self) -> int:
        """How many nannies wait for a command."""
        return len(self._parked)

    def watch(self, fd: int, callback: Callable[[], object], events: int = READ) -> None:
        """Call back when the descriptor is ready, every time until `unwatch`."""
        if fd not in self._watched:
            self._poll.register(fd, events)
        elif self._watched[fd][0] != events:
            self._poll.modify(fd, events)
        self._watched[fd] = (events, callback)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; one that is at its end must be forgotten, or the loop spins."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def reply(self, request: int, header: dict[str, object], body: bytes = b"") -> None:
        """Answer a request."""
        header = {"id": request, **header}
        frame = memoryview(pack(header, len(body)) + body)
        while frame:
            frame = frame[os.write(self._link, frame) :]

    def refuse(self, request: int, refusal: Refused) -> None:
        """Answer that a request cannot be carried out."""
        problem = {"problem": refusal.problem} if refusal.kind == "path" else {}
        message = str(refusal)[:2000].encode("utf-8", "backslashreplace").decode()  # a path may hold half a character
        self.reply(request, {"error": refusal.kind, "message": message, **problem})

    def employ(self, job: Running, command: Command, streams: Sequence[int]) -> None:
        """Have a nanny run the job's command with these streams. Raises OSError when no process can be made."""
        order = order_for(self.setup, command)
        nanny = self._parked.pop() if self._parked else None
        if nanny is not None and not nanny.run(order, streams):
            self._dismiss(nanny)
            nanny = None
        job.nanny = nanny or self._hire(order, streams)
        self.jobs[job.nanny.pid] = job
        self._wants_another = True

    def kill(self, job: Running) -> None:
        """Kill a job's nanny, if it lives, and all that it or its command started."""
        del self.jobs[job.nanny.pid]
        status = self._dismiss(job.nanny)
        self.purge()
        job.done(status)

    def purge(self) -> None:
        """Kill and reap whatever belongs to no job. Ends the agent, and so the sandbox, if something will not die."""
        started, looks = time.monotonic(), 0
        while self._strays_after_reaping():
            waited, looks = time.monotonic() - started, looks + 1
            if self.setup.isolated and (not self.jobs or waited > PURGE_SECONDS / 2):
                # one system call that no fork slips through; against a fork bomb it is worth the other jobs
                kill(-1)
                while self._parked:  # they die of it too, and one that is not dead yet would still take a command
                    self._dismiss(self._parked.pop())
            else:
                # one that forks and ends, again and again, is caught only by who looks and strikes faster than it does
                found = orphans(self._nannies) if looks % QUICK_LOOKS else None
                for pid in strays(os.getpid(), self._nannies) if found is None else found:
                    kill(pid)
            if waited > PURGE_SECONDS:
                os._exit(3)
            if not looks % QUICK_LOOKS:
                time.sleep(PURGE_PAUSE_SECONDS)

    def end(self) -> NoReturn:
        """The host is gone or has let go: take everything along. What is isolated ends with its first process."""
        if not self.setup.isolated:
            for pid in self._nannies.keys() - self._statuses:
                kill(pid)
            self._nannies.clear()
            self.jobs.clear()
            self.purge()
        os._exit(0)

    def _hire(self, order: bytes = b"", streams: Sequence[int] = ()) -> Nanny:
        nanny = Nanny(self.setup, order, streams)
        self._nannies[nanny.pid] = nanny
        self.watch(nanny.fd, lambda: self._on_answer(nanny))
        return nanny

    def _dismiss(self, nanny: Nanny) -> int:
        """Kill a nanny, if it lives, and reap it; returns its wait status."""
        self.unwatch(nanny.fd)
        nanny.close()
        status = self._statuses.pop(nanny.pid, None)
        if status is None:
            kill(nanny.pid)
            status = os.waitpid(nanny.pid, 0)[1]
        del self._nannies[nanny.pid]
        return status

    def _on_answer(self, nanny: Nanny) -> None:
        status, job = nanny.answer(), self.jobs.get(nanny.pid)
        if job is None:
            self._parked.remove(nanny)
            self._dismiss(nanny)
        elif status is None:
            self.kill(job)
        else:
            self._release(nanny)
            job.done(status)

    def _release(self, nanny: Nanny) -> None:
        del self.jobs[nanny.pid]
        if len(self._parked) < PARKED:
            self._parked.append(nanny)
        else:
            self._dismiss(nanny)

    def _strays_after_reaping(self) -> bool:
        """Whether children are left that belong to no job, after collecting those that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return not self._nannies or orphans(self._nannies) != []
            if pid in self._nannies:
                self._statuses[pid] = status

    def _milliseconds_to_deadline(self) -> float | None:
        deadlines = [job.deadline for job in self.jobs.values() if job.deadline is not None]
        if not deadlines:
            return None
        return 1e3 * min(max(0.0, min(deadlines) - time.monotonic()), LONGEST_WAIT_SECONDS)

"""The two kinds of job: a command that is run to its end, and a program that is spoken to."""

from __future__ import annotations

import os
import time

from backends.agent.loop import WRITE, Loop, Refused, Running
from backends.agent.nannies import Command
from backends.agent.processes import NOTHING
from backends.agent.usage import remove_shared_memory

CHUNK = 1 << 16
STDERR_TAIL = 4096
KILLED = (9, 137 << 8)
"""Wait statuses of what was killed by SIGKILL, and of a shell that says so of its child."""


class Capture:
    """The head and the tail of a stream; what lies between is dropped."""

    def __init__(self, head_bytes: int, tail_bytes: int) -> None:
        self._head_bytes, self._tail_bytes = head_bytes, tail_bytes
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        """Take more of the stream."""
        self.total += len(data)
        room = max(0, self._head_bytes - len(self._head))
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._tail_bytes + CHUNK:
            self._trim()

    def kept(self) -> bytes:
        """What is kept, at most head_bytes + tail_bytes."""
        self._trim()
        return bytes(self._head + self._tail)

    @property
    def dropped(self) -> bool:
        """Whether less than all is kept."""
        return self.total > self._head_bytes + self._tail_bytes

    def _trim(self) -> None:
        excess = len(self._tail) - self._tail_bytes
        if excess > 0:
            del self._tail[:excess]


class Job(Running):
    """A running command, its pipes, and those that `more` adds: the command's ends, from 3 on.

    One that `listens` has a pipe as its standard input, another has /dev/null.
    """

    def __init__(self, loop: Loop, command: Command, more: tuple[int, ...] = (), *, listens: bool = True) -> None:
        self.loop = loop
        self.started = time.monotonic()
        pipes = open_pipes(3 if listens else 2, more)
        (self.stdout, stdout), (self.stderr, stderr) = pipes[:2]
        stdin, self.stdin = pipes[2] if listens else (NOTHING, None)
        theirs, ours = [stdout, stderr, *more], [self.stdout, self.stderr]
        if self.stdin is not None:
            theirs, ours = [stdin, *theirs], [self.stdin, *ours]
        try:
            loop.employ(self, command, [stdin, stdout, stderr, *more])
        except OSError as error:
            for fd in ours:
                os.close(fd)
            raise Refused("start", f"cannot start a process: {error.strerror}") from error
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in ours:
            os.set_blocking(fd, False)
        self.status: int | None = None
        self._unsent = memoryview(b"")
        self._sender: int | None = None

    def done(self, status: int) -> None:
        """See Running."""
        self.status = status
        if status in KILLED and not self.loop.jobs and self.loop.setup.isolated:
            # it outlives whom it belonged to; where that one was killed for its memory, this would kill the next one too
            remove_shared_memory()
        self.ended()

    def kill(self) -> None:
        """Kill it, unless it is over."""
        if self.status is None:
            self.loop.kill(self)

    def ended(self) -> None:
        """The command is over and its processes are gone: nobody is told, unless a kind of job says whom."""

    def on_deadline(self) -> None:
        """Its time is over."""
        self.kill()

    def feed(self, data: bytes, request: int | None = None) -> None:
        """Write to standard input as the pipe takes it, then answer `request`; without one, close the pipe."""
        if self.stdin is None:
            raise Refused("closed", "the program reads no more")
        if self._unsent:
            raise Refused("busy", "an earlier send is not finished")
        self._unsent, self._sender = memoryview(data), request
        self.loop.watch(self.stdin, self._on_writable, WRITE)

    def close_stdin(self) -> None:
        """Close the pipe; who still waits for it is told."""
        if self.stdin is not None:
            self.close(self.stdin)
            self.stdin = None
        if self._unsent:
            self._fed("the program reads no more")

    def close(self, fd: int) -> None:
        """Forget and close one of the job's descriptors."""
        self.loop.unwatch(fd)
        os.close(fd)

    def take(self, fd: int, capture: Capture) -> bool:
        """Read what is there now. True while there may be more."""
        data = read_some(fd)
        if data:
            capture.add(data)
        elif data is not None:
            self.loop.unwatch(fd)
        return bool(data)

    def _on_writable(self) -> None:
        assert self.stdin is not None  # a closed pipe is not watched
        try:
            self._unsent = self._unsent[os.write(self.stdin, self._unsent[:CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:
            self.close_stdin()
            return
        if not self._unsent:
            self.loop.unwatch(self.stdin)
            self._fed(None)

    def _fed(self, problem: str | None) -> None:
        request, self._sender, self._unsent = self._sender, None, memoryview(b"")
        if request is None:
            self.close_stdin()
        elif problem is None:
            self.loop.reply(request, {})
        else:
            self.loop.refuse(request, Refused("closed", problem))


class Output:
    """What a command writes to its two streams, each up to a cap, and how a reply tells it."""

    def __init__(self, job: Job, cap: int) -> None:
        self._job = job
        self._captures = {fd: Capture(cap - cap // 2, cap // 2) for fd in (job.stdout, job.stderr)}
        for fd, capture in self._captures.items():
            job.loop.watch(fd, lambda fd=fd, capture=capture: job.take(fd, capture))

    def drain(self) -> None:
        """Take what is there now; a program elsewhere may hold a pipe open, so its end is not waited for."""
        for fd, capture in self._captures.items():
            while self._job.take(fd, capture):
                pass

    def told(self, status: int | None, *, timed_out: bool) -> tuple[dict[str, object], bytes]:
        """Header and body of a reply. `status` is a wait status, None for a session that goes on."""
        stdout, stderr = self._captures.values()
        kept = stdout.kept()
        killed = status is not None and os.WIFSIGNALED(status)
        header: dict[str, object] = {
            "exit_code": None if timed_out or killed or status is None else os.WEXITSTATUS(status),
            "signal": os.WTERMSIG(status) if status is not None and killed and not timed_out else None,
            "timed_out": timed_out,
            "truncated": stdout.dropped or stderr.dropped,
            "stdout_bytes": len(kept),
            "stdout_total": stdout.total,
            "stderr_total": stderr.total,
        }
        return header, kept + stderr.kept()


class ExecJob(Job):
    """One command run to its end; its output is kept up to a cap."""

    def __init__(self, loop: Loop, request: dict, stdin: bytes) -> None:
        super().__init__(loop, Command(request["argv"], request["cwd"], request["env"]), listens=bool(stdin))
        self.request: int = request["id"]
        self.deadline = self.started + request["timeout"]
        self._timed_out = False
        self._output = Output(self, request["max_output"])
        if stdin:
            self.feed(stdin)

    def on_deadline(self) -> None:
        """The time is up."""
        self._timed_out = True
        self.kill()

    def ended(self) -> None:
        """Answer with what the command left in its pipes."""
        self.close_stdin()
        self._output.drain()
        self.close(self.stdout)
        self.close(self.stderr)
        header, body = self._output.told(self.status, timed_out=self._timed_out)
        self.loop.reply(self.request, {**header, "seconds": time.monotonic() - self.started}, body)


class SpawnJob(Job):
    """A long-lived program. Its standard output is read only when the host asks, so the pipe holds it back."""

    def __init__(self, loop: Loop, request: dict) -> None:
        super().__init__(loop, Command(request["argv"], request["cwd"], request["env"]))
        self._receiver: int | None = None
        self._errors = Capture(0, STDERR_TAIL)
        loop.watch(self.stderr, self._on_errors)

    def receive(self, request: int) -> None:
        """Answer `request` with the next bytes of standard output; none at its end, and once the program is over."""
        if self._receiver is not None:
            raise Refused("busy", "an earlier receive is not finished")
        self._receiver = request
        if self.status is None:
            self.loop.watch(self.stdout, self._on_output)
        else:
            self._on_output()

    def ended(self) -> None:
        """Answer those who wait."""
        self.close_stdin()
        if self._receiver is not None:
            self._on_output()

    def dispose(self) -> str:
        """Kill it and close everything; returns the end of its standard error."""
        self.kill()
        tail = self._tail()
        self.close(self.stdout)
        self.close(self.stderr)
        return tail

    def _on_output(self) -> None:
        data = read_some(self.stdout)
        if (data is None and self.status is None) or self._receiver is None:
            return
        self.loop.unwatch(self.stdout)
        request, self._receiver = self._receiver, None
        self.loop.reply(request, {"stderr": self._tail()}, data or b"")

    def _on_errors(self) -> bool:
        return self.take(self.stderr, self._errors)

    def _tail(self) -> str:
        while self._on_errors():
            pass
        return self._errors.kept().decode("utf-8", "replace")


def open_pipes(count: int, others: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """That many pipes. Where one cannot be made, none is left and `others` are closed too. Raises Refused."""
    pipes: list[tuple[int, int]] = []
    try:
        for _ in range(count):
            pipes.append(os.pipe())
    except OSError as error:
        for fd in (*others, *(end for pipe in pipes for end in pipe)):
            os.close(fd)
        raise Refused("start", f"cannot make a pipe: {error.strerror}") from error
    return pipes


def read_some(fd: int) -> bytes | None:
    """Up to 64 KiB: b"" at the end of the stream, None when nothing is there now."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""

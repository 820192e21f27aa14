"""Imports NAT once and forks a child for each evaluation. Start with `python -I fork_server.py` in an empty directory.

Speaks frames (see frames.py) on its standard streams. It relays what host and children say to each other without
reading it, in memory that no child inherits, kills children at their limits, and says how each one ended. No code of
an agent runs in this process.
"""

import contextlib
import importlib.util
import json
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path

# -I keeps this directory off sys.path, and its neighbours' names must not shadow installed modules: so by hand.
_spec = importlib.util.spec_from_file_location("runtime", Path(__file__).resolve().with_name("__init__.py"))
sys.modules["runtime"] = importlib.util.module_from_spec(_spec)

from runtime import accounts, isolation  # noqa: E402
from runtime.buffers import Buffer  # noqa: E402
from runtime.frames import INNER, MAX_FRAME, OUTER  # noqa: E402

ENVIRON = {
    "NAT_TELEMETRY_ENABLED": "false",
    "PYTHONWARNINGS": "ignore",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "LANGSMITH_TRACING": "false",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}
MAX_CHILD_BYTES = 16 << 20
HOST_BUFFER = 4 << 20
WATCH_SECONDS = 0.25
WEIGH_SECONDS = 1.0  # to weigh a crowd of processes takes a good part of this
STDIN, STDOUT = 0, 1


class Child:
    """One evaluation, as the server sees it: a process, a socket, a deadline and what is waiting to be sent."""

    def __init__(self, order: dict, pid: int, sock: socket.socket) -> None:
        self.channel, self.pid, self.sock = order["channel"], pid, sock
        self.pidfd = os.pidfd_open(pid)
        self.reason = ""
        """Why it was ended."""
        self.deadline = time.monotonic() + order["wall_seconds"]
        self.cpu_seconds, self.memory_mib = order["cpu_seconds"], order["memory_mib"]
        self.inbox = Buffer(INNER.size + MAX_FRAME)
        self.outbox: deque[Buffer] = deque()
        """Frames that were not sent whole yet."""
        self.received = 0

    def close(self) -> None:
        """Hang up and forget what was said."""
        self.sock.close()
        for buffer in (self.inbox, *self.outbox):
            buffer.close()


class Server:
    """A loop over standard input, the children's sockets and their deadlines."""

    def __init__(self, workspace: str, live: Callable[[socket.socket], None]) -> None:
        self.workspace, self.live = workspace, live
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, Child] = {}
        self.inbox, self.outbox = Buffer(HOST_BUFFER), Buffer(HOST_BUFFER)
        self.frame, self.frame_left, self.frame_to = Buffer(INNER.size), 0, 0
        """What came so far of a frame for a child, how many bytes are still to come, and the child's channel."""
        self.namespaces = isolation.PidNamespaces()
        self.accountable = accounts.readable()
        self.next_watch = self.next_weighing = 0.0

    def serve(self, hello: dict) -> None:
        """Answer until standard input ends."""
        os.set_blocking(STDIN, False)
        os.set_blocking(STDOUT, False)
        self.selector.register(STDIN, selectors.EVENT_READ, None)
        self.say({"hello": hello})
        while True:
            self._flush()
            for key, events in self.selector.select(self._next_deadline()):
                if key.fd == STDOUT:
                    self._flush()
                elif key.fd == STDIN:
                    if not self._read_host():
                        return
                elif key.fd == key.data.pidfd:
                    self._reap(key.data)
                else:
                    self._serve_child(key.data, events)
            self._kill_the_late()
            self._kill_the_greedy()

    def say(self, message: dict) -> None:
        self._put(0, json.dumps(message).encode())

    def _put(self, channel: int, body: bytes | memoryview) -> None:
        while self.outbox.room < OUTER.size + len(body):  # the host reads all the time
            select.select([], [STDOUT], [])
            self._flush()
        self.outbox.put(OUTER.pack(len(body), channel))
        self.outbox.put(body)

    def _flush(self) -> None:
        if self.outbox:
            with contextlib.suppress(BlockingIOError):
                self.outbox.drop(os.write(STDOUT, self.outbox.head()))
        waiting = STDOUT in self.selector.get_map()
        if self.outbox and not waiting:
            self.selector.register(STDOUT, selectors.EVENT_WRITE, None)
        elif not self.outbox and waiting:
            self.selector.unregister(STDOUT)

    def _read_host(self) -> bool:
        count = self.inbox.fill(lambda room: os.readv(STDIN, [room]))
        while self._relay() if self.frame_left else self._take_order():
            pass
        return count > 0

    def _take_order(self) -> bool:
        """Carry out an order, or begin to relay a frame; False where more has to come first."""
        if len(self.inbox) < OUTER.size:
            return False
        length, channel = OUTER.unpack_from(self.inbox.head(OUTER.size))
        if channel == 0:
            if len(self.inbox) < OUTER.size + length:
                return False
            order = json.loads(bytes(self.inbox.head(OUTER.size + length)[OUTER.size :]))
            self.inbox.drop(OUTER.size + length)
            self._obey(order)
            return True
        self.inbox.drop(OUTER.size)
        self.frame, self.frame_left, self.frame_to = Buffer(INNER.size + length), length, channel
        self.frame.put(INNER.pack(length))
        return True

    def _relay(self) -> bool:
        """Pass on what is there of a frame; False where more has to come first."""
        part = self.inbox.head(self.frame_left)
        count = len(part)
        self.frame.put(part)
        self.inbox.drop(count)
        self.frame_left -= count
        if self.frame_left == 0 and self.frame_to in self.children:
            child = self.children[self.frame_to]
            child.outbox.append(self.frame)
            self._send_to(child)
        return count > 0

    def _obey(self, order: dict) -> None:
        if order["do"] == "fork":
            self._fork(order)
        elif order["channel"] in self.children:
            self._end(self.children[order["channel"]], "killed")

    def _fork(self, order: dict) -> None:
        ours, theirs = socket.socketpair()
        try:
            pid = self.namespaces.fork()
        except OSError as error:  # no process can be made: nobody's code is to blame
            ours.close()
            theirs.close()
            self.say({"ended": order["channel"], "reason": f"cannot fork: {error.strerror}", "refused": True, "cpu_seconds": 0})
            return
        if pid == 0:
            ours.close()
            self._become_child(theirs, order)
        theirs.close()
        ours.setblocking(False)
        child = Child(order, pid, ours)
        if not self.children:
            self.next_watch = time.monotonic() + WATCH_SECONDS
        self.children[child.channel] = child
        self.selector.register(ours, selectors.EVENT_READ, child)

    def _become_child(self, sock: socket.socket, order: dict) -> None:
        """The child's whole life. Never returns."""
        status = 1
        try:
            os.setsid()
            close_inherited(sock)
            isolation.prctl(isolation.PR_SET_PDEATHSIG, isolation.SIGKILL)
            walls = isolation.enter(self.workspace, first_process=self.namespaces.works)
            workspace = Path(self.workspace)
            if "workspace" not in walls:
                workspace = workspace / str(order["channel"])
                workspace.mkdir(mode=0o700)
            os.chdir(workspace)  # also where the path is the same: a fresh tmpfs lies over it
            isolation.limit_resources(order["cpu_seconds"], order["memory_mib"])
            self.live(sock)
            status = 0
        finally:
            os._exit(status)

    def _serve_child(self, child: Child, events: int) -> None:
        if events & selectors.EVENT_WRITE and child.channel in self.children:
            self._send_to(child)
        if events & selectors.EVENT_READ and child.channel in self.children:
            try:
                count = child.inbox.fill(child.sock.recv_into)
            except BlockingIOError:
                return
            except OSError:
                count = 0
            child.received += count
            if not count:
                self._end(child, "ended")
            else:
                self._child_frames(child)

    def _child_frames(self, child: Child) -> None:
        while len(child.inbox) >= INNER.size:
            (length,) = INNER.unpack_from(child.inbox.head(INNER.size))
            if length > MAX_FRAME or child.received > MAX_CHILD_BYTES:
                self._end(child, "said too much")
                return
            end = INNER.size + length
            if len(child.inbox) < end:
                return
            self._put(child.channel, child.inbox.head(end)[INNER.size :])
            child.inbox.drop(end)

    def _send_to(self, child: Child) -> None:
        try:
            while child.outbox:
                frame = child.outbox[0]
                frame.drop(child.sock.send(frame.head()))
                if not frame:
                    child.outbox.popleft().close()
        except BlockingIOError:
            pass
        except OSError:
            self._end(child, "ended")
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.outbox else 0)
        self.selector.modify(child.sock, events, child)

    def _next_deadline(self) -> float | None:
        if not self.children:
            return None
        deadline = min(child.deadline for child in self.children.values())
        return max(0.0, min(deadline, self.next_watch if self.accountable else deadline) - time.monotonic())

    def _kill_the_late(self) -> None:
        now = time.monotonic()
        for child in [child for child in self.children.values() if child.deadline <= now]:
            self._end(child, "wall clock limit")

    def _kill_the_greedy(self) -> None:
        """End evaluations whose processes use more together than one of them may."""
        if not self.accountable or not self.children or time.monotonic() < self.next_watch:
            return
        weigh = time.monotonic() >= self.next_weighing
        usages = accounts.usage_of([child.pid for child in self.children.values()])
        for child in list(self.children.values()):
            usage = usages[child.pid]
            if usage.cpu_seconds > child.cpu_seconds:
                self._end(child, "cpu limit")
            elif weigh and usage.resident_mib > child.memory_mib:
                self.next_weighing = time.monotonic() + WEIGH_SECONDS
                if accounts.proportional_mib(usage.pids) > child.memory_mib:
                    self._end(child, "memory limit")
        self.next_watch = time.monotonic() + WATCH_SECONDS

    def _end(self, child: Child, reason: str) -> None:
        """Kill a child and all that it started. To take down a crowd takes a while, in which others are served."""
        del self.children[child.channel]
        self.selector.unregister(child.sock)
        child.close()
        # A hang-up is not an end yet: agent code may have closed the socket and live on.
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(child.pid, signal.SIGKILL)
        child.reason = reason
        self.selector.register(child.pidfd, selectors.EVENT_READ, child)

    def _reap(self, child: Child) -> None:
        """Say how a child ended and what it cost, now that nothing of it is left."""
        self.selector.unregister(child.pidfd)
        os.close(child.pidfd)
        _, status, usage = os.wait4(child.pid, 0)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        memory_mib = accounts.resident_mib()
        self.say(
            {
                "ended": child.channel,
                "reason": child.reason,
                "status": status,
                "cpu_seconds": cpu_seconds,
                "memory_mib": memory_mib,
            }
        )


def close_inherited(sock: socket.socket) -> None:
    """Leave no descriptor but the child's own channel; the standard streams lead nowhere."""
    nowhere = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    channel = sock.fileno()
    os.closerange(3, channel)
    os.closerange(channel + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def probe_walls(namespaces: isolation.PidNamespaces, workspace: str) -> list[str]:
    """Which walls this machine lets a child have, found by raising them in one."""
    reader, writer = os.pipe()
    pid = namespaces.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(isolation.enter(workspace, first_process=namespaces.works)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(answer) if answer else []


def become_first_process() -> None:
    """Fork into a pid namespace of our own, the parent staying only to pass on how it ended."""
    isolation.own_namespace()
    pid = os.fork()
    if pid:
        signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGKILL))
        os.close(STDIN)
        os.close(STDOUT)
        _, status = os.waitpid(pid, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    isolation.prctl(isolation.PR_SET_PDEATHSIG, isolation.SIGKILL)
    isolation.own_proc()


def main() -> None:
    os.environ.clear()
    os.environ.update(ENVIRON, PATH=os.defpath)
    become_first_process()
    isolation.prctl(isolation.PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    from runtime import preload

    version = preload.import_nat()
    from runtime.child import live
    from runtime.suite import Suite

    suite = Suite(Path.cwd())
    server = Server(str(Path.cwd()), lambda sock: live(sock, suite))
    walls = probe_walls(server.namespaces, server.workspace)
    preload.settle()
    if server.accountable:
        walls.append("budget")
    missing = [name for name in isolation.WALLS if name not in walls]
    server.serve({"nat_version": version, "walls": walls, "missing": missing, "memory_mib": accounts.resident_mib()})


if __name__ == "__main__":
    main()

"""Relays what the host and the children of a template say to each other. Start with `python -I fork_server.py` in an
empty directory.

Speaks frames (see frames.py) on its standard streams, and reads none that are for a child. It kills children at their
limits and says how each one ended. It imports no NAT and forks nothing but the template (template.py), before it has
heard anything: what it relays is in no other process. No code of an agent runs in here.
"""

import contextlib
import importlib.util
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path

# -I keeps this directory off sys.path, and its neighbours' names must not shadow installed modules: so by hand.
_spec = importlib.util.spec_from_file_location("runtime", Path(__file__).resolve().with_name("__init__.py"))
sys.modules["runtime"] = importlib.util.module_from_spec(_spec)

from runtime import accounts, isolation  # noqa: E402
from runtime.frames import INNER, MAX_FRAME, OUTER  # noqa: E402
from runtime.patience import LONGEST, Patience  # noqa: E402
from runtime.template import Template, TemplateLost  # noqa: E402

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
READ_BYTES = 1 << 18
WATCH_SECONDS = 0.25
WEIGH_SECONDS = 1.0  # to weigh a crowd of processes takes a good part of this
STDIN, STDOUT = 0, 1


class Child:
    """One evaluation, as the server sees it: a process, a socket, limits and what is waiting to be sent."""

    def __init__(self, order: dict, pid: int, sock: socket.socket) -> None:
        self.channel, self.pid, self.sock = order["channel"], pid, sock
        self.pidfd = os.pidfd_open(pid)
        self.reason, self.blameless = "", False
        """Why it was ended, and whether that says nothing about the code that it ran."""
        self.patience, self.wall_seconds = Patience(order["wall_seconds"]), order["wall_seconds"]
        self.cpu_seconds, self.memory_mib = order["cpu_seconds"], order["memory_mib"]
        self.inbox, self.received = bytearray(), 0
        self.outbox: deque[memoryview] = deque()
        """Frames that were not sent whole yet. The next one is begun when the one before was answered."""
        self.sending = False
        """Whether a part of the first one was sent."""
        self.answers = bytearray()
        """What it said while it has more to answer: the host hears of a series at its end."""


class Server:
    """A loop over standard input, the children's sockets and their deadlines."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, Child] = {}
        self.inbox, self.outbox = bytearray(), bytearray()
        self.accountable = accounts.readable()
        self.next_watch = self.next_weighing = 0.0

    def serve(self, hello: dict) -> None:
        """Answer until standard input ends. Raises TemplateLost."""
        os.set_blocking(STDIN, False)
        os.set_blocking(STDOUT, False)
        self.selector.register(STDIN, selectors.EVENT_READ, None)
        self._say({"hello": hello})
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

    def _say(self, message: dict) -> None:
        body = json.dumps(message).encode()
        self._put(OUTER.pack(len(body), 0) + body)

    def _put(self, frames: bytes | bytearray) -> None:
        while self.outbox and len(self.outbox) + len(frames) > HOST_BUFFER:  # the host reads all the time
            select.select([], [STDOUT], [])
            self._flush()
        self.outbox += frames

    def _flush(self) -> None:
        if self.outbox:
            with contextlib.suppress(BlockingIOError):
                del self.outbox[: os.write(STDOUT, self.outbox)]
        waiting = STDOUT in self.selector.get_map()
        if self.outbox and not waiting:
            self.selector.register(STDOUT, selectors.EVENT_WRITE, None)
        elif not self.outbox and waiting:
            self.selector.unregister(STDOUT)

    def _read_host(self) -> bool:
        data = os.read(STDIN, READ_BYTES)
        self.inbox += data
        while len(self.inbox) >= OUTER.size:
            length, channel = OUTER.unpack_from(self.inbox)
            end = OUTER.size + length
            if len(self.inbox) < end:
                break
            body = bytes(self.inbox[OUTER.size : end])
            del self.inbox[:end]
            if channel == 0:
                self._obey(json.loads(body))
            elif channel in self.children:
                child = self.children[channel]
                child.outbox.append(memoryview(INNER.pack(length) + body))
                self._send_to(child)
        return bool(data)

    def _obey(self, order: dict) -> None:
        if order["do"] == "fork":
            self._fork(order)
        elif order["channel"] in self.children:
            self._end(self.children[order["channel"]], "killed")

    def _fork(self, order: dict) -> None:
        ours, theirs = socket.socketpair()
        made = self.template.fork(order, theirs)
        theirs.close()
        if "error" in made:
            ours.close()
            reason = f"cannot fork: {made['error']}"
            self._say({"ended": order["channel"], "reason": reason, "blameless": True, "cpu_seconds": 0})
            return
        ours.setblocking(False)
        child = Child(order, made["pid"], ours)
        if not self.children:
            self.next_watch = time.monotonic() + WATCH_SECONDS
        self.children[child.channel] = child
        self.selector.register(ours, selectors.EVENT_READ, child)

    def _serve_child(self, child: Child, events: int) -> None:
        if events & selectors.EVENT_WRITE and child.channel in self.children:
            self._send_to(child)
        if events & selectors.EVENT_READ and child.channel in self.children:
            try:
                data = child.sock.recv(READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end(child, "ended")
                return
            child.inbox += data
            child.received += len(data)
            self._child_frames(child)

    def _child_frames(self, child: Child) -> None:
        while len(child.inbox) >= INNER.size:
            (length,) = INNER.unpack_from(child.inbox)
            if length > MAX_FRAME or child.received > MAX_CHILD_BYTES:
                self._end(child, "said too much")
                return
            if not child.patience.asked:
                self._end(child, "said more than it was asked")
                return
            end = INNER.size + length
            if len(child.inbox) < end:
                return
            child.answers += OUTER.pack(length, child.channel) + child.inbox[INNER.size : end]
            del child.inbox[:end]
            child.patience.answered(time.monotonic())
            self._pass_on(child)
            if child.outbox:
                self._send_to(child)
                if child.channel not in self.children:
                    return

    def _pass_on(self, child: Child, *, all_of_it: bool = False) -> None:
        if child.answers and (all_of_it or not child.outbox):
            self._put(child.answers)
            child.answers = bytearray()

    def _send_to(self, child: Child) -> None:
        sending = child.sending
        try:
            while child.outbox and (child.sending or not child.patience.asked):
                if not child.sending:
                    child.sending = True
                    child.patience.ask(time.monotonic())
                child.outbox[0] = child.outbox[0][child.sock.send(child.outbox[0]) :]
                if not child.outbox[0]:
                    child.outbox.popleft()
                    child.sending = False
        except BlockingIOError:
            pass
        except OSError:
            self._end(child, "ended")
            return
        if sending != child.sending:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.sending else 0)
            self.selector.modify(child.sock, events, child)

    def _next_deadline(self) -> float | None:
        if not self.children:
            return None
        deadline = min(child.patience.deadline for child in self.children.values())
        deadline = min(deadline, self.next_watch) if self.accountable else deadline
        return None if deadline == float("inf") else max(0.0, deadline - time.monotonic())

    def _kill_the_late(self) -> None:
        now = time.monotonic()
        for child in [child for child in self.children.values() if child.patience.deadline <= now]:
            waited = accounts.waited_seconds(accounts.usage_of([child.pid])[child.pid].pids) if self.accountable else 0.0
            match child.patience.verdict(now, waited):
                case "late":
                    self._end(child, "wall clock limit")
                case "starved":
                    child.blameless = True
                    self._end(child, f"got no processor for a child in {LONGEST * child.wall_seconds:.0f} s")

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
        self._pass_on(child, all_of_it=True)
        self.selector.unregister(child.sock)
        child.sock.close()
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
        facts = self.template.reap(child.pid)
        self._say({"ended": child.channel, "reason": child.reason, "blameless": child.blameless, **facts})


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
    with contextlib.suppress(TemplateLost):  # it wrote why
        server = Server(Template(str(Path.cwd())))
        walls = [*server.template.hello["walls"], *(["budget"] if server.accountable else [])]
        missing = [name for name in isolation.WALLS if name not in walls]
        server.serve({**server.template.hello, "walls": walls, "missing": missing})


if __name__ == "__main__":
    main()

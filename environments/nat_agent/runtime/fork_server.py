"""Imports NAT once and forks a child for each evaluation. Start with `python -I fork_server.py` in an empty directory.

Speaks frames (see frames.py) on its standard streams. It relays what host and children say to each other without
reading it, kills children at their limits, and says how each one ended. No code of an agent runs in this process.
"""

import contextlib
import importlib.util
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

# -I keeps this directory off sys.path, and its neighbours' names must not shadow installed modules: so by hand.
_spec = importlib.util.spec_from_file_location("runtime", Path(__file__).resolve().with_name("__init__.py"))
sys.modules["runtime"] = importlib.util.module_from_spec(_spec)

from runtime import isolation  # noqa: E402
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
READ_SIZE = 1 << 16
STDIN, STDOUT = 0, 1


class Child:
    """One evaluation, as the server sees it: a process, a socket, a deadline and what is waiting to be sent."""

    def __init__(self, channel: int, pid: int, sock: socket.socket, deadline: float) -> None:
        self.channel, self.pid, self.sock, self.deadline = channel, pid, sock, deadline
        self.inbox, self.outbox = bytearray(), bytearray()
        self.received = 0
        self.reason = ""


class Server:
    """A loop over standard input, the children's sockets and their deadlines."""

    def __init__(self, workspace: str, live: Callable[[socket.socket], None]) -> None:
        self.workspace, self.live = workspace, live
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, Child] = {}
        self.inbox, self.outbox = bytearray(), bytearray()
        self.namespaces = isolation.PidNamespaces()

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
                else:
                    self._serve_child(key.data, events)
            self._kill_the_late()

    def say(self, message: dict) -> None:
        self._put(0, json.dumps(message).encode())

    def _put(self, channel: int, body: bytes) -> None:
        self.outbox += OUTER.pack(len(body), channel) + body

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
        data = os.read(STDIN, 1 << 20)
        self.inbox += data
        while len(self.inbox) >= OUTER.size:
            length, channel = OUTER.unpack_from(self.inbox)
            end = OUTER.size + length
            if len(self.inbox) < end:
                break
            body = bytes(self.inbox[OUTER.size : end])
            del self.inbox[:end]
            self._host_frame(channel, body)
        return bool(data)

    def _host_frame(self, channel: int, body: bytes) -> None:
        if channel == 0:
            order = json.loads(body)
            if order["do"] == "fork":
                self._fork(order)
            elif order["channel"] in self.children:
                self._end(self.children[order["channel"]], "killed")
        elif channel in self.children:
            child = self.children[channel]
            child.outbox += INNER.pack(len(body)) + body
            self._send_to(child)

    def _fork(self, order: dict) -> None:
        ours, theirs = socket.socketpair()
        pid = self.namespaces.fork()
        if pid == 0:
            ours.close()
            self._become_child(theirs, order)
        theirs.close()
        ours.setblocking(False)
        child = Child(order["channel"], pid, ours, time.monotonic() + order["wall_seconds"])
        self.children[child.channel] = child
        self.selector.register(ours, selectors.EVENT_READ, child)

    def _become_child(self, sock: socket.socket, order: dict) -> None:
        """The child's whole life. Never returns."""
        status = 1
        try:
            os.setsid()
            close_inherited(sock)
            self._forget_the_others()
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

    def _forget_the_others(self) -> None:
        """Overwrite what passed through here on its way to and from other evaluations."""
        for buffer in (self.inbox, self.outbox, *(b for child in self.children.values() for b in (child.inbox, child.outbox))):
            buffer[:] = bytes(len(buffer))
        self.children.clear()

    def _serve_child(self, child: Child, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send_to(child)
        if events & selectors.EVENT_READ and child.channel in self.children:
            try:
                data = child.sock.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end(child, "ended")
            else:
                self._child_bytes(child, data)

    def _child_bytes(self, child: Child, data: bytes) -> None:
        child.inbox += data
        child.received += len(data)
        while len(child.inbox) >= INNER.size:
            (length,) = INNER.unpack_from(child.inbox)
            if length > MAX_FRAME or child.received > MAX_CHILD_BYTES:
                self._end(child, "said too much")
                return
            end = INNER.size + length
            if len(child.inbox) < end:
                return
            self._put(child.channel, bytes(child.inbox[INNER.size : end]))
            del child.inbox[:end]

    def _send_to(self, child: Child) -> None:
        try:
            if child.outbox:
                del child.outbox[: child.sock.send(child.outbox)]
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
        return max(0.0, min(child.deadline for child in self.children.values()) - time.monotonic())

    def _kill_the_late(self) -> None:
        now = time.monotonic()
        for child in [child for child in self.children.values() if child.deadline <= now]:
            self._end(child, "wall clock limit")

    def _end(self, child: Child, reason: str) -> None:
        """Kill a child and all that it started, reap it, and say how it ended and what it cost."""
        del self.children[child.channel]
        self.selector.unregister(child.sock)
        child.sock.close()
        # A hang-up is not an end yet: agent code may have closed the socket and live on.
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(child.pid, signal.SIGKILL)
        _, status, usage = os.wait4(child.pid, 0)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        self.say({"ended": child.channel, "reason": reason, "status": status, "cpu_seconds": cpu_seconds})


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
    server.serve({"nat_version": version, "walls": walls, "missing": [name for name in isolation.WALLS if name not in walls]})


if __name__ == "__main__":
    main()

"""Requests of the host to jobs and files: the agent's program."""

from __future__ import annotations

import gc
import os
import sys
from _signal import SIG_IGN, SIGINT, signal  # pyright: ignore[reportMissingImports] what signal is made of

from backends.agent.copies import Archive
from backends.agent.files import list_files, read_file, write_file
from backends.agent.frames import MAX_NAMES_BYTES, BrokenFrame, take_request
from backends.agent.jobs import ExecJob, SpawnJob
from backends.agent.loop import Loop, Refused
from backends.agent.processes import ALL_FDS, MAX_STREAMS, OFFERED, Offered, Setup, guard_self
from backends.agent.sessions import Session
from backends.agent.trees import empty, put_back
from backends.agent.usage import remove_shared_memory, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_JOBS = 128
MAX_SNAPSHOTS = 256
"""Each is an open file of ours, and we may have as few as 1,024 of them."""
RECEIVE_BYTES = 1 << 16
INCOMING, OUTGOING = 100, 101
"""Our descriptors of the link to the host; nothing that we start inherits them."""


class Agent:
    """Answers requests. A request that is malformed ends the agent: the host is trusted, so it is a bug."""

    def __init__(self, received: bytearray, setup: Setup) -> None:
        self._received, self._setup = received, setup
        self.loop = Loop(OUTGOING, setup)
        self._programs: dict[int, SpawnJob] = {}
        self._sessions: dict[str, Session] = {}
        self._snapshots: dict[int, Archive] = {}
        self._incoming: Archive | None = None
        self._operations: dict[str, Callable[[dict, bytes], None]] = {
            "exec": self._exec,
            "cancel": self._cancel,
            "spawn": self._spawn,
            "send": self._send,
            "receive": self._receive,
            "kill": self._kill,
            "run": self._run,
            "restart": self._restart,
            "read": self._read,
            "write": self._write,
            "files": self._files,
            "snapshot": self._snapshot,
            "forget": self._forget,
            "reset": self._reset,
            "snapshot_part": self._snapshot_part,
            "restore_part": self._restore_part,
            "stats": self._stats,
            "ping": self._ping,
        }

    def on_readable(self) -> None:
        """Take what the link holds and answer every whole request."""
        data = os.read(INCOMING, RECEIVE_BYTES)
        if not data:
            self.loop.end()
        self._received += data
        self.answer_all()

    def answer_all(self) -> None:
        """Answer the requests that are whole."""
        while (frame := take_request(self._received)) is not None:
            request, body = frame
            try:
                self._operations[request["op"]](request, body)
            except Refused as refusal:
                self.loop.refuse(request["id"], refusal)
            except OSError as error:  # a command can bring about some; where it is the link's, to refuse raises it again
                self.loop.refuse(request["id"], Refused("system", error.strerror or str(error)))

    def _exec(self, request: dict, body: bytes) -> None:
        self._refuse_crowd()
        ExecJob(self.loop, request, body)

    def _cancel(self, request: dict, body: bytes) -> None:
        for job in list(self.loop.jobs.values()):
            if isinstance(job, (ExecJob, Session)) and job.request == request["target"]:
                job.kill()
        self.loop.reply(request["id"], {})

    def _spawn(self, request: dict, body: bytes) -> None:
        self._refuse_crowd()
        self._programs[request["id"]] = SpawnJob(self.loop, request)
        self.loop.reply(request["id"], {})

    def _send(self, request: dict, body: bytes) -> None:
        self._program(request).feed(body, request["id"])

    def _receive(self, request: dict, body: bytes) -> None:
        self._program(request).receive(request["id"])

    def _kill(self, request: dict, body: bytes) -> None:
        program = self._programs.pop(request["program"], None)
        self.loop.reply(request["id"], {"stderr": program.dispose() if program else ""})

    def _run(self, request: dict, body: bytes) -> None:
        session = self._sessions.get(request["session"])
        if session is None or session.status is not None:
            self._refuse_crowd()
            session = self._sessions[request["session"]] = self._started(request["kind"], session)
        session.run(request, body)

    def _started(self, kind: str, before: Session | None) -> Session:
        """A new interpreter, where the one before it was, if that place is still there."""
        place = before.cwd if before is not None and os.path.isdir(self._setup.inside(before.cwd)) else "/workspace"  # noqa: PTH112
        return Session(self.loop, kind, place)

    def _restart(self, request: dict, body: bytes) -> None:
        session = self._sessions.pop(request["session"], None)
        if session is not None:
            session.kill()
        self.loop.reply(request["id"], {})

    def _read(self, request: dict, body: bytes) -> None:
        data = read_file(self._setup, request["path"], request["max_bytes"])
        self.loop.reply(request["id"], {}, data)

    def _write(self, request: dict, body: bytes) -> None:
        files, start = request["files"], 0
        for path, size, mode in files:
            try:
                write_file(self._setup, path, memoryview(body)[start : start + size], mode)
            except Refused as refusal:
                raise Refused("path", f"{path}: {refusal}", refusal.problem) if len(files) > 1 else refusal from None
            start += size
        self.loop.reply(request["id"], {})

    def _files(self, request: dict, body: bytes) -> None:
        names = "\0".join(list_files(self._setup, request["path"], request["max_files"])).encode()
        if len(names) > MAX_NAMES_BYTES:
            raise Refused("path", f"the names of its files take {len(names)} bytes, more than {MAX_NAMES_BYTES}", "too_large")
        self.loop.reply(request["id"], {}, names)

    def _snapshot(self, request: dict, body: bytes) -> None:
        if len(self._snapshots) >= MAX_SNAPSHOTS:
            raise Refused("limit", f"it keeps {MAX_SNAPSHOTS} snapshots already; no snapshot")
        archive = Archive()
        try:
            archive.keep(self._setup.writable)
        except BaseException:
            archive.close()
            raise
        self._snapshots[request["id"]] = archive
        self.loop.reply(request["id"], {"snapshot": request["id"], "size": archive.size})

    def _forget(self, request: dict, body: bytes) -> None:
        self._kept(request).close()
        del self._snapshots[request["snapshot"]]
        self.loop.reply(request["id"], {})

    def _reset(self, request: dict, body: bytes) -> None:
        archive = self._kept(request) if request["snapshot"] else None
        for session in self._sessions.values():
            session.kill()
        for program in self._programs.values():
            program.dispose()
        for job in list(self.loop.jobs.values()):
            if isinstance(job, ExecJob):
                job.kill()
        self._sessions.clear()
        self._programs.clear()
        if self._setup.isolated:
            remove_shared_memory()
        if archive is None:
            empty(self._setup.writable)
        else:
            put_back(archive, self._setup.writable)
        self.loop.reply(request["id"], {})

    def _snapshot_part(self, request: dict, body: bytes) -> None:
        self.loop.reply(request["id"], {}, self._kept(request).part(request["offset"], request["size"]))

    def _restore_part(self, request: dict, body: bytes) -> None:
        if self._incoming is None:
            self._incoming = Archive()
        self._incoming.append(body)
        if request["last"]:
            archive, self._incoming = self._incoming, None
            put_back(archive, self._setup.writable)
            archive.close()
        self.loop.reply(request["id"], {})

    def _stats(self, request: dict, body: bytes) -> None:
        self.loop.reply(request["id"], usage(self._setup, self.loop.parked))

    def _ping(self, request: dict, body: bytes) -> None:
        self.loop.reply(request["id"], {})

    def _program(self, request: dict) -> SpawnJob:
        try:
            return self._programs[request["program"]]
        except KeyError as error:
            raise Refused("closed", "the program was killed") from error

    def _kept(self, request: dict) -> Archive:
        try:
            return self._snapshots[request["snapshot"]]
        except KeyError as error:
            raise Refused("snapshot", f"no snapshot {request['snapshot']} in this sandbox") from error

    def _refuse_crowd(self) -> None:
        if len(self.loop.jobs) >= MAX_JOBS or len(self._programs) >= MAX_JOBS:
            raise Refused("busy", f"more than {MAX_JOBS} commands at once")


def main() -> None:
    """Serve the socket whose number is the first argument, or standard input and output where that is `stdio`.

    A second argument is the number of a directory, the /proc of somebody who may write there where we may not.
    """
    offered = Offered(f"/proc/self/fd/{sys.argv[2]}" if len(sys.argv) > 2 else "/proc")
    _take_link(sys.argv[1], offered)
    if not guard_self():
        sys.exit("cannot make the agent non-dumpable and a subreaper")
    signal(SIGINT, SIG_IGN)
    os.umask(0)  # every mode that is written is meant; commands get a mask of their own
    gc.freeze()  # what is here stays, so neither a collection nor a nanny needs to copy its pages
    received = bytearray()
    first = _first_request(received)
    agent = Agent(received, Setup(first, offered))
    loop = agent.loop
    loop.reply(first["id"], {})
    loop.watch(INCOMING, agent.on_readable)
    try:
        agent.answer_all()
        loop.run()
    except (BrokenFrame, BrokenPipeError, ConnectionResetError):
        loop.end()


def _take_link(which: str, offered: Offered) -> None:
    """Move the link, and `offered`, to our own descriptors; close what else the launcher left open: sources of mounts, say."""
    ends = (0, 1) if which == "stdio" else (int(which), int(which))
    for end, ours in zip(ends, (INCOMING, OUTGOING)):  # noqa: B905 since Python 3.10
        if end == ours:  # the launcher happened to use our number; dup3 refuses to copy onto itself
            os.set_inheritable(end, False)
        else:
            os.dup2(end, ours, inheritable=False)
    offered.settle()
    os.closerange(3, INCOMING)
    os.closerange(OFFERED + 1, ALL_FDS)
    nothing = os.open("/dev/null", os.O_RDWR)  # becomes number NOTHING, the lowest that is free
    for number in (*range(nothing + 1, MAX_STREAMS), *((0, 1) if which == "stdio" else ())):
        os.dup2(nothing, number, inheritable=False)


def _first_request(received: bytearray) -> dict:
    while (frame := take_request(received)) is None:
        data = os.read(INCOMING, RECEIVE_BYTES)
        if not data:
            sys.exit("the host is gone")
        received += data
    return frame[0]

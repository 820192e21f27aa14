"""Requests of the host to jobs and files: the agent's program."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable

from backends.agent.files import list_files, read_file, write_file
from backends.agent.frames import BrokenFrame, take_request
from backends.agent.jobs import ExecJob, SpawnJob
from backends.agent.loop import Loop, Refused
from backends.agent.processes import ALL_FDS, Setup, guard_self

MAX_JOBS = 128
RECEIVE_BYTES = 1 << 18


class Agent:
    """Answers requests. A request that is malformed ends the agent: the host is trusted, so it is a bug."""

    def __init__(self, loop: Loop, received: bytearray) -> None:
        self._loop, self._received = loop, received
        self._programs: dict[int, SpawnJob] = {}
        self._operations: dict[str, Callable[[dict, bytes], None]] = {
            "exec": self._exec,
            "cancel": self._cancel,
            "spawn": self._spawn,
            "send": self._send,
            "receive": self._receive,
            "kill": self._kill,
            "read": self._read,
            "write": self._write,
            "files": self._files,
            "ping": self._ping,
        }

    def on_readable(self) -> None:
        """Take what the socket holds and answer every whole request."""
        try:
            data = self._loop.connection.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not data:
            self._loop.end()
        self._received += data
        self.answer_all()

    def answer_all(self) -> None:
        """Answer the requests that are whole."""
        while (frame := take_request(self._received)) is not None:
            request, body = frame
            try:
                self._operations[request["op"]](request, body)
            except Refused as refusal:
                self._loop.refuse(request["id"], refusal.kind, str(refusal))

    def _exec(self, request: dict, body: bytes) -> None:
        self._refuse_crowd()
        ExecJob(self._loop, request, body)

    def _cancel(self, request: dict, body: bytes) -> None:
        for job in list(self._loop.jobs.values()):
            if isinstance(job, ExecJob) and job.request == request["target"]:
                job.kill()
        self._loop.reply(request["id"], {})

    def _spawn(self, request: dict, body: bytes) -> None:
        self._refuse_crowd()
        self._programs[request["id"]] = SpawnJob(self._loop, request)
        self._loop.reply(request["id"], {})

    def _send(self, request: dict, body: bytes) -> None:
        self._program(request).feed(body, request["id"])

    def _receive(self, request: dict, body: bytes) -> None:
        self._program(request).receive(request["id"])

    def _kill(self, request: dict, body: bytes) -> None:
        program = self._programs.pop(request["program"], None)
        self._loop.reply(request["id"], {"stderr": program.dispose() if program else ""})

    def _read(self, request: dict, body: bytes) -> None:
        data = read_file(self._loop.setup, request["path"], request["max_bytes"])
        self._loop.reply(request["id"], {}, data)

    def _write(self, request: dict, body: bytes) -> None:
        write_file(self._loop.setup, request["path"], body)
        self._loop.reply(request["id"], {})

    def _files(self, request: dict, body: bytes) -> None:
        paths = "\0".join(list_files(self._loop.setup.workspace, request["max_files"]))
        self._loop.reply(request["id"], {}, paths.encode())

    def _ping(self, request: dict, body: bytes) -> None:
        self._loop.reply(request["id"], {})

    def _program(self, request: dict) -> SpawnJob:
        try:
            return self._programs[request["program"]]
        except KeyError as error:
            raise Refused("closed", "the program was killed") from error

    def _refuse_crowd(self) -> None:
        if len(self._loop.jobs) >= MAX_JOBS or len(self._programs) >= MAX_JOBS:
            raise Refused("busy", f"more than {MAX_JOBS} commands at once")


def main() -> None:
    """Serve the socket whose number is the first argument."""
    fd = int(sys.argv[1])
    # whatever the launcher left open (sources of mounts, say) must not reach a command
    os.closerange(3, fd)
    os.closerange(fd + 1, ALL_FDS)
    os.set_inheritable(fd, False)
    if not guard_self():
        sys.exit("cannot make the agent non-dumpable and a subreaper")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=fd)
    received = bytearray()
    first = _first_request(connection, received)
    loop = Loop(connection, Setup(first["workspace"], first["env"], first["limits"], first["isolated"]))
    loop.reply(first["id"], {})
    agent = Agent(loop, received)
    loop.watch(fd, agent.on_readable)
    try:
        agent.answer_all()
        loop.run()
    except (BrokenFrame, BrokenPipeError, ConnectionResetError):
        loop.end()


def _first_request(connection: socket.socket, received: bytearray) -> dict:
    while (frame := take_request(received)) is None:
        data = connection.recv(RECEIVE_BYTES)
        if not data:
            sys.exit("the host is gone")
        received += data
    return frame[0]

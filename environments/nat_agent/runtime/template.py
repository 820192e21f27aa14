"""The process that evaluations are forked from: NAT is imported, and then nothing is written any more.

It lies beside the fork server, which relays what host and children say: whatever a process writes makes the kernel copy
pages for every fork that shares them, and what it has read every fork could find. This one is only told which limits a
child has, and is handed the child's end of a socket.
"""

import json
import os
import resource
import socket
import traceback
import warnings
from pathlib import Path

from runtime import accounts, isolation

MAX_ORDER = 1 << 12


class TemplateLost(Exception):
    """The template ended: nothing can be forked any more."""


class Template:
    """The fork server's end: starts the template, has it fork and reap."""

    def __init__(self, workspace: str) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._sock.close()
            live_as_template(theirs, workspace)
        theirs.close()
        self.hello = self._receive()
        """What the template says of NAT and of the walls, once it is ready."""

    def fork(self, order: dict, sock: socket.socket) -> dict:
        """A child that lives on `sock`: {"pid"}, or {"error"} where no process can be made. Raises TemplateLost."""
        return self._ask({"fork": order}, [sock.fileno()])

    def reap(self, pid: int) -> dict:
        """Of a child that has ended: status, CPU seconds, and the template's memory in MiB. Raises TemplateLost."""
        return self._ask({"reap": pid})

    def _ask(self, order: dict, descriptors: tuple | list = ()) -> dict:
        try:
            socket.send_fds(self._sock, [json.dumps(order).encode()], descriptors)
        except OSError as error:
            raise TemplateLost from error
        return self._receive()

    def _receive(self) -> dict:
        try:
            answer = self._sock.recv(MAX_ORDER)
        except OSError as error:
            raise TemplateLost from error
        if not answer:
            raise TemplateLost
        return json.loads(answer)


def live_as_template(sock: socket.socket, workspace: str) -> None:
    """The template's whole life. Never returns."""
    status = 1
    try:
        isolation.prctl(isolation.PR_SET_PDEATHSIG, isolation.SIGKILL)
        keep_only(sock, streams=(0, 1))
        warnings.simplefilter("ignore")
        from runtime import preload

        version = preload.import_nat()
        namespaces = isolation.PidNamespaces()
        hello = {"nat_version": version, "walls": probe_walls(namespaces, workspace)}
        from runtime.child import live
        from runtime.rehearsal import rehearse
        from runtime.suite import prepared

        rehearse(Path(workspace))
        suites = prepared(Path(workspace))
        preload.settle()
        sock.send(json.dumps({**hello, "memory_mib": accounts.resident_mib()}).encode())
        while True:
            message, (*passed,), _, _ = socket.recv_fds(sock, MAX_ORDER, 1)
            if not message:
                break
            order = json.loads(message)
            if "reap" in order:
                answer = reap(order["reap"])
            else:
                theirs = socket.socket(fileno=passed[0])
                answer = fork(namespaces, order["fork"], theirs, workspace, lambda own: live(own, suites))
                theirs.close()
            sock.send(json.dumps(answer).encode())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def fork(namespaces: isolation.PidNamespaces, order: dict, sock: socket.socket, workspace: str, live: object) -> dict:
    try:
        pid = namespaces.fork()
    except OSError as error:  # no process can be made: nobody's code is to blame
        return {"error": str(error.strerror)}
    if pid == 0:
        become_child(sock, order, workspace, namespaces.works, live)
    return {"pid": pid}


def reap(pid: int) -> dict:
    _, status, usage = os.wait4(pid, 0)
    return {
        "status": status,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "memory_mib": accounts.resident_mib(),
    }


def become_child(sock: socket.socket, order: dict, home: str, first_process: bool, live) -> None:
    """The child's whole life. Never returns."""
    status = 1
    try:
        os.setsid()
        keep_only(sock)
        isolation.prctl(isolation.PR_SET_PDEATHSIG, isolation.SIGKILL)
        walls = isolation.enter(home, first_process=first_process)
        workspace = Path(home)
        if "workspace" not in walls:
            workspace = workspace / str(order["channel"])
            workspace.mkdir(mode=0o700)
        os.chdir(workspace)  # also where the path is the same: a fresh tmpfs lies over it
        isolation.limit_resources(order["cpu_seconds"], order["memory_mib"])
        live(sock)
        status = 0
    finally:
        os._exit(status)


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


def keep_only(sock: socket.socket, streams: tuple[int, ...] = (0, 1, 2)) -> None:
    """Leave no descriptor but one socket and the standard streams, of which `streams` lead nowhere."""
    nowhere = os.open("/dev/null", os.O_RDWR)
    for stream in streams:
        os.dup2(nowhere, stream)
    channel = sock.fileno()
    os.closerange(3, channel)
    os.closerange(channel + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])

"""Nannies: processes that run commands, one after the other, and adopt whatever a command lets go of.

A nanny is a fork of the agent. It is told what to run over a socket that it shares with nobody, with the command's
descriptors beside it, and answers with the command's wait status when nothing of the command is left. Where something is
left, it ends as the command did, and the leftovers come to the agent, which kills them (loop.py); the same happens when the
nanny is killed. To make one costs as much as a small command, so the agent keeps one that is through.
"""
# socket, contextlib, typing and the rest stay out, because importing them would cost every sandbox milliseconds
# ruff: noqa: S606

from __future__ import annotations

import gc
import os
import resource
from _signal import SIG_DFL, SIGCONT, SIGINT, SIGKILL, SIGPIPE, SIGXFSZ, signal  # pyright: ignore[reportMissingImports]
from _socket import (
    AF_UNIX,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    SCM_RIGHTS,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from _struct import pack, unpack

from backends.agent.frames import decode, encode
from backends.agent.processes import ALL_FDS, MAX_STREAMS, Setup, Suppressed, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence
    from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
DEFAULT_SIGNALS = (SIGINT, SIGPIPE, SIGXFSZ)
EVERY_KIND_OF_CHILD = 0x40000000  # __WALL: also one that would announce its end by another signal than SIGCHLD
ORDER_BYTES = 1 << 15
"""What fits a message to a nanny; a longer order is given to a fresh one, which has it from birth."""
DESCRIPTORS_BYTES, ANSWER_BYTES = 64, 16


class Command:
    """What a nanny runs."""

    def __init__(self, argv: list[str], cwd: str, env: dict[str, str]) -> None:
        self.argv, self.cwd, self.env = argv, cwd, env


class Nanny:
    """The agent's side of one."""

    def __init__(self, setup: Setup, order: bytes = b"", streams: Sequence[int] = ()) -> None:
        """Fork one, which begins with that order if there is one. Raises OSError when no process can be made."""
        agent = os.getpid()
        self._link, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        try:
            with setup.offered:
                self.pid = os.fork()
            if self.pid == 0:
                _be_nanny(agent, setup, theirs, (order, streams))
        except OSError:
            self._link.close()
            raise
        finally:
            theirs.close()
        self.fd = self._link.fileno()
        """Readable when it has something to say, or has ended."""

    def run(self, order: bytes, streams: Sequence[int]) -> bool:
        """Have it run a command with these streams as 0, 1, 2 and so on. False where it cannot be told, and runs nothing."""
        if len(order) > ORDER_BYTES:
            return False
        descriptors = pack(f"{len(streams)}i", *streams)
        try:
            os.kill(self.pid, SIGCONT)  # another command may have stopped it
            self._link.sendmsg([order], [(SOL_SOCKET, SCM_RIGHTS, descriptors)], MSG_DONTWAIT)
        except OSError:  # it is gone, or the kernel passes on no more descriptors for this user
            return False
        return True

    def answer(self) -> int | None:
        """The wait status of its command, of which nothing is left; None where it has ended itself."""
        try:
            answer = self._link.recv(ANSWER_BYTES, MSG_DONTWAIT)
        except OSError:
            return None
        return int(answer) if answer else None

    def close(self) -> None:
        """Let go of it."""
        self._link.close()


def order_for(setup: Setup, command: Command) -> bytes:
    """What a nanny is told."""
    place, environment = setup.inside(command.cwd), {**setup.env, **command.env}
    return encode({"argv": command.argv, "cwd": command.cwd, "place": place, "env": environment}).encode()


def _be_nanny(agent: int, setup: Setup, link: socket, first: tuple[bytes, Sequence[int]]) -> NoReturn:
    """Do what comes over the link until it closes."""
    try:
        gc.disable()
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        _die_with(agent)
        _take_on_limits(setup)
        order, streams = first[0], [os.dup(stream) for stream in first[1]]
        _close_all_but([link.fileno(), *streams])
        while True:
            if not order:
                order, streams = _next_order(link)
            status = _run(setup, decode(order.decode()), streams)
            if not _nothing_left():
                _end_as(status)
            link.send(b"%d" % status)
            order = b""
    finally:
        os._exit(125)


def _next_order(link: socket) -> tuple[bytes, Sequence[int]]:
    order, descriptors, _, _ = link.recvmsg(ORDER_BYTES, DESCRIPTORS_BYTES, MSG_CMSG_CLOEXEC)
    if not order:
        os._exit(0)
    return order, unpack(f"{len(descriptors[0][2]) // 4}i", descriptors[0][2])


def _close_all_but(kept: list[int]) -> None:
    start = MAX_STREAMS
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, ALL_FDS)


def _run(setup: Setup, order: dict, streams: Sequence[int]) -> int:
    """Start a command and wait for it; returns its wait status."""
    argv, environment = order["argv"], order["env"]
    try:
        os.chdir(order["place"])
        if setup.isolated:
            os.putenv("PATH", environment.get("PATH", os.defpath))  # where posix_spawnp looks
            actions = [(os.POSIX_SPAWN_DUP2, stream, target) for target, stream in enumerate(streams)]
            # the kernel lends it our memory until it is another program, and copies nothing
            main = os.posix_spawnp(argv[0], argv, environment, file_actions=actions, setsid=True, setsigdef=DEFAULT_SIGNALS)
        else:
            main = _fork_main(order, streams)
    except (OSError, ValueError) as error:
        return _told(order, error, streams[2]) << 8
    finally:
        for stream in streams:
            os.close(stream)
    pid, status = os.waitpid(-1, EVERY_KIND_OF_CHILD)
    while pid != main:
        pid, status = os.waitpid(-1, EVERY_KIND_OF_CHILD)
    return status


def _nothing_left() -> bool:
    """Whether the command left no process; what has ended is reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG | EVERY_KIND_OF_CHILD)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _take_on_limits(setup: Setup) -> None:
    """What every command inherits."""
    for name, value in setup.limits.items():
        _lower_limit(getattr(resource, name), value)
    os.umask(0o022)
    if setup.walls is not None:
        setup.walls.enter()


def _fork_main(order: dict, streams: Sequence[int]) -> int:
    """Where no namespace ends with the agent, the command itself must be told to, which only a copy of us can be."""
    nanny = os.getpid()
    main = os.fork()
    if main:
        return main
    try:
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
        _die_with(nanny)
        os.setsid()
        for number in DEFAULT_SIGNALS:
            signal(number, SIG_DFL)
        os.execvpe(order["argv"][0], order["argv"], order["env"])
    except (OSError, ValueError) as error:
        os._exit(_told(order, error, 2))
    finally:
        os._exit(125)


def _told(order: dict, error: OSError | ValueError, stream: int) -> int:
    """Say on standard error why a command cannot be run; returns the status with which a shell would end."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    os.write(stream, f"cannot run {order['argv'][0]} in {order['cwd']}: {reason}\n".encode("utf-8", "replace"))
    return 126 if isinstance(error, PermissionError) else 127


def _end_as(status: int) -> NoReturn:
    """End with the wait status of the command, so that it is ours."""
    if os.WIFSIGNALED(status):
        _end_by(os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _end_by(number: int) -> None:
    """End by the same signal, so that its number is in our status too; one that is caught or ignored becomes SIGKILL."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Suppressed(OSError, ValueError):
        signal(number, SIG_DFL)
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), SIGKILL)


def _die_with(parent: int) -> None:
    """End when the parent ends, which may have been before now."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:
        os._exit(125)


def _lower_limit(number: int, value: int) -> None:
    hard = resource.getrlimit(number)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (value, value))

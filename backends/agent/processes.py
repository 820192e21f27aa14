"""Start a command under a nanny, and find what escaped from one."""
# pathlib stays out, because importing it would cost every sandbox milliseconds
# ruff: noqa: PTH118, PTH123, PTH208, S606

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from typing import NamedTuple, NoReturn

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
ALL_FDS = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


class Setup(NamedTuple):
    """What the host's first request said: where commands run, with which environment and limits, and how to kill."""

    workspace: str
    env: dict[str, str]
    limits: dict[str, int]
    isolated: bool
    """The agent is PID 1 of a namespace: every process that it can see is its own."""

    def inside(self, path: str) -> str:
        """The real path of a path as the host names it; relative ones start in the workspace."""
        path = os.path.normpath(os.path.join("/workspace", path))
        if path == "/workspace" or path.startswith("/workspace/"):
            return self.workspace + path[len("/workspace") :]
        return path


class Command(NamedTuple):
    """What a nanny runs."""

    argv: list[str]
    cwd: str
    setup: Setup
    streams: tuple[int, int, int]
    """Its standard input, output and error."""


class Started(NamedTuple):
    """A nanny's pid, and the agent's ends of the command's standard streams, which do not block."""

    pid: int
    stdin: int
    stdout: int
    stderr: int


def guard_self() -> bool:
    """Nobody of the same user may read our memory, take our descriptors or speak on our socket; orphans come to us."""
    dumpable = _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    return dumpable == 0 and _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def start_command(argv: list[str], setup: Setup, cwd: str) -> Started:
    """Fork a nanny that runs the command. Raises OSError when no process can be made."""
    stdin, stdin_ours = os.pipe()
    stdout_ours, stdout = os.pipe()
    stderr_ours, stderr = os.pipe()
    theirs, ours = (stdin, stdout, stderr), (stdin_ours, stdout_ours, stderr_ours)
    agent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        for fd in theirs + ours:
            os.close(fd)
        raise
    if pid == 0:
        _be_nanny(agent, Command(argv, cwd, setup, theirs))
    for fd in theirs:
        os.close(fd)
    for fd in ours:
        os.set_blocking(fd, False)
    return Started(pid, *ours)


def kill(pid: int) -> None:
    """SIGKILL. What is gone already is fine; so is a setuid program, which only the end of the sandbox can kill."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def strays(root: int, nannies: set[int]) -> list[int]:
    """Descendants of `root` that are not below one of `nannies`, from one look at /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(_parent(name), []).append(int(name))
    found, queue = [], [pid for pid in children.get(root, ()) if pid not in nannies]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, ())
    return found


def _parent(name: str) -> int:
    """The parent of a process, 0 if there is none any more."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    # the program's name, in parentheses, may hold anything: count from its end
    return int(text[text.rindex(b")") + 2 :].split()[1])


def _be_nanny(agent: int, command: Command) -> NoReturn:
    """Run the command as a child, adopt and reap its orphans, and end as it ended."""
    try:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _die_with(agent)
        nanny = os.getpid()
        main = os.fork()
        if main == 0:
            _die_with(nanny)
            _be_command(command)
        os.closerange(0, ALL_FDS)
        pid, status = os.waitpid(-1, 0)
        while pid != main:
            pid, status = os.waitpid(-1, 0)
        if os.WIFSIGNALED(status):
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(os.WEXITSTATUS(status))
    finally:
        os._exit(125)


def _die_with(parent: int) -> None:
    """End when the parent ends, which may have been before now."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(125)


def _be_command(command: Command) -> NoReturn:
    argv, cwd, setup, streams = command
    try:
        os.setsid()
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        _offer_to_oom_killer()
        for name, value in setup.limits.items():
            _lower_limit(getattr(resource, name), value)
        os.umask(0o022)
        os.chdir(setup.inside(cwd))
        os.execvpe(argv[0], argv, setup.env)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        os.write(2, f"cannot run {argv[0]} in {cwd}: {reason}\n".encode("utf-8", "replace"))
        os._exit(126 if isinstance(error, PermissionError) else 127)
    finally:
        os._exit(125)


def _offer_to_oom_killer() -> None:
    """When memory runs out, commands go before the agent and before anything of the host. Only a preference."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _lower_limit(number: int, value: int) -> None:
    hard = resource.getrlimit(number)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (value, value))

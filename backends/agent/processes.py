"""Start a command under a nanny, and find what escaped from one."""
# pathlib, contextlib, typing and the rest stay out, because importing them would cost every sandbox milliseconds
# ruff: noqa: PTH118, PTH123, PTH208, S606

from __future__ import annotations

import os
import resource
from _ctypes import call_function, dlopen, dlsym  # what ctypes is made of, without its type machinery
from _signal import SIG_DFL, SIGINT, SIGKILL, SIGPIPE, SIGXFSZ, signal  # pyright: ignore[reportMissingImports] what signal is made of

from backends.agent.landlock import Walls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
ALL_FDS = 1 << 20
DEFAULT_SIGNALS = (SIGINT, SIGPIPE, SIGXFSZ)
MAX_STREAMS = 5
"""Descriptors below this number stay taken in the agent, so that no stream has a number that it is moved to."""

_program = dlopen(None, 0)  # pyright: ignore[reportArgumentType] None is this program itself
_prctl = dlsym(_program, "prctl")


class Suppressed:
    """The context of a statement whose errors of those kinds do not matter, as contextlib's."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        return kind is not None and issubclass(kind, self._kinds)


class Setup:
    """What the host's first request said: where commands run, with which environment and limits, and how to kill."""

    def __init__(self, hello: dict) -> None:
        self.workspace: str = hello["workspace"]
        self.env: dict[str, str] = hello["env"]
        self.limits: dict[str, int] = hello["limits"]
        self.isolated: bool = hello["isolated"]
        """The agent is PID 1 of a namespace: every process that it can see is its own."""
        self.writable: list[str] = hello["writable"]
        """Directories whose files a snapshot keeps and a reset removes."""
        self.walls = Walls(hello["walls"]) if hello.get("walls") else None
        """What every command enters, where no namespace was made for all of them."""

    def inside(self, path: str) -> str:
        """The real path of a path as the host names it; relative ones start in the workspace."""
        path = os.path.normpath(os.path.join("/workspace", path))
        if path == "/workspace" or path.startswith("/workspace/"):
            return self.workspace + path[len("/workspace") :]
        return path

    def outside(self, path: str) -> str:
        """The reverse of `inside`."""
        if path == self.workspace or path.startswith(self.workspace + "/"):
            return "/workspace" + path[len(self.workspace) :]
        return path


class Command:
    """What a nanny runs, and the descriptors that it gets as 0, 1, 2 and so on."""

    def __init__(self, argv: list[str], cwd: str, env: dict[str, str]) -> None:
        self.argv, self.cwd, self.env = argv, cwd, env


def guard_self() -> bool:
    """Nobody of the same user may read our memory, take our descriptors or speak on our link; orphans come to us."""
    return prctl(PR_SET_DUMPABLE, 0) == 0 and prctl(PR_SET_CHILD_SUBREAPER, 1) == 0


def prctl(option: int, value: int) -> int:
    """The system call; 0 where it was done."""
    return call_function(_prctl, (option, value, 0, 0, 0))


def start_command(command: Command, setup: Setup, streams: list[int]) -> int:
    """Fork a nanny that runs the command with these streams, which are closed here; returns the nanny's pid.

    Raises OSError when no process can be made.
    """
    agent = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            _be_nanny(agent, command, setup, streams)
        return pid
    finally:
        for fd in streams:
            os.close(fd)


def kill(pid: int) -> None:
    """SIGKILL. What is gone already is fine; so is a setuid program, which only the end of the sandbox can kill."""
    with Suppressed(ProcessLookupError, PermissionError):
        os.kill(pid, SIGKILL)


def only_nannies(nannies: set[int]) -> bool:
    """Whether our children are these and no others, as far as the kernel lists children. Orphans become our children first,
    so a stray has its topmost process among them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return {int(pid) for pid in file.read().split()} <= nannies
    except OSError:
        return False  # a kernel without such lists: look at every process


def strays(root: int, nannies: set[int]) -> list[int]:
    """Descendants of `root` that are not below one of `nannies`, from one look at /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(parent(name), []).append(int(name))
    found, queue = [], [pid for pid in children.get(root, ()) if pid not in nannies]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, ())
    return found


def parent(name: str) -> int:
    """The parent of a process, 0 if there is none any more."""
    fields = stat_fields(name)
    return int(fields[1]) if fields else 0


def stat_fields(name: str) -> list[bytes]:
    """What /proc says of a process from its state on; nothing if there is none of that pid."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return []
    # the program's name, in parentheses, may hold anything: count from its end
    return text[text.rindex(b")") + 2 :].split()


def _be_nanny(agent: int, command: Command, setup: Setup, streams: list[int]) -> NoReturn:
    """Run the command as a child, adopt and reap its orphans, and end as it ended."""
    try:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        _die_with(agent)
        main = _start_main(command, setup, streams)
        os.closerange(0, ALL_FDS)
        pid, status = os.waitpid(-1, 0)
        while pid != main:
            pid, status = os.waitpid(-1, 0)
        if os.WIFSIGNALED(status):
            _end_by(os.WTERMSIG(status))
        os._exit(os.WEXITSTATUS(status))
    finally:
        os._exit(125)


def _start_main(command: Command, setup: Setup, streams: list[int]) -> int:
    """Take on the command's limits and start it: the kernel then need not copy this process, only to replace the copy."""
    argv, cwd = command.argv, command.cwd
    environment = {**setup.env, **command.env}
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    try:
        _offer_to_oom_killer()
        for name, value in setup.limits.items():
            _lower_limit(getattr(resource, name), value)
        os.umask(0o022)
        os.chdir(setup.inside(cwd))
        if setup.walls is not None:
            setup.walls.enter()
        os.closerange(len(streams), ALL_FDS)
        os.putenv("PATH", environment.get("PATH", os.defpath))  # where posix_spawnp looks
        if setup.isolated:
            return os.posix_spawnp(argv[0], argv, environment, setsid=True, setsigdef=DEFAULT_SIGNALS)
        return _fork_main(command, environment)
    except (OSError, ValueError) as error:
        os._exit(_told(command, error))


def _fork_main(command: Command, environment: dict[str, str]) -> int:
    """Where no namespace ends with the agent, the command itself must be told to, which only a copy of us can be."""
    nanny = os.getpid()
    main = os.fork()
    if main:
        return main
    try:
        _die_with(nanny)
        os.setsid()
        for number in DEFAULT_SIGNALS:
            signal(number, SIG_DFL)
        os.execvpe(command.argv[0], command.argv, environment)
    except (OSError, ValueError) as error:
        os._exit(_told(command, error))
    finally:
        os._exit(125)


def _told(command: Command, error: OSError | ValueError) -> int:
    """Say on standard error why a command cannot be run; returns the status with which a shell would end."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    os.write(2, f"cannot run {command.argv[0]} in {command.cwd}: {reason}\n".encode("utf-8", "replace"))
    return 126 if isinstance(error, PermissionError) else 127


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


def _offer_to_oom_killer() -> None:
    """When memory runs out, commands go before the agent and before anything of the host. Only a preference."""
    with Suppressed(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)


def _lower_limit(number: int, value: int) -> None:
    hard = resource.getrlimit(number)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (value, value))

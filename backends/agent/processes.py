"""What the agent knows of processes: what every command gets, and how to find what escaped from its nanny."""
# pathlib, contextlib, typing and the rest stay out, because importing them would cost every sandbox milliseconds
# ruff: noqa: PTH118, PTH123, PTH208

from __future__ import annotations

import os
from _ctypes import call_function, dlopen, dlsym  # what ctypes is made of, without its type machinery
from _signal import SIGKILL  # pyright: ignore[reportMissingImports] what signal is made of

from backends.agent.landlock import Walls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
ALL_FDS = 1 << 20
NOTHING = 3
"""Our descriptor of /dev/null."""
OFFERED = 102
"""Our descriptor of what the kernel's OOM killer is told of us."""
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


class Offered:
    """Whoever is forked within it goes before the agent, and before anything of the host, when memory runs out.

    Made before `guard_self`, after which the kernel lets nobody but root say so. The agent says it of itself and forks,
    because what it forks cannot. Where it cannot be said, the kernel chooses by size; where /proc may be written, a command
    can take it back.
    """

    def __init__(self, proc: str) -> None:
        self._own = b""
        with Suppressed(OSError):
            self._fd = os.open(proc + "/self/oom_score_adj", os.O_RDWR)
            self._own = os.read(self._fd, 8)

    def settle(self) -> None:
        """Move to the descriptor that is meant for it."""
        os.closerange(OFFERED, OFFERED + 1)
        if self._own:
            os.dup2(self._fd, OFFERED, inheritable=False)
            os.close(self._fd)

    def __enter__(self) -> None:
        self._say(b"1000")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._say(self._own)

    def _say(self, what: bytes) -> None:
        if self._own:
            with Suppressed(OSError):
                os.pwrite(OFFERED, what, 0)


class Setup:
    """What the host's first request said: where commands run, with which environment and limits, and how to kill."""

    def __init__(self, hello: dict, offered: Offered) -> None:
        self.offered = offered
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


def guard_self() -> bool:
    """Nobody of the same user may read our memory, take our descriptors or speak on our link; orphans come to us."""
    return prctl(PR_SET_DUMPABLE, 0) == 0 and prctl(PR_SET_CHILD_SUBREAPER, 1) == 0


def prctl(option: int, value: int) -> int:
    """The system call; 0 where it was done."""
    return call_function(_prctl, (option, value, 0, 0, 0))


def kill(pid: int) -> None:
    """SIGKILL. What is gone already is fine; so is a setuid program, which only the end of the sandbox can kill."""
    with Suppressed(ProcessLookupError, PermissionError):
        os.kill(pid, SIGKILL)


def orphans(nannies: Collection[int]) -> list[int] | None:
    """Our children that are none of these, as far as the kernel lists children; None where it does not.

    Whatever escapes becomes our child first, so a stray has its topmost process among them.
    """
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return [pid for pid in map(int, file.read().split()) if pid not in nannies]
    except OSError:
        return None


def strays(root: int, nannies: Collection[int]) -> list[int]:
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

"""Sandboxes on this machine, walled by bubblewrap: own user, pid, mount, network and ipc namespaces.

Inside: /usr and its neighbours and the paths of the spec, read only; /workspace, /tmp and /dev/shm as memory of a
fixed size; user 1000 without capabilities; no network; nothing of /home, /root, /etc. The agent is PID 1.

Started by root, bubblewrap runs as an unprivileged user of the host: the kernel does not limit the number of root's
processes, and would let root's files in /proc/sys be written.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from backends.agent_sandbox import AgentSandbox
from backends.base import Capabilities, SandboxError, SandboxSpec, Tier
from backends.start import AGENT_SOURCE, MIB, Launch, hello, start_sandbox
from core.errors import ConfigError, MissingRuntime

UNPRIVILEGED = 60999  # in no range that Debian, systemd or subordinate users hand out
INSIDE = "1000"
AGENT = "/run/natgym/agent.py"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ssl/certs", "/etc/mime.types")
FILES = {
    "/etc/passwd": f"agent:x:{INSIDE}:{INSIDE}:agent:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "/etc/group": f"agent:x:{INSIDE}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
SHM_MIB = 64
UNSAFE_HINT = "or choose the backend 'unsafe-local', which has no walls"


class LocalBackend:
    """Sandboxes by bubblewrap. Holds what it made until it is destroyed."""

    name = "local"

    def __init__(self) -> None:
        self._sandboxes: set[AgentSandbox] = set()

    async def probe(self) -> Capabilities:
        """Make a sandbox and destroy it. Raises MissingRuntime saying what to install or to allow."""
        sandbox = await self.create(SandboxSpec())
        await sandbox.destroy()
        user = f"started by root, runs as user {UNPRIVILEGED}" if os.geteuid() == 0 else "unprivileged"
        detail = f"bubblewrap, no network, {user}; processes, memory and disk limited by rlimits and sized tmpfs"
        return Capabilities(backend=self.name, tier=Tier.NAMESPACES, detail=detail)

    async def create(self, spec: SandboxSpec) -> AgentSandbox:
        """See Backend.create. Raises ConfigError for a path of the spec that does not exist or cannot be shown."""
        bwrap = _bwrap()
        with ExitStack() as opened:
            fds: list[int] = []

            def give(fd: int) -> str:
                opened.callback(os.close, fd)
                fds.append(fd)
                return str(fd)

            walls = [word for part in _walls(spec, give) for word in part]
            launch = Launch(
                argv=lambda end: [bwrap, *walls, "--", *_agent_command(end)],
                fds=fds,
                user=UNPRIVILEGED if os.geteuid() == 0 else None,
            )
            try:
                sandbox = await start_sandbox(launch, hello(spec, workspace="/workspace", isolated=True), self._forget)
            except SandboxError as error:
                raise _explained(error) from error
        self._sandboxes.add(sandbox)
        return sandbox

    async def aclose(self) -> None:
        """See Backend.aclose."""
        for sandbox in list(self._sandboxes):
            await sandbox.destroy()

    async def _forget(self, sandbox: AgentSandbox) -> None:
        self._sandboxes.discard(sandbox)


def _bwrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        raise MissingRuntime(f"the backend 'local' needs bubblewrap: apt-get install bubblewrap, {UNSAFE_HINT}")
    return found


def _walls(spec: SandboxSpec, give: Callable[[int], str]) -> Iterator[Sequence[str]]:
    """The options of bubblewrap, in the order in which it builds the root directory."""
    yield "--unshare-all", "--unshare-user", "--uid", INSIDE, "--gid", INSIDE, "--cap-drop", "ALL"
    yield "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--hostname", "sandbox"
    if not spec.nested_namespaces:
        yield ("--disable-userns",)
    for directory in ("/etc", "/etc/ssl", "/run", "/run/natgym"):
        yield "--perms", "0755", "--dir", directory
    yield from _system()
    yield from _files(give)
    yield "--proc", "/proc", "--dev", "/dev"
    yield "--size", str(SHM_MIB * MIB), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"  # noqa: S108
    yield "--size", str(spec.disk_mib * MIB), "--tmpfs", "/tmp"  # noqa: S108
    yield "--size", str(spec.disk_mib * MIB), "--tmpfs", "/workspace"
    for source, inside in {**_agent_prefix(), **spec.readonly}.items():
        yield "--ro-bind-fd", give(_opened(source)), _checked(inside)
    # the root itself is memory without a limit, so it must not be written
    yield "--remount-ro", "/", "--chdir", "/"


def _system() -> Iterator[Sequence[str]]:
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            yield "--symlink", str(path.readlink()), str(path)
        elif path.is_dir():
            yield "--ro-bind", str(path), str(path)
    for path in ETC:
        yield "--ro-bind-try", path, path


def _files(give: Callable[[int], str]) -> Iterator[Sequence[str]]:
    for path, text in {**FILES, AGENT: AGENT_SOURCE.read_text(encoding="utf-8")}.items():
        fd = os.memfd_create("file")
        inherited = give(fd)
        os.write(fd, text.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        yield "--perms", "0444", "--ro-bind-data", inherited, path


def _agent_python() -> Path:
    """The interpreter that runs the agent: the system's where it is there, else ours."""
    system = Path("/usr/bin/python3")
    return system if system.exists() else Path(sys.base_prefix) / "bin" / "python3"


def _agent_prefix() -> dict[str, str]:
    python = _agent_python()
    return {} if python.is_relative_to("/usr") else {sys.base_prefix: sys.base_prefix}


def _agent_command(end: int) -> Sequence[str]:
    return str(_agent_python()), "-I", "-S", "-B", AGENT, str(end)


def _opened(path: str) -> int:
    """A descriptor that bubblewrap binds from: opened by us, it may lie where the unprivileged user cannot go."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"sandbox path {path}: {error.strerror}; expected a file or directory of this machine") from error


def _checked(inside: str) -> str:
    parts = Path(inside).parts
    if not inside.startswith("/") or len(parts) < 2 or ".." in parts or parts[1] in ("proc", "dev"):
        raise ConfigError(f"sandbox path {inside}: expected an absolute path outside of /proc and /dev")
    return inside


def _explained(error: SandboxError) -> SandboxError | MissingRuntime:
    """bubblewrap's own complaint, and where a kernel setting forbids namespaces, which one."""
    return error

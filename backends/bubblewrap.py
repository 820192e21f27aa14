"""The command line of bubblewrap for one sandbox, and what its complaints mean."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from backends.base import SandboxSpec
from backends.seccomp import filter_program
from backends.start import AGENT, MIB, agent_command
from core.errors import ConfigError

USER = "1000"
LIBRARY = "/run/natgym"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ssl/certs", "/etc/mime.types")
FILES = {
    "/etc/passwd": f"agent:x:{USER}:{USER}:agent:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "/etc/group": f"agent:x:{USER}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
SHM_BYTES = 64 * MIB
KERNEL_SETTINGS = {
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "user.max_user_namespaces": ("0", "65536"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
}
"""Name -> (the value that forbids user namespaces, one that allows them)."""
DENIALS = ("No permissions to create", "Operation not permitted", "uid map: Permission denied", "namespace failed")


class Bubblewrap(NamedTuple):
    """An installed bubblewrap. Versions before August 2024 cannot bind from a descriptor."""

    path: str
    binds_descriptors: bool


def find_bubblewrap(path: str) -> Bubblewrap:
    """What the program at that path can do. Blocks for some milliseconds."""
    shown = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
    return Bubblewrap(path, "--ro-bind-fd" in shown.stdout + shown.stderr)


def agent_argv(end: int) -> list[str]:
    """The agent's command line inside the walls."""
    return agent_command(_python(), LIBRARY, end)


def forbidden_by(message: str) -> str | None:
    """What on this machine keeps bubblewrap from its work, and what to do; None where it failed for another reason."""
    if "bwrap: " not in message or not any(denial in message for denial in DENIALS):
        return None
    for name, (forbids, allows) in KERNEL_SETTINGS.items():
        file = Path("/proc/sys", *name.split("."))
        if file.is_file() and file.read_text(encoding="ascii").strip() == forbids:
            return f"the kernel setting {name} is {forbids}; allow it with: sysctl -w {name}={allows}"
    return (
        f"{message.partition('bwrap: ')[2]}; in a container, start that with "
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
    )


def walls(spec: SandboxSpec, bubblewrap: Bubblewrap, opened: ExitStack) -> tuple[list[str], list[int]]:
    """The options for one sandbox and the descriptors that they name, which `opened` closes.

    Raises ConfigError for a path of the spec that does not exist or cannot be shown.
    """
    building = _Walls(bubblewrap, opened)
    options = [word for option in building.options(spec) for word in option]
    return options, building.fds


class _Walls:
    def __init__(self, bubblewrap: Bubblewrap, opened: ExitStack) -> None:
        self._bubblewrap, self._opened = bubblewrap, opened
        self.fds: list[int] = []

    def options(self, spec: SandboxSpec) -> Iterator[Sequence[str]]:
        """In the order in which bubblewrap builds the root directory."""
        yield "--unshare-all", "--unshare-user", "--uid", USER, "--gid", USER, "--cap-drop", "ALL"
        yield "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--hostname", "sandbox"
        if not spec.nested_namespaces:
            yield ("--disable-userns",)
        if (program := filter_program()) is not None:
            yield "--seccomp", self._memory(program)
        for directory in ("/etc", "/etc/ssl", "/run", LIBRARY, f"{LIBRARY}/backends"):
            yield "--perms", "0755", "--dir", directory
        yield from _system()
        for path, text in FILES.items():
            yield "--perms", "0444", "--ro-bind-data", self._memory(text.encode()), path
        yield "--proc", "/proc", "--dev", "/dev"
        yield "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"  # noqa: S108
        yield "--size", str(spec.disk_mib * MIB), "--tmpfs", "/tmp"  # noqa: S108
        yield "--size", str(spec.disk_mib * MIB), "--tmpfs", "/workspace"
        for source, inside in {str(AGENT): f"{LIBRARY}/backends/agent", **_python_prefix(), **spec.readonly}.items():
            yield self._bind(source, inside)
        # the root itself is memory without a limit, so it must not be written
        yield "--remount-ro", "/", "--chdir", "/"

    def _bind(self, source: str, inside: str) -> Sequence[str]:
        parts = Path(inside).parts
        if not inside.startswith("/") or len(parts) < 2 or ".." in parts or parts[1] in ("proc", "dev"):
            raise ConfigError(f"sandbox path {inside}: expected an absolute path outside of /proc and /dev")
        try:
            # opened by us, it may lie where the unprivileged user cannot go
            fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"sandbox path {source}: {error.strerror}; expected a path of this machine") from error
        if self._bubblewrap.binds_descriptors:
            return "--ro-bind-fd", self._give(fd), inside
        os.close(fd)
        return "--ro-bind", source, inside

    def _memory(self, data: bytes) -> str:
        fd = os.memfd_create("file")
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return self._give(fd)

    def _give(self, fd: int) -> str:
        self._opened.callback(os.close, fd)
        self.fds.append(fd)
        return str(fd)


def _system() -> Iterator[Sequence[str]]:
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            yield "--symlink", str(path.readlink()), str(path)
        elif path.is_dir():
            yield "--ro-bind", str(path), str(path)
    for path in ETC:
        yield "--ro-bind-try", path, path


def _python() -> Path:
    """The interpreter that runs the agent: the system's where there is one, else ours."""
    system = Path("/usr/bin/python3")
    return system if system.exists() else Path(sys.base_prefix) / "bin" / "python3"


def _python_prefix() -> dict[str, str]:
    return {} if _python().is_relative_to("/usr") else {sys.base_prefix: sys.base_prefix}

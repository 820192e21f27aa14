"""The command line of bubblewrap for one sandbox, and what its complaints mean."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from backends.agent_bundle import compiled_agent, compiled_command
from backends.base import SandboxSpec
from backends.memory_disks import SHM_MIB
from backends.seccomp import filter_program
from backends.start import MIB
from core.errors import ConfigError

USER = "1000"
AGENT = "/run/natgym-agent"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/mime.types")
FILES = {
    "/etc/passwd": f"agent:x:{USER}:{USER}:agent:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "/etc/group": f"agent:x:{USER}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
KERNEL_SETTINGS = {
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "user.max_user_namespaces": ("0", "65536"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
}
"""Name -> (the value that forbids user namespaces, one that allows them)."""
DENIALS = ("No permissions to create", "Operation not permitted", "uid map: Permission denied", "namespace failed")


def agent_argv(end: int, *more: str) -> list[str]:
    """The agent's command line inside the walls; `more` as in the agent's `main`."""
    return [*compiled_command(str(system_python()), AGENT, str(end)), *more]


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


def binds(spec: SandboxSpec) -> dict[str, str]:
    """What is shown read only: host path -> path inside. Raises ConfigError for one that cannot be shown."""
    refuse_places(spec)
    for source in spec.readonly:
        if not Path(source).exists():
            raise ConfigError(f"sandbox path {source}: does not exist; expected a path of this machine")
    return {**_python_prefix(), **spec.readonly}


def refuse_places(spec: SandboxSpec) -> None:
    """Raises ConfigError for a place in the sandbox where nothing can be shown."""
    for inside in spec.readonly.values():
        parts = Path(inside).parts
        if not inside.startswith("/") or len(parts) < 2 or ".." in parts or parts[1] in ("proc", "dev"):
            raise ConfigError(f"sandbox path {inside}: expected an absolute path outside of /proc and /dev")


class Machine(NamedTuple):
    """What the walls are built from, on the machine where they stand."""

    kind: str
    """What `uname -m` prints there; empty: this one."""
    system: Mapping[str, str]
    """Those of SYSTEM that are there: path -> what it is a symbolic link to, empty for a directory."""
    agent: bytes


@cache
def this_machine() -> Machine:
    """The one that we run on, looked at once."""
    system = {path: _link(Path(path)) for path in SYSTEM if Path(path).is_dir() or Path(path).is_symlink()}
    return Machine("", system, compiled_agent(str(system_python())))


def walls(
    spec: SandboxSpec, shown: Mapping[str, str], memory: Callable[[bytes], str], machine: Machine | None = None
) -> Iterator[Sequence[str]]:
    """The options for one sandbox, in the order in which bubblewrap builds the root directory.

    `shown` is what `binds` returned, its sources moved or not; `memory` gives the number of a descriptor of a file
    with those bytes. `machine`: by default this one.
    """
    machine = machine or this_machine()
    yield "--unshare-all", "--unshare-user", "--uid", USER, "--gid", USER, "--cap-drop", "ALL"
    yield "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--hostname", "sandbox"
    if not spec.nested_namespaces:
        yield ("--disable-userns",)
    if (program := filter_program(machine.kind)) is not None:
        yield "--seccomp", memory(program)
    for directory in ("/etc", "/etc/ssl", "/run"):
        yield "--perms", "0755", "--dir", directory
    yield from _system(machine.system)
    for path, text in FILES.items():
        yield "--perms", "0444", "--file", memory(text.encode()), path
    yield "--perms", "0444", "--file", memory(machine.agent), AGENT
    yield "--proc", "/proc", "--dev", "/dev"
    yield "--size", str(SHM_MIB * MIB), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"  # noqa: S108
    yield "--size", str(spec.disk_mib * MIB), "--tmpfs", "/tmp"  # noqa: S108
    yield "--size", str(spec.disk_mib * MIB), "--tmpfs", "/workspace"
    for source, inside in shown.items():
        yield "--ro-bind", source, inside
    # the root itself is memory without a limit, so it must not be written
    yield "--remount-ro", "/", "--chdir", "/"


def _link(path: Path) -> str:
    return str(path.readlink()) if path.is_symlink() else ""


def _system(system: Mapping[str, str]) -> Iterator[Sequence[str]]:
    for path, target in system.items():
        yield ("--symlink", target, path) if target else ("--ro-bind", path, path)
    for path in ETC:
        yield "--ro-bind-try", path, path


def system_python() -> Path:
    """The interpreter that runs the agent: the system's where there is one, else ours."""
    system = Path("/usr/bin/python3")
    return system if system.exists() else Path(sys.base_prefix) / "bin" / "python3"


def _python_prefix() -> dict[str, str]:
    return {} if system_python().is_relative_to("/usr") else {sys.base_prefix: sys.base_prefix}

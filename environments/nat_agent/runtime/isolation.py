"""Walls round one evaluation: namespaces, a fresh /proc and workspace, dropped capabilities, resource limits.

The fork server owns a user namespace, so it may make pid namespaces for its children. A child is process 1 of its own:
it sees and signals nobody else, and everything that it started dies with it. Where the kernel refuses a wall, the
name of that wall is missing from what `enter` returns, and the host is told.
"""

import ctypes
import os
import resource
import struct
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 8, 4096, 16384, 1 << 19
PROC = MS_NOSUID | MS_NODEV | MS_NOEXEC
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
CAPABILITY_VERSION_3 = 0x20080522
LAST_CAPABILITY = 40
SIGKILL = 9

WALLS = ("pid", "mount", "net", "ipc", "user", "proc", "workspace", "capabilities", "budget")

RUNTIME = Path(__file__).resolve().parent
OURS = str(RUNTIME.parent)
"""Where this project is installed for everybody, data sets with references lie here, beside the runtime."""

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags))


def prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, value, 0, 0, 0))


def mount(kind: str, where: str, flags: int, data: str = "") -> None:
    _checked(_libc.mount(kind.encode(), where.encode(), kind.encode(), flags, data.encode()))


def attempt(*steps: object) -> bool:
    """Run the steps in order; whether all of them succeeded."""
    try:
        for step in steps:
            step()
    except OSError:
        return False
    return True


def map_this_user(uid: int, gid: int) -> None:
    """In a fresh user namespace: keep the ids that we had outside."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def own_namespace() -> bool:
    """Give this process a user and a pid namespace; its next child is process 1 there."""
    uid, gid = os.getuid(), os.getgid()
    return attempt(lambda: unshare(CLONE_NEWUSER | CLONE_NEWPID), lambda: map_this_user(uid, gid))


def own_proc() -> bool:
    """A mount namespace for this process with a /proc of its own pid namespace; mounted nowhere else."""
    return attempt(
        lambda: unshare(CLONE_NEWNS), lambda: mount("none", "/", MS_REC | MS_SLAVE), lambda: mount("proc", "/proc", PROC)
    )


class PidNamespaces:
    """Makes every next child of this process the first one of a fresh pid namespace."""

    def __init__(self) -> None:
        self.works = False
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def fork(self) -> int:
        """os.fork, the child in a pid namespace of its own where that is allowed."""
        self.works = attempt(lambda: unshare(CLONE_NEWPID))
        pid = os.fork()
        if pid and self.works:
            _checked(_libc.setns(self._own, CLONE_NEWPID))
        return pid


def enter(workspace: str, *, first_process: bool, disk_mib: int = 32) -> list[str]:
    """Raise the walls round the calling process and return the names of those that stand."""
    uid, gid = os.getuid(), os.getgid()
    walls = ["pid"] if first_process else []
    if attempt(lambda: unshare(CLONE_NEWNS | CLONE_NEWUTS), lambda: mount("none", "/", MS_REC | MS_SLAVE)):
        walls.append("mount")
        options = f"size={disk_mib}m,mode=0700,uid={uid},gid={gid}"
        for directory in ("/tmp", "/dev/shm", "/dev/pts", OURS):
            attempt(lambda place=directory: _cover(place, options))
        # the workspace may lie in the /tmp that was just covered
        if attempt(
            lambda: Path(workspace).mkdir(parents=True, exist_ok=True),
            lambda: mount("tmpfs", workspace, MS_NOSUID | MS_NODEV, options),
        ):
            walls.append("workspace")
        if first_process and _fresh_proc():
            walls.append("proc")
    walls += [name for name, flag in (("net", CLONE_NEWNET), ("ipc", CLONE_NEWIPC)) if attempt(lambda flag=flag: unshare(flag))]
    # /proc/self belongs to root while a process is not dumpable, and this one has nobody to hide from
    prctl(PR_SET_DUMPABLE, 1)
    if attempt(lambda: unshare(CLONE_NEWUSER), lambda: prctl(PR_SET_DUMPABLE, 1), lambda: map_this_user(uid, gid)):
        walls.append("user")
        attempt(_no_more_namespaces)  # refused where root is not mapped; the walls stand without it
    if attempt(_drop_capabilities, lambda: prctl(PR_SET_NO_NEW_PRIVS, 1)):
        walls.append("capabilities")
    return walls


def _cover(directory: str, options: str) -> None:
    """Put fresh memory over a directory, and back into it what this Python runs from, where that lies in there."""
    needed = {sys.prefix, sys.base_prefix, str(RUNTIME)}
    kept = {path: os.open(path, os.O_PATH) for path in sorted(needed) if path.startswith(f"{directory}/")}
    mount("tmpfs", directory, MS_NOSUID | MS_NODEV, options)
    for path, fd in kept.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        _checked(_libc.mount(f"/proc/self/fd/{fd}".encode(), path.encode(), None, MS_BIND | MS_REC, None))
        os.close(fd)


def _fresh_proc() -> bool:
    if attempt(lambda: mount("proc", "/proc", PROC)):
        return True
    attempt(lambda: mount("tmpfs", "/proc", PROC, "size=4k,mode=0555"))  # better none than the neighbours'
    return False


def _no_more_namespaces() -> None:
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def _drop_capabilities() -> None:
    for capability in range(LAST_CAPABILITY + 1):
        attempt(lambda number=capability: prctl(PR_CAPBSET_DROP, number))
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, struct.pack("6I", 0, 0, 0, 0, 0, 0)))


def limit_resources(cpu_seconds: int, memory_mib: int, processes: int = 64) -> None:
    """Soft and hard limits of the calling process and of what it starts."""
    memory = memory_mib << 20
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 16 << 20),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))

"""What a Modal sandbox's one exec does before it is the agent: step down, and if it can, into namespaces of its own.

In a process namespace the agent is the first process, which commands can neither kill nor speak for. Where the sandbox's
kernel refuses one, the agent runs beside its commands. Sent as text (modal_stream.py) and run by any Python from 3.9, after
container_start.py, whose functions it uses: standard library only.
"""
# no import from __future__, because this is not the beginning of what is sent
# ruff: noqa: PTH103, PTH123

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backends.container_start import drop_capabilities, refuse_system_calls

USER = 1000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
NEW_USER_PID_MOUNT = 0x10000000 | 0x20000000 | 0x00020000
NOSUID_NODEV_NOEXEC = 2 | 4 | 8
REFUSED = 77

_kernel = ctypes.CDLL(None, use_errno=True)


def start(filters: "Mapping[str, Sequence[bytes]]") -> None:
    """Go on as the process that becomes the agent, and say so: `1` as the first of its namespace, else `0`.

    `filters`: what `uname -m` prints -> programs that refuse system calls.
    """
    os.makedirs("/workspace", exist_ok=True)
    if os.geteuid() == 0:  # or commands could read the agent's memory and answer in its place
        os.chown("/workspace", USER, USER)
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)
    if _kernel.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise SystemExit("cannot set no_new_privs")
    child = os.fork()
    if child == 0:
        _enter(filters.get(os.uname().machine, ()))
        os.write(1, b"1")
        return
    status = os.waitpid(child, 0)[1]
    if not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == REFUSED):
        os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
    os.write(1, b"0")


def _enter(filters: "Sequence[bytes]") -> None:
    """Become the first process of namespaces of one's own, without capabilities; end with REFUSED where that cannot be."""
    parent = os.getpid()
    try:
        user, group = os.getuid(), os.getgid()
        _kernel.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the maps belong to root since we stepped down
        if _kernel.unshare(NEW_USER_PID_MOUNT):
            os._exit(REFUSED)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        child = os.fork()
        if child:
            status = os.waitpid(child, 0)[1]
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
        _kernel.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)
        if _kernel.mount(b"proc", b"/proc", b"proc", NOSUID_NODEV_NOEXEC, None) or os.getpid() == parent:
            os._exit(REFUSED)
        drop_capabilities()
        refuse_system_calls(filters)
    except (OSError, SystemExit):
        os._exit(REFUSED)

"""What a container's first process does before it is the agent: give up what the runtime left it.

Sent into containers as text (confined.py) and run by any Python from 3.9, so: standard library only.
"""
# pathlib would cost every sandbox milliseconds
# ruff: noqa: PTH123

from __future__ import annotations

import ctypes
import os
import sys
from _socket import AF_UNIX, socket  # what socket is made of, without its enumerations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
KEPT_OPTIONS = {"nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048}
DEVICES = ("proc", "devpts", "devtmpfs", "mqueue")  # kinds of mounts that hold no files, or that the kernel guards itself
PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_CAP_AMBIENT, CLEAR_ALL = 22, 24, 47, 4
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION = 0x20080522
CAP_SETPCAP, LAST_CAPABILITY = 8, 63
FSCONFIG, FSPICK = 431, 433  # on every machine
AT_FDCWD, FSPICK_CLOEXEC, SET_STRING, RECONFIGURE = -100, 1, 1, 7

_libc = ctypes.CDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    _fields_ = [("steps", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def seal(writable: Sequence[str]) -> None:
    """Make every mounted directory and file read only, those at the paths of `writable` excepted."""
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = [line.split() for line in file]
    for fields in mounts:
        path = fields[4].decode("unicode_escape").encode("latin-1")  # a blank in it stands there as \040
        options, kind = fields[5].decode().split(","), fields[fields.index(b"-") + 1].decode()
        if "ro" not in options and kind not in DEVICES and os.fsdecode(path) not in writable:
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | sum(KEPT_OPTIONS.get(option, 0) for option in options)
            _must(_libc.mount(None, path, None, flags, None), f"make {os.fsdecode(path)} read only")


def bound_files(disk: str, files: int) -> None:
    """Let a memory disk that is mounted at that path hold no more files, links among them. Raises OSError where we may not.

    Needs CAP_SYS_ADMIN in the user namespace in which it was mounted, and in that of our mounts.
    """
    picked = _libc.syscall(FSPICK, AT_FDCWD, os.fsencode(disk), FSPICK_CLOEXEC)
    if picked < 0:
        raise OSError(ctypes.get_errno(), f"cannot bound the files on {disk}: {os.strerror(ctypes.get_errno())}")
    try:
        for order, name, value in ((SET_STRING, b"nr_inodes", b"%d" % files), (RECONFIGURE, None, None)):
            if _libc.syscall(FSCONFIG, picked, order, name, value, 0) < 0:
                raise OSError(ctypes.get_errno(), f"cannot bound the files on {disk}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(picked)


def take_door(path: str) -> None:
    """Speak over the socket at that path from now on, not over the standard streams; says there whether one listens: 1 or 0."""
    link = socket(AF_UNIX)
    try:
        link.connect(path)
    except OSError:
        os.write(1, b"0")
        return
    os.write(1, b"1")
    for end in (0, 1):
        os.dup2(link.fileno(), end)
    link.close()


def drop_capabilities() -> None:
    """Give up every capability, for this process and all that it will start."""
    for number in range(LAST_CAPABILITY + 1):
        # fails for those that this kernel does not have, and for all where there is none to give up
        if number != CAP_SETPCAP:
            _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    _libc.prctl(PR_CAPBSET_DROP, CAP_SETPCAP, 0, 0, 0)
    _must(_libc.prctl(PR_CAP_AMBIENT, CLEAR_ALL, 0, 0, 0), "give up capabilities")
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    _must(_libc.capset(header, (ctypes.c_uint32 * 6)()), "give up capabilities")


def refuse_system_calls(programs: Sequence[bytes]) -> None:
    """Install filters, arrays of struct sock_filter. Needs no_new_privs."""
    for program in programs:
        filtering = _Filter(len(program) // 8, program)
        _must(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filtering), 0, 0), "filter system calls")


def _must(result: int, what: str) -> None:
    if result:
        sys.exit(f"cannot {what}: {os.strerror(ctypes.get_errno())}")

"""System calls that commands have no business with, as a program for the kernel's filter.

Most are ways into the kernel that sandboxes elsewhere close too. prlimit64 on another process is refused because a
command could starve the agent with it, and so turn a bad episode into a failure that is not held against it.

Of sockets, those families pass that a network namespace holds. Others reach past it: AF_VSOCK speaks to the machine that a
virtual machine runs on, from any namespace.
"""

import errno
import platform
import struct
from typing import NamedTuple

LOAD, JUMP_IF_EQUAL, JUMP_IF_SET, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little endian
ALLOW, KILL_PROCESS, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
X32_BIT = 0x40000000
AF_UNIX = 1
FAMILIES = (AF_UNIX, 2, 10, 16)
"""And AF_INET, AF_INET6, AF_NETLINK."""


class _Architecture(NamedTuple):
    audit: int
    prlimit64: int
    socket: int
    refused: tuple[int, ...]


MACHINES = {
    # add_key request_key keyctl ptrace perf_event_open process_vm_readv _writev kexec_load bpf userfaultfd
    # io_uring_setup _enter _register pidfd_getfd
    "x86_64": _Architecture(0xC000003E, 302, 41, (248, 249, 250, 101, 298, 310, 311, 246, 321, 323, 425, 426, 427, 438)),
    "aarch64": _Architecture(0xC00000B7, 261, 198, (217, 218, 219, 117, 241, 270, 271, 104, 280, 282, 425, 426, 427, 438)),
}


def filter_program(machine: str = "") -> bytes | None:
    """An array of struct sock_filter for bubblewrap's --seccomp; None for a machine that is not in the table.

    `machine` is what `uname -m` prints, by default of this machine.
    """
    found = MACHINES.get(machine or platform.machine())
    if found is None:
        return None
    refused, families = len(found.refused), len(FAMILIES)
    # a step is (operation, how many steps to skip if true, if false, operand)
    steps = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_IF_EQUAL, 1, 0, found.audit),
        (RETURN, 0, 0, KILL_PROCESS),  # 32-bit programs have other numbers
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_SET, refused + families + 6, 0, X32_BIT),
        *((JUMP_IF_EQUAL, refused + families + 5 - index, 0, number) for index, number in enumerate(found.refused)),
        (JUMP_IF_EQUAL, 0, families + 2, found.socket),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        *((JUMP_IF_EQUAL, families + 4 - index, 0, family) for index, family in enumerate(FAMILIES)),
        (RETURN, 0, 0, REFUSE),
        (JUMP_IF_EQUAL, 0, 3, found.prlimit64),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_IF_EQUAL, 1, 0, 0),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def local_sockets_only(machine: str = "") -> bytes | None:
    """Another such array, to stand beside the first: no socket but a Unix one. None for a machine that is not known."""
    found = MACHINES.get(machine or platform.machine())
    if found is None:
        return None
    steps = [
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 3, found.socket),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_IF_EQUAL, 1, 0, AF_UNIX),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)

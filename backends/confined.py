"""The agent for a container, as one command line: there it closes what the container's runtime leaves open, then serves.

Docker's filter of system calls is wider than ours, apptainer has none, and leaves files outside of the sized directories
writable. Nothing that was given up so can be taken back. Needs `no_new_privs`, which both set.
"""

import platform
from base64 import b64encode
from collections.abc import Iterator, Sequence
from errno import ENOSYS, EPERM
from pathlib import Path
from struct import pack
from typing import NamedTuple
from zlib import compress

from backends.agent_bundle import FLAGS, agent_source
from backends.seccomp import ALLOW, FIRST_ARGUMENT, JUMP_IF_EQUAL, JUMP_IF_SET, LOAD, NUMBER, RETURN, filter_program

ERRNO = 0x00050000
NEW_NAMESPACES = 0x7E020000  # user, pid, mount, network, ipc, uts and cgroup
START = Path(__file__).with_name("container_start.py")
CALLS = """
if {sealed!r} is not None:
    seal({sealed!r})
    for disk in {sealed!r}:
        bound_files(disk, {files!r})
if not {keeps!r}:
    drop_capabilities()
refuse_system_calls({filters!r})
if {door!r}:
    take_door({door!r})
"""


class _Numbers(NamedTuple):
    clone: int
    clone3: int
    refused: tuple[int, ...]


MACHINES = {
    # unshare setns mount umount2 pivot_root open_tree move_mount fsopen fspick mount_setattr
    "x86_64": _Numbers(56, 435, (272, 308, 165, 166, 155, 428, 429, 430, 433, 442)),
    "aarch64": _Numbers(220, 435, (97, 268, 40, 39, 41, 428, 429, 430, 433, 442)),
}


class Confinement(NamedTuple):
    """How an agent in a container confines itself before it serves."""

    nested_namespaces: bool = False
    machine: str = ""
    """What `uname -m` prints where it will run, by default that of this machine."""
    sealed: Sequence[str] | None = None
    """The only mounts that stay writable; needs the capabilities SYS_ADMIN and SETPCAP, which are then given up."""
    files: int = 0
    """How many files each of those may hold, which are memory disks."""
    keeps_capabilities: bool = False
    door: str = ""
    """A socket over which it speaks, where it can (docker_door.py); empty: over its standard streams."""


def confined_command(python: str, end: str, how: Confinement | None = None) -> list[str]:
    """Run the agent without a file of its own; `end` as in `agent_bundle.agent_command`."""
    how = how or Confinement()
    filters = [filter_program(how.machine), None if how.nested_namespaces else namespace_filter(how.machine)]
    sealed = None if how.sealed is None else list(how.sealed)
    filters = [found for found in filters if found]
    calls = CALLS.format(sealed=sealed, files=how.files, keeps=how.keeps_capabilities, filters=filters, door=how.door)
    return _in_one_word(python, START.read_bytes() + calls.encode() + agent_source(), end)


def inner_command(python: str, end: str) -> list[str]:
    """The same for an agent below a confined one, whose filters hold for it too."""
    return _in_one_word(python, agent_source(), end)


def namespace_filter(machine: str = "") -> bytes | None:
    """An array of struct sock_filter that refuses to make or enter namespaces; None for a machine not in the table.

    Assumes that `filter_program` stands too, which ends programs of other architectures.
    """
    numbers = MACHINES.get(machine or platform.machine())
    return None if numbers is None else b"".join(pack("<HBBI", *step) for step in _steps(numbers))


def _in_one_word(python: str, source: bytes, end: str) -> list[str]:
    text = b64encode(compress(source, 9)).decode()
    return [python, *FLAGS, "-c", f"import binascii, zlib; exec(zlib.decompress(binascii.a2b_base64('{text}')))", end]


def _steps(numbers: _Numbers) -> Iterator[tuple[int, int, int, int]]:
    """(operation, how many steps to skip if true, if false, operand)"""
    count = len(numbers.refused)
    yield LOAD, 0, 0, NUMBER
    for index, number in enumerate(numbers.refused):
        yield JUMP_IF_EQUAL, count - index + 4, 0, number
    yield JUMP_IF_EQUAL, 5, 0, numbers.clone3
    yield JUMP_IF_EQUAL, 0, 2, numbers.clone
    yield LOAD, 0, 0, FIRST_ARGUMENT
    yield JUMP_IF_SET, 1, 0, NEW_NAMESPACES
    yield RETURN, 0, 0, ALLOW
    yield RETURN, 0, 0, ERRNO | EPERM
    # its flags lie in memory, which a filter cannot read; told that there is no such call, libraries take clone
    yield RETURN, 0, 0, ERRNO | ENOSYS

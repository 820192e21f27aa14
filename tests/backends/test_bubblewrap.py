"""What bubblewrap is told, and what its complaints mean."""

import struct
from pathlib import Path

import pytest

from backends.base import SandboxSpec
from backends.bubblewrap import binds, forbidden_by, walls
from backends.seccomp import ALLOW, KILL_PROCESS, MACHINES, REFUSE, filter_program


def words(spec: SandboxSpec) -> list[str]:
    return [word for option in walls(spec, binds(spec), lambda data: "9") for word in option]


def test_nested_namespaces_change_one_option():
    plain, nested = words(SandboxSpec()), words(SandboxSpec(nested_namespaces=True))
    assert set(plain) - set(nested) == {"--disable-userns"}


def test_every_memory_directory_has_a_size():
    found = words(SandboxSpec(disk_mib=3))
    sizes = [found[index - 1] for index, word in enumerate(found) if word == "--tmpfs"]
    assert sizes == [str(64 << 20), str(3 << 20), str(3 << 20)]


@pytest.mark.parametrize(
    "complaint",
    [
        "bwrap: No permissions to create new namespace, likely because the kernel does not allow it",
        "bwrap: setting up uid map: Permission denied",
        "bwrap: Creating new namespace failed: Operation not permitted",
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
    ],
)
def test_a_denial_says_what_to_allow(complaint: str):
    reason = forbidden_by(complaint)
    assert reason is not None
    assert "sysctl -w" in reason or "--security-opt" in reason


@pytest.mark.parametrize("complaint", ["bwrap: Can't find source path /x: No such file", "Operation not permitted", ""])
def test_what_is_no_denial_is_not_explained(complaint: str):
    assert forbidden_by(complaint) is None


def test_the_kernels_own_setting_is_named_where_it_forbids():
    file = Path("/proc/sys/user/max_user_namespaces")
    forbids = file.read_text().strip() == "0"
    reason = forbidden_by("bwrap: No permissions to create new namespace")
    assert reason is not None
    assert ("user.max_user_namespaces is 0" in reason) is forbids


def run_filter(program: bytes, architecture: int, number: int, argument: int) -> int:
    """What the kernel would return: the same four operations, carried out here."""
    data = struct.pack("<IIQQ", number, architecture, 0, argument)
    steps, position, accumulator = list(struct.iter_unpack("<HBBI", program)), 0, 0
    while True:
        code, if_true, if_false, operand = steps[position]
        position += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        else:
            holds = accumulator == operand if code == 0x15 else bool(accumulator & operand)
            position += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_refuses_its_list_and_other_processes_limits_and_nothing_else(machine: str):
    program, table = filter_program(machine), MACHINES[machine]
    assert program is not None
    refused = {number for number in range(600) if run_filter(program, table.audit, number, 1) == REFUSE}
    assert refused == {*table.refused, table.prlimit64}
    assert run_filter(program, table.audit, table.prlimit64, 0) == ALLOW
    assert {family for family in range(46) if run_filter(program, table.audit, table.socket, family) == ALLOW} == {1, 2, 10, 16}
    assert run_filter(program, table.audit, 1 | 0x40000000, 0) == REFUSE
    assert run_filter(program, 0x40000003, 1, 0) == KILL_PROCESS


def test_a_machine_that_is_not_in_the_table_has_no_filter():
    assert filter_program("riscv64") is None

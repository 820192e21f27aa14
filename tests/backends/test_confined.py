"""What the agent of a container refuses before it serves: the filter of namespaces, step by step as the kernel reads it."""

import errno
import struct

import pytest

from backends.confined import MACHINES, NEW_NAMESPACES, Confinement, confined_command, namespace_filter

ALLOWED, REFUSED, UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
THREAD, FORK = 0x3D0F00, 0x01200011  # flags that the C library passes to clone


def verdict(program: bytes, number: int, argument: int = 0) -> int:
    """What a filter of these few operations answers to a system call."""
    steps = list(struct.iter_unpack("<HBBI", program))
    memory = {0: number, 16: argument}
    position = loaded = 0
    while True:
        operation, if_true, if_false, operand = steps[position]
        position += 1
        if operation == 0x20:
            loaded = memory[operand]
        elif operation == 0x15:
            position += if_true if loaded == operand else if_false
        elif operation == 0x45:
            position += if_true if loaded & operand else if_false
        else:
            assert operation == 0x06
            return operand


@pytest.mark.parametrize("machine", MACHINES)
def test_namespaces_and_mounts_are_refused(machine: str):
    program, numbers = namespace_filter(machine), MACHINES[machine]
    assert program is not None
    assert {verdict(program, number) for number in numbers.refused} == {REFUSED}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_process_or_thread_is_made_only_without_a_namespace(machine: str):
    program, clone = namespace_filter(machine), MACHINES[machine].clone
    assert program is not None
    assert [verdict(program, clone, flags) for flags in (THREAD, FORK)] == [ALLOWED, ALLOWED]
    flags = [1 << bit for bit in range(32) if NEW_NAMESPACES & 1 << bit]
    assert {verdict(program, clone, FORK | flag) for flag in flags} == {REFUSED}
    assert len(flags) == 7


@pytest.mark.parametrize("machine", MACHINES)
def test_the_call_whose_flags_no_filter_can_read_is_said_not_to_exist(machine: str):
    program = namespace_filter(machine)
    assert program is not None
    assert verdict(program, MACHINES[machine].clone3) == UNKNOWN


@pytest.mark.parametrize("machine", MACHINES)
def test_other_calls_pass(machine: str):
    program, numbers = namespace_filter(machine), MACHINES[machine]
    assert program is not None
    others = set(range(460)) - {numbers.clone, numbers.clone3, *numbers.refused}
    assert {verdict(program, number, NEW_NAMESPACES) for number in others} == {ALLOWED}


def test_a_machine_that_is_not_known_has_no_filter():
    assert namespace_filter("vax") is None


def test_the_command_fits_into_one_word_of_a_command_line():
    words = confined_command("python3", "stdio", Confinement(sealed=["/workspace"]))
    assert (words[0], words[-1]) == ("python3", "stdio")
    assert max(map(len, words)) < 1 << 17  # the kernel's bound for one word

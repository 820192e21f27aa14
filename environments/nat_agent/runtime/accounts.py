"""What all processes of an evaluation use together: a resource limit holds for each of them alone."""

# a look at /proc opens a hundred files, with pathlib it takes twice as long
# ruff: noqa: PTH115, PTH123, PTH208

import os
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
PARENT, USER_TIME, REAPED_SYSTEM_TIME, RESIDENT = 1, 11, 14, 21  # in /proc/PID/stat, behind the program's name


class Usage(NamedTuple):
    """Of a process and of all that descend from it."""

    cpu_seconds: float
    resident_mib: float
    """Pages that several of them share are counted for each."""
    pids: tuple[int, ...]


def readable() -> bool:
    """Whether /proc tells of processes by the numbers that we know them by."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def resident_mib() -> int:
    """Memory of this process."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE >> 20


def usage_of(roots: Collection[int]) -> dict[int, Usage]:
    """What each of the trees below `roots` uses, from one look at /proc."""
    processes = {int(name): fields for name in os.listdir("/proc") if name.isdigit() and (fields := _stat(name))}
    trees: dict[int, list[int]] = {root: [] for root in roots}
    for pid in processes:
        above = pid
        while above not in trees and above in processes:
            above = int(processes[above][PARENT])
        if above in trees:
            trees[above].append(pid)
    return {root: _total([processes[pid] for pid in pids], pids) for root, pids in trees.items()}


def proportional_mib(pids: Collection[int]) -> float:
    """Memory of processes, each shared page counted once in all. Takes milliseconds for each of them."""
    return sum(map(_proportional_kib, pids)) / 1024


def waited_seconds(pids: Collection[int]) -> float:
    """How long one thread of these processes, the one that waited longest, was ready to run while others did.

    Not the sum of all: many that hinder each other would make a machine look busy that is not.
    """
    return max((waited for pid in pids for waited in _waited_nanoseconds(pid)), default=0) / 1e9


def _total(found: list[list[bytes]], pids: list[int]) -> Usage:
    ticks = sum(int(ticks) for fields in found for ticks in fields[USER_TIME : REAPED_SYSTEM_TIME + 1])
    return Usage(ticks / TICKS, sum(int(fields[RESIDENT]) for fields in found) * PAGE / (1 << 20), tuple(pids))


def _stat(name: str) -> list[bytes]:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            text = file.read()
    except OSError:  # it has ended
        return []
    return text[text.rindex(b")") + 2 :].split()  # the name may hold anything: count from its end


def _waited_nanoseconds(pid: int) -> list[int]:
    found = []
    with suppress(OSError):  # it has ended, or the kernel keeps no such figures
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                found.append(int(file.read().split()[1]))
    return found


def _proportional_kib(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"Pss:")), 0)
    except OSError:
        return 0

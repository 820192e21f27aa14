"""What the sandbox uses, and the leftovers of it that are neither processes nor files."""
# pathlib costs milliseconds
# ruff: noqa: PTH118, PTH123, PTH116

from __future__ import annotations

import os
from _ctypes import call_function, dlopen, dlsym

from backends.agent.processes import Setup, Suppressed, stat_fields, strays

RSS_PAGES, UTIME, CUTIME = 21, 11, 13  # in /proc/PID/stat, counted from the state
SYSV = {"shm": "shmctl", "msg": "msgctl", "sem": "semctl"}
REMOVE = 0


def usage(setup: Setup, parked: int) -> dict[str, object]:
    """Processes, resident bytes, seconds of CPU, bytes in the writable directories.

    `parked` of the processes are nannies without a command, which are not counted: they belong to the agent.
    """
    pids = [os.getpid(), *strays(os.getpid(), set())]
    page, tick = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    fields = [found for found in (stat_fields(str(pid)) for pid in pids) if found]
    ticks = sum(int(time) for found in fields for time in found[UTIME : CUTIME + 2])
    return {
        "processes": len(fields) - parked,
        "memory_bytes": page * sum(int(found[RSS_PAGES]) for found in fields),
        "cpu_seconds": ticks / tick,
        "disk_bytes": sum(_used(root) for root in setup.writable),
    }


def remove_shared_memory() -> None:
    """Remove System V segments, queues and semaphores: they outlive every process of the namespace."""
    libc = dlopen(None, 0)  # pyright: ignore[reportArgumentType] None is this program itself
    for kind, control in SYSV.items():
        with Suppressed(OSError), open(f"/proc/sysvipc/{kind}", "rb") as table:
            next(table, b"")  # the titles; not read at once, because there may be no memory left
            for line in table:
                number = int(line.split()[1])
                arguments = (number, 0, REMOVE) if kind == "sem" else (number, REMOVE, 0)
                call_function(dlsym(libc, control), arguments)


def _used(root: str) -> int:
    """Bytes in use where a directory is a file system of its own, of its files otherwise."""
    found = os.statvfs(root)
    if os.stat(root).st_dev != os.stat(os.path.join(root, "..")).st_dev:
        return (found.f_blocks - found.f_bfree) * found.f_frsize
    used, waiting = 0, [root]
    while waiting:  # not os.walk, which goes as deep into itself as the directories do
        with Suppressed(OSError), os.scandir(waiting.pop()) as entries:  # closed, or too deep for a path
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                with Suppressed(OSError):  # removed in the meantime
                    used += entry.stat(follow_symlinks=False).st_blocks * 512
    return used

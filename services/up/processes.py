"""Process trees, from /proc; and no process of a run outlives it, whoever started it.

A sandbox's outer process may end before its inner one, which then belongs to whoever adopts orphans. That is
normally process 1; during a run it is us, so that a container without an init has nothing to collect.
"""

import ctypes
import os
import signal
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
PR_SET_CHILD_SUBREAPER = 36


def parents() -> dict[int, int]:
    """Every process's parent."""
    found: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                # the name in brackets may hold blanks and brackets itself
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    return found


def descendants(pid: int, tree: Mapping[int, int]) -> list[int]:
    """What a process has started, and what that has started, and so on."""
    found, frontier = list[int](), {pid}
    while frontier:
        frontier = {child for child, parent in tree.items() if parent in frontier}
        found += frontier
    return found


def adopt_orphans() -> None:
    """Become the parent of what our children leave behind."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(known: Collection[int]) -> None:
    """Collect adopted processes that have ended; children in `known` are left to those who wait for them."""
    for pid in _children() - set(known):
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def end_orphans() -> None:
    """Kill and collect every process that is still below us. Nobody may be waiting for a child any more."""
    while below := descendants(os.getpid(), parents()):
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in _children():
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> set[int]:
    return {pid for pid, parent in parents().items() if parent == os.getpid()}

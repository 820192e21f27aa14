"""Processes of this machine, counted from outside of any sandbox."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

DAEMONS = (b"dockerd", b"containerd", b"sshd")


def processes_with(word: str) -> list[int]:
    """Pids whose command line holds `word`, this process left out."""
    return [pid for pid, directory in _processes() if pid != os.getpid() and word.encode() in _text(directory / "cmdline")]


def children() -> list[int]:
    """Pids of this process's children, ended ones that nobody waited for included; not the daemons that tests share."""
    mine = [(pid, directory) for pid, directory in _processes() if _parent(_text(directory / "stat")) == os.getpid()]
    # by the kernel's name of a process: sshd writes a title over its command line
    return [pid for pid, directory in mine if _text(directory / "comm").strip() not in DAEMONS]


def mounts() -> list[str]:
    """The mounts of this machine, those of a docker daemon left out: it has a life of its own."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "docker" not in line and "overlay" not in line]


async def gone(word: str, seconds: float = 30) -> bool:
    """Whether all processes with that word in their command line end within that time."""
    for _ in range(int(seconds * 50)):
        if not processes_with(word):
            return True
        await asyncio.sleep(0.02)
    return False


def _processes() -> Iterator[tuple[int, Path]]:
    return ((int(path.name), path) for path in Path("/proc").iterdir() if path.name.isdigit())


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _parent(stat: bytes) -> int:
    fields = stat.rpartition(b")")[2].split()
    return int(fields[1]) if fields else -1

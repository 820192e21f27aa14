"""Peak memory of the processes of a run, from /proc."""

from collections.abc import Mapping
from pathlib import Path

PROC = Path("/proc")
KIB_PER_MIB = 1024


class PeakMemory:
    """Looks now and then, and keeps the largest figures by name, in MiB of resident memory."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}

    def look(self, pids: Mapping[str, int]) -> None:
        """Note the peak of each process, and of the sum of what it has started (`NAME children`).

        Pages that forked processes share count once for each of them.
        """
        parents = _parents()
        for name, pid in pids.items():
            self._note(name, _status(pid, "VmHWM"))
            below = _descendants(pid, parents)
            if below:
                self._note(f"{name} children", sum(_status(one, "VmRSS") for one in below))

    def _note(self, name: str, mib: float) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0.0), round(mib, 1))


def _parents() -> dict[int, int]:
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


def _descendants(pid: int, parents: Mapping[int, int]) -> list[int]:
    found, frontier = list[int](), {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found += frontier
    return found


def _status(pid: int, key: str) -> float:
    """A figure of /proc/PID/status in MiB; 0 where the process is gone."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / KIB_PER_MIB for line in lines if line.startswith(f"{key}:")), 0.0)

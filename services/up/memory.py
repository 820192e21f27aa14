"""Peak memory of the processes of a run, from /proc."""

import os
from collections.abc import Mapping

from services.up.processes import PROC, descendants, parents

KIB_PER_MIB = 1024


class PeakMemory:
    """Looks now and then, and keeps the largest figures by name, in MiB of resident memory."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}

    def look(self, pids: Mapping[str, int]) -> None:
        """Note the peak of each process, of the sum of what it has started (`NAME children`), and our own.

        Pages that forked processes share count once for each of them.
        """
        self._note("natgym up", _status(os.getpid(), "VmHWM"))
        tree = parents()
        for name, pid in pids.items():
            self._note(name, _status(pid, "VmHWM"))
            below = descendants(pid, tree)
            if below:
                self._note(f"{name} children", sum(_status(one, "VmRSS") for one in below))

    def _note(self, name: str, mib: float) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0.0), round(mib, 1))


def _status(pid: int, key: str) -> float:
    """A figure of /proc/PID/status in MiB; 0 where the process is gone."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / KIB_PER_MIB for line in lines if line.startswith(f"{key}:")), 0.0)

"""Who made a sandbox, as a label that says later whether its maker is still there."""

import os
from pathlib import Path

LABEL = "natgym.owner"
CREATED_LABEL = "natgym.created"
TOKEN_LABEL = "natgym.token"  # noqa: S105


def this_owner() -> str:
    """The label of this process: boot id, pid, and when it started, so that a pid that is given again is no match."""
    return f"{_boot_id()}-{os.getpid()}-{_started(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Whether that process has ended. False for one of another machine, which cannot be seen, and for no such label."""
    boot, _, rest = owner.rpartition("-")[0].rpartition("-")
    pid, started = rest, owner.rpartition("-")[2]
    if boot != _boot_id():
        return False
    return not pid.isdigit() or _started(int(pid)) != started


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")


def _started(pid: int) -> str:
    """Clock ticks from boot to the start of a process; empty where there is none of that pid."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]

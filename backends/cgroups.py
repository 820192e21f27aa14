"""Limits on all processes of a sandbox together, where this process may make control groups.

Both versions are known: in the second, one group below ours has all three controllers; in the first, there is one group in
each controller's hierarchy. Groups are made below our own, so that whatever limits us limits our sandboxes too.

Version 2 lets a group that holds processes have no such groups below it, its topmost one excepted. Where ours was delegated
to us, its processes are therefore moved into a group beside those of the sandboxes first.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from errno import EBUSY
from functools import cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

from backends.base import SandboxSpec
from backends.memory_disks import memory_of
from backends.owner import is_gone, this_owner

CONTROLLERS = ("pids", "memory", "cpu")
PREFIX = "natgym-"
OWN = "natgym.own"
"""The group in which the processes of a delegated one live, ours among them."""
DELEGATE = ("user.delegate", "trusted.delegate")
"""Attributes with which systemd marks a group that it leaves to others; the second is root's to see."""
PERIOD_MICROSECONDS = 100_000
SPARE_PROCESSES = 16  # the agent, a nanny for every command
REMOVE_SECONDS = 2.0
_numbers = count(1)


class Hierarchies(NamedTuple):
    """Where our groups are made: controller -> directory. In version 2 it is the same one three times."""

    version: int
    directories: dict[str, Path]

    @property
    def places(self) -> list[Path]:
        """Each directory once."""
        return list(dict.fromkeys(self.directories.values()))


class Group:
    """The groups of one sandbox. Raises OSError where they cannot be made."""

    def __init__(self, hierarchies: Hierarchies, spec: SandboxSpec) -> None:
        self._hierarchies = hierarchies
        self._name = f"{PREFIX}{this_owner()}-{next(_numbers)}"
        try:
            for place in hierarchies.places:
                (place / self._name).mkdir()
            for controller, file, value in _settings(hierarchies.version, spec):
                self._file(controller, file).write_text(value)
        except OSError:
            self.remove()
            raise

    @property
    def doors(self) -> list[str]:
        """The files into which a process that belongs here is written."""
        return [str(place / self._name / "cgroup.procs") for place in self._hierarchies.places]

    def take(self, pid: int) -> None:
        """Move a process in. Blocks: the kernel may take milliseconds for it, all of it waiting."""
        for door in self.doors:
            Path(door).write_text(str(pid))

    def oom_kills(self) -> int:
        """How many processes of it the kernel killed for their memory."""
        name = "memory.events" if self._hierarchies.version == 2 else "memory.oom_control"
        try:
            lines = self._file("memory", name).read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def remove(self) -> None:
        """Remove them, once their last process was waited for. Safe to call twice."""
        for place in self._hierarchies.places:
            _remove(place / self._name)

    def _file(self, controller: str, name: str) -> Path:
        return self._hierarchies.directories[controller] / self._name / name


@cache
def hierarchies() -> Hierarchies | None:
    """Where groups can be made; None where this process may not, or where a controller is missing. Tried once."""
    for find in (_version_2, _version_1):
        found = find()
        if found is not None:
            with suppress(OSError):
                Group(found, SandboxSpec()).remove()
                return found
    return None


def reap() -> list[str]:
    """Remove the groups that processes which are gone left behind; returns their names."""
    found = hierarchies()
    gone = []
    for place in found.places if found else []:
        for path in place.glob(f"{PREFIX}*"):
            if is_gone(path.name.removeprefix(PREFIX).rpartition("-")[0]):
                _remove(path)
                gone.append(path.name)
    return sorted(set(gone))


def _settings(version: int, spec: SandboxSpec) -> Iterator[tuple[str, str, str]]:
    """(controller, file, value)"""
    memory, quota = memory_of(spec), int(spec.cpus * PERIOD_MICROSECONDS)
    yield "pids", "pids.max", str(spec.processes + SPARE_PROCESSES)
    if version == 2:
        yield "memory", "memory.max", str(memory)
        yield "cpu", "cpu.max", f"{quota} {PERIOD_MICROSECONDS}"
    else:
        yield "memory", "memory.limit_in_bytes", str(memory)
        yield "cpu", "cpu.cfs_period_us", str(PERIOD_MICROSECONDS)
        yield "cpu", "cpu.cfs_quota_us", str(quota)


def _version_1() -> Hierarchies | None:
    ours = {name: path for names, path in _our_groups() for name in names}
    mounts = {option: Path(point) for kind, point, options in _mounts() if kind == "cgroup" for option in options}
    if not all(name in ours and name in mounts for name in CONTROLLERS):
        return None
    return Hierarchies(1, {name: mounts[name] / ours[name] for name in CONTROLLERS})


def _version_2() -> Hierarchies | None:
    root = next((Path(point) for kind, point, _ in _mounts() if kind == "cgroup2"), None)
    ours = next((path for names, path in _our_groups() if names == [""]), None)
    if root is None or ours is None:
        return None
    place = root / ours
    if place.name == OWN:
        place = place.parent
    try:
        if not _hands_down(place):
            _hand_down(place)
    except OSError:
        return None
    return Hierarchies(2, dict.fromkeys(CONTROLLERS, place))


def _hands_down(place: Path) -> bool:
    """Whether the groups below have the controllers."""
    return set(CONTROLLERS) <= set((place / "cgroup.subtree_control").read_text().split())


def _hand_down(place: Path) -> None:
    """Give them to the groups below. Raises OSError where we may not."""
    order = " ".join(f"+{name}" for name in CONTROLLERS)
    try:
        (place / "cgroup.subtree_control").write_text(order)
    except OSError as error:
        if error.errno != EBUSY or not _is_delegated(place):
            raise
        (place / OWN).mkdir(exist_ok=True)
        for pid in (place / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (place / OWN / "cgroup.procs").write_text(pid)
        (place / "cgroup.subtree_control").write_text(order)


def _is_delegated(place: Path) -> bool:
    """Whether what is below that group is ours to arrange: systemd marked it so, or it is the topmost of a container."""
    with suppress(OSError):
        if any(os.getxattr(place, name) == b"1" for name in DELEGATE if name in os.listxattr(place)):
            return True
    return place.is_mount()


def _our_groups() -> list[tuple[Sequence[str], str]]:
    """(controllers, path below the hierarchy's mount) of this process; one empty name stands for version 2."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    return [(names.split(","), path.lstrip("/")) for _, names, path in (line.split(":", 2) for line in lines)]


def _mounts() -> list[tuple[str, str, list[str]]]:
    """(type, mount point, options) of every mount."""
    fields = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return [(kind, point, options.split(",")) for _, point, kind, options, *_ in fields]


def _remove(group: Path) -> None:
    """A group can be removed when its last process is gone, which may take a moment after that one's end."""
    until = time.monotonic() + REMOVE_SECONDS
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > until:
                return
            os.sched_yield()
        else:
            return

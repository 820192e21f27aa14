"""What sandboxes leave of descriptors, memory, mounts, groups and namespaces: nothing, also when their owner is killed."""

import asyncio
import gc
import os
import sys
from pathlib import Path

import pytest

from backends import cgroups
from backends.base import SandboxSpec
from backends.local import LocalBackend
from tests.backends.conftest import AnyBackend
from tests.backends.processes import children, mounts, processes_with

CYCLES = 15
# an allocator keeps some pages; fifteen sandboxes that leaked one snapshot or reply each would be far over this
ROOM_FOR_CACHES_KIB = 8 << 10
NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts")


def footprint() -> dict[str, object]:
    """What this process and its children hold of the kernel's."""
    gc.collect()
    found = cgroups.hierarchies()
    mine = f"{cgroups.PREFIX}{cgroups.this_owner()}-*"
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "children": children(),
        "mounts": mounts(),
        "groups": sorted(path.name for place in (found.places if found else []) for path in place.glob(mine)),
    }


def namespaces_of(pids: list[int]) -> set[str]:
    """The namespaces of those processes that are not ours."""
    links = set[str]()
    for pid in pids:
        for kind in NAMESPACES:
            link = str(Path(f"/proc/{pid}/ns/{kind}").readlink())
            if link != str(Path(f"/proc/self/ns/{kind}").readlink()):
                links.add(link)
    return links


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def cycle(backend: AnyBackend) -> None:
    sandbox = await backend.create(SandboxSpec())
    await sandbox.write("a", bytes(1 << 20))
    await sandbox.exec(["sh", "-c", "setsid sleep 4500 & cat a"], timeout_seconds=60)
    await sandbox.snapshot()
    await (await sandbox.session()).run("sleep 4500 &", timeout_seconds=60)
    await sandbox.destroy()


async def test_sandboxes_leave_everything_as_it_was(backend: AnyBackend):
    for _ in range(2):
        await cycle(backend)  # the first ones fill caches
    before, kib = footprint(), resident_kib()
    for _ in range(CYCLES):
        await cycle(backend)
    assert footprint() == before
    assert resident_kib() - kib < ROOM_FOR_CACHES_KIB


OWNER = """
import asyncio, sys
from backends.base import BACKENDS, SandboxSpec
async def main():
    backend = BACKENDS.load("local")()
    for _ in range(5):
        sandbox = await backend.create(SandboxSpec())
        program = await sandbox.spawn(["sh", "-c", "echo up; setsid sleep 4501.{mark} & sleep 4501.{mark}"])
        await program.receive()
    print("up", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""


async def test_the_sandboxes_of_a_killed_owner_are_gone_with_all_they_had(local: LocalBackend):
    mark = str(int.from_bytes(os.urandom(4), "big"))
    before = footprint()
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER.replace("{mark}", mark), stdout=asyncio.subprocess.PIPE, env=environ
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"up\n"
    held = namespaces_of(processes_with(f"4501.{mark}"))
    assert len(held) == 5 * len(NAMESPACES)
    owner.kill()
    await owner.wait()
    async with asyncio.timeout(60):
        while processes_with(f"4501.{mark}") or held & living_namespaces():
            await asyncio.sleep(0.05)
    await local.reap()
    found = cgroups.hierarchies()
    assert [path for place in (found.places if found else []) for path in place.glob(f"*-{owner.pid}-*")] == []
    del owner
    assert footprint() == before


def living_namespaces() -> set[str]:
    """The namespaces of all processes of the machine that may be looked at."""
    links = set[str]()
    for path in Path("/proc").glob("[0-9]*/ns/*"):
        try:
            links.add(str(path.readlink()))
        except OSError:
            continue
    return links


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.03])
async def test_a_creation_that_is_cancelled_leaves_nothing(backend: AnyBackend, delay: float):
    await (await backend.create(SandboxSpec())).destroy()
    before = footprint()
    creating = asyncio.create_task(backend.create(SandboxSpec()))
    await asyncio.sleep(delay)
    creating.cancel()
    made = (await asyncio.gather(creating, return_exceptions=True))[0]
    if not isinstance(made, BaseException):
        await made.destroy()
    assert footprint() == before

"""Child processes of a run: told by name when they die, and none of them left."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.settings import child_environ
from services.ready import wait_until_ready
from services.up.children import Child, Children, ServiceDied
from services.up.processes import descendants, parents
from tests.services.small_policy import ROOT


async def start_api(children: Children, tmp_path: Path, *more: str) -> Child:
    """A rollout API that listens."""
    from services.bind import free_port

    port = free_port("127.0.0.1", 18400)
    arguments = ["serve", "api", "--port", str(port), "--database", str(tmp_path / "queue.sqlite"), *more]
    child = await children.start("rollout API", arguments)
    await wait_until_ready(f"http://127.0.0.1:{port}/ready", "it", limit_seconds=30)
    return child


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_child_that_is_killed_is_told_by_name_and_log(tmp_path: Path):
    async with Children(tmp_path / "logs") as children:
        child = await start_api(children, tmp_path)
        child.process.kill()
        with pytest.raises(ServiceDied, match=r"the rollout API was killed by SIGKILL; its log: .*rollout_api.log"):
            async with asyncio.timeout(30):
                await children.watch()


async def test_a_mistake_that_a_child_tells_is_told_as_it_is(tmp_path: Path):
    async with Children(tmp_path / "logs") as children:
        child = await children.start("trainer", ["serve", "api", "--set", "api.prt=1"])
        with pytest.raises(ServiceDied, match=r"^configuration: |unknown key 'api.prt'") as caught:
            await children.finished(child)
    assert (caught.value.exit_code, list(caught.value.tail)) == (2, [])


async def test_leaving_ends_every_child(tmp_path: Path):
    async with Children(tmp_path / "logs") as children:
        child = await start_api(children, tmp_path)
        assert alive(child.process.pid)
    assert (alive(child.process.pid), child.process.returncode) == (False, 0)


async def test_a_child_that_hangs_is_killed_after_its_grace(tmp_path: Path):
    async with Children(tmp_path / "logs", grace_seconds=0.2) as children:
        child = await start_api(children, tmp_path)
        os.kill(child.process.pid, signal.SIGSTOP)  # a stopped process hears no SIGTERM
    assert (alive(child.process.pid), child.process.returncode) == (False, -signal.SIGKILL)


PARENT = """
import asyncio, sys
from pathlib import Path
from services.up.children import Children
from tests.services.up.test_children import start_api

async def main():
    async with Children(Path(sys.argv[1]) / "logs") as children:
        child = await start_api(children, Path(sys.argv[1]))
        print(child.process.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_child_dies_with_its_parent(tmp_path: Path):
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    parent = subprocess.Popen(command, cwd=ROOT, env=child_environ(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    watched = os.pidfd_open(child)
    parent.kill()
    parent.communicate()
    import select

    ready, _, _ = select.select([watched], [], [], 30)
    os.close(watched)
    assert ready


def test_descendants_are_children_of_children_too():
    assert sorted(descendants(1, {2: 1, 3: 2, 4: 3, 9: 8})) == [2, 3, 4]
    assert parents()[os.getpid()] == os.getppid()

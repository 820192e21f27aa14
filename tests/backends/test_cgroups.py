"""Limits on a sandbox as a whole, on machines where control groups can be made."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backends import cgroups
from backends.base import SandboxSpec
from backends.cgroups import PREFIX, Hierarchies
from backends.local import LocalBackend
from backends.owner import is_gone, this_owner


@pytest.fixture
def places() -> list[Path]:
    """Where groups are made; skips where none can be."""
    found = cgroups.hierarchies()
    if found is None:
        pytest.skip("no cgroup can be made here")
    return found.places


def groups(places: list[Path]) -> set[str]:
    return {path.name for place in places for path in place.glob(f"{PREFIX}{this_owner()}-*")}


async def test_the_groups_go_with_their_sandbox(places: list[Path], local: LocalBackend):
    before = groups(places)
    sandbox = await local.create(SandboxSpec())
    assert len(groups(places) - before) == 1
    await sandbox.destroy()
    assert groups(places) == before


async def test_every_command_is_in_them(places: list[Path], local: LocalBackend):
    before = groups(places)
    sandbox = await local.create(SandboxSpec())
    await sandbox.spawn(["sh", "-c", "sleep 4400; :"])
    (name,) = groups(places) - before
    for place in places:
        while len((place / name / "cgroup.procs").read_text().split()) < 4:  # agent, nanny, sh, sleep
            await sandbox.alive()


async def test_a_command_that_ran_out_of_memory_says_so(places: list[Path], local: LocalBackend):
    sandbox = await local.create(SandboxSpec(memory_mib=64, disk_mib=1, processes=64))
    # all that is taken is held, and the command ends by a signal when one of them was killed
    child = "x = b'x' * (60 << 20); signal.pause()"
    hog = f"import os, signal\nfor _ in range(4):\n  if not os.fork(): {child}\nos.wait()\nos.kill(0, 9)"
    result = await sandbox.exec(["python3", "-I", "-S", "-c", hog], timeout_seconds=60)
    assert (result.out_of_memory, result.exit_code == 0) == (True, False)
    assert not (await sandbox.exec(["sh", "-c", "kill -9 $$"], timeout_seconds=60)).out_of_memory


async def test_what_a_killed_process_left_is_removed_later(places: list[Path], local: LocalBackend):
    child = os.fork()
    if child == 0:
        try:
            found = cgroups.hierarchies()
            assert found is not None
            cgroups.Group(found, SandboxSpec())
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    left = [path.name for path in places[0].glob(f"{PREFIX}*-{child}-*")]
    assert len(left) == 1
    assert set(left) <= set(await local.reap())
    assert not (places[0] / left[0]).exists()


def test_the_second_version_is_set_up_in_one_group(tmp_path: Path):
    """The kernel's files are plain ones here, so this is about what is written where."""
    hierarchies = Hierarchies(2, dict.fromkeys(cgroups.CONTROLLERS, tmp_path))
    group = cgroups.Group(hierarchies, SandboxSpec(memory_mib=100, disk_mib=10, processes=20, cpus=1.5))
    (made,) = tmp_path.iterdir()
    written = {path.name: path.read_text() for path in made.iterdir()}
    assert written == {
        "pids.max": "36",
        "memory.max": str(((100 + 20 + 64) << 20) + ((20 + 64) << 19)),
        "cpu.max": "150000 100000",
    }
    (made / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.oom_kills() == 2


DELEGATED = """
import os, sys
os.chown(sys.argv[1], 60999, 60999)
for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
    os.chown(f"{sys.argv[1]}/{name}", 60999, 60999)
open(f"{sys.argv[1]}/cgroup.procs", "w").write("0")
os.setgroups([])
os.setgid(60999)
os.setuid(60999)
from backends import cgroups
from backends.base import SandboxSpec
for _ in range(2):
    found = cgroups.hierarchies.__wrapped__()
    cgroups.Group(found, SandboxSpec()).remove()
    print(found.version, *found.places)
"""


def test_a_delegated_group_of_the_second_version_is_used_without_root():
    parent = Path("/sys/fs/cgroup")
    control = parent / "cgroup.subtree_control"
    if os.geteuid() != 0 or not control.is_file() or not {*cgroups.CONTROLLERS} <= {*control.read_text().split()}:
        pytest.skip("needs root and a second version that hands its controllers down")
    group = parent / f"natgym.test-{os.getpid()}"
    group.mkdir()
    os.setxattr(group, "user.delegate", b"1")
    try:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", DELEGATED, str(group)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == (f"2 {group}\n2 {group}\n", "")
    finally:
        for path in (group / cgroups.OWN, group):
            if path.exists():
                path.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide the control groups")
def test_the_doctor_says_how_to_get_control_groups_where_none_can_be_made():
    hidden = ["unshare", "--mount", "--propagation", "private", "--"]
    cover = ["sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', "sh"]
    doctor = [sys.executable, "-m", "services.cli", "doctor", "--json"]
    done = subprocess.run(
        [*hidden, *cover, *doctor], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300
    )
    (found,) = [finding["detail"] for finding in json.loads(done.stdout) if finding["what"] == "sandboxes"]
    if "bubblewrap" not in found:
        pytest.skip(found)
    assert "tier namespaces" in found
    assert "systemd-run --user --scope --property Delegate=yes natgym" in found


def test_an_owner_is_gone_when_its_process_is():
    mine = this_owner()
    boot, pid, started = mine.rsplit("-", 2)
    assert not is_gone(mine)
    assert is_gone(f"{boot}-{pid}-{int(started) + 1}")  # the pid was given again
    assert not is_gone(f"{'0' * 32}-{pid}-1")  # of another machine, which cannot be seen

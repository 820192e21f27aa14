"""How sandboxes begin, are put back, are copied and end."""

import asyncio
import gc
from pathlib import Path

import pytest

from backends.base import (
    CapabilityError,
    Cause,
    Feature,
    Limit,
    Network,
    SandboxError,
    SandboxLost,
    SandboxSpec,
    SessionKind,
    StartTimeout,
)
from tests.backends.conformance.cases import SPEC, Cases, Place
from tests.backends.processes import children, mounts

case = Cases("lifecycle")


@case()
async def destroy_may_be_called_twice_and_at_once(place: Place):
    await asyncio.gather(place.sandbox.destroy(), place.sandbox.destroy())
    await place.sandbox.destroy()
    assert not await place.sandbox.alive()


@case()
async def a_destroyed_sandbox_says_that_nothing_ran(place: Place):
    await place.sandbox.destroy()
    with pytest.raises(SandboxLost) as lost:
        await place.sandbox.exec(["true"], timeout_seconds=5)
    assert (lost.value.maybe_executed, lost.value.cause) == (False, Cause.DESTROYED)


@case()
async def destroy_during_a_command_says_that_it_may_have_run(place: Place):
    running = asyncio.create_task(place.sh("sleep 4000", timeout_seconds=60))
    await asyncio.sleep(0)
    await place.sandbox.destroy()
    with pytest.raises(SandboxLost) as lost:
        await running
    assert lost.value.maybe_executed


@case()
async def a_cancelled_destroy_still_destroys(place: Place):
    destroying = asyncio.create_task(place.sandbox.destroy())
    await asyncio.sleep(0)
    destroying.cancel()
    await asyncio.gather(destroying, return_exceptions=True)
    await place.sandbox.destroy()
    assert not await place.sandbox.alive()


@case()
async def one_token_makes_one_sandbox(place: Place):
    made = await asyncio.gather(*(place.backend.create(SPEC, token="one") for _ in range(3)))
    again = await place.backend.create(SPEC, token="one")
    other = await place.backend.create(SPEC, token="other")
    assert {sandbox.id for sandbox in made} == {again.id} != {other.id}


@case()
async def a_token_of_a_destroyed_sandbox_makes_a_fresh_one(place: Place):
    first = await place.backend.create(SPEC, token="one")
    await first.write("a", b"1")
    await first.destroy()
    assert await (await place.backend.create(SPEC, token="one")).files() == ()


@case()
async def one_of_two_callers_may_be_cancelled(place: Place):
    given_up = asyncio.create_task(place.backend.create(SPEC, token="one"))
    waiting = asyncio.create_task(place.backend.create(SPEC, token="one"))
    await asyncio.sleep(0)
    given_up.cancel()
    assert (await (await waiting).exec(["echo", "here"], timeout_seconds=30)).stdout == b"here\n"


@case()
async def a_creation_that_is_cancelled_leaves_nothing(place: Place):
    await place.sandbox.destroy()
    before = footprint()
    for turns in (1, 20, 200):
        creating = asyncio.create_task(place.backend.create(SPEC))
        for _ in range(turns):
            await asyncio.sleep(0)
        creating.cancel()
        made = (await asyncio.gather(creating, return_exceptions=True))[0]
        if not isinstance(made, BaseException):
            await made.destroy()
    assert_no_more_than(before)


@case()
async def a_deadline_that_cannot_be_met_is_a_timeout(place: Place):
    with pytest.raises(StartTimeout) as late:
        await place.backend.create(SPEC, deadline_seconds=0.0001)
    assert late.value.retryable


@case()
async def the_end_of_the_backend_ends_its_sandboxes(place: Place):
    more = [await place.backend.create(SPEC) for _ in range(2)]
    await place.backend.aclose()
    assert [await sandbox.alive() for sandbox in (place.sandbox, *more)] == [False, False, False]


@case()
async def nobody_elses_sandbox_is_reaped(place: Place):
    await place.backend.reap(older_than_seconds=0)
    assert (await place.sh("echo alive")).stdout == b"alive\n"


@case(Feature.RESET)
async def a_reset_leaves_nothing(place: Place):
    session = await place.sandbox.session(kind=SessionKind.PYTHON)
    await session.run("x = 1", timeout_seconds=30)
    await place.sandbox.spawn(["sleep", "4000"])
    await place.text("mkdir -p a/b; echo 1 >a/b/c; echo 2 >$HOME/d; mkdir -m 0 closed; ln -s / link")
    await place.sandbox.reset()
    assert await place.text("ls -A . $HOME | grep -v : | tr -d '\\n'") == ""
    assert (await place.sandbox.stats()).processes == 1
    assert b"NameError" in (await session.run("x", timeout_seconds=30)).stderr


@case(Feature.RESET)
async def the_command_after_a_reset_does_not_die_of_it(place: Place):
    for _ in range(60):
        await place.sandbox.spawn(["sleep", "4000"])
        await place.sandbox.exec(["true"], timeout_seconds=30)  # whoever ran it waits for another command
        await place.sandbox.reset()
        assert await place.text("echo alive") == "alive\n"


@case(Feature.RESET, "private_pids")
async def a_reset_removes_shared_memory(place: Place):
    await place.python(
        "import ctypes; c = ctypes.CDLL(None); c.shmget(4711, 4096, 0o1666); c.semget(4711, 1, 0o1666); c.msgget(4711, 0o1666)"
    )
    await place.sh("echo x >/dev/shm/a")
    await place.sandbox.reset()
    assert int(await place.text("cat /proc/sysvipc/* | wc -l")) == 3
    assert await place.text("ls -A /dev/shm") == ""


@case(Feature.RESET)
async def a_tree_of_any_depth_is_reset(place: Place):
    deep = "import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')\nopen('end', 'w').close()"
    await place.sandbox.exec(["python3", "-I", "-S", "-c", deep], timeout_seconds=60)
    await place.sandbox.reset()
    assert await place.text("ls -A") == ""


MAKE = """
mkdir -p a/b; echo one >a/b/c; chmod 750 a; ln -s b/c a/link
printf '#!/bin/sh\necho ran\n' >run; chmod 755 run; touch -d 2001-02-03 run
"""
SHOW = "find . -printf '%P %y %m %l\\n' | sort; cat a/b/c; ./run; stat -c %Y run"


@case(Feature.SNAPSHOT)
async def a_snapshot_is_put_back(place: Place):
    await place.text(MAKE)
    before = await place.text(SHOW)
    kept = await place.sandbox.snapshot()
    for _ in range(2):
        await place.text("echo changed >a/b/c; rm run; mkdir new")
        await place.sandbox.reset(kept)
        assert await place.text(SHOW) == before


# what could be left of a file that is written over: more names, a lock on its mode, an attribute, room behind its end, a
# change that leaves size and times as they were
MEDDLE = {
    "another name": "ln a/b/c twin; mv twin $HOME/twin",
    "a name elsewhere": "mv a/b/c $HOME/c; ln -s $HOME/c a/b/c",
    "a directory in its place": "rm a/b/c; mkdir -p a/b/c/d; touch a/b/c/d/e",
    "a file for a directory": "rm -r a; echo x >a",
    "a link for a directory": "mv a $HOME/a; ln -s $HOME/a a",
    "a FIFO in its place": "rm run; mkfifo run",
    "closed": "chmod 0 a/b/c run a/b a",
    "a set-user-id bit": "chmod 6777 run a/b/c",
    "an attribute": "python3 -c \"import os; os.setxattr('a/b/c', 'user.x', b'1'); os.setxattr('a', 'user.x', b'1')\" || :",
    "room behind its end": "fallocate --keep-size -l 1M a/b/c || :",
    "a hole": "truncate -s 0 run; truncate -s 20 run",
    "a mapping": (
        "python3 -c \"import mmap, os; s = os.stat('a/b/c'); f = open('a/b/c', 'r+b'); m = mmap.mmap(f.fileno(), 4); "
        "m[:] = b'mmm.'; m.flush(); os.utime('a/b/c', ns=(s.st_atime_ns, s.st_mtime_ns))\""
    ),
}


ATTRIBUTES = (
    "python3 -c \"import os; paths = [p for d, _, n in os.walk('.') for p in [d, *(d + '/' + x for x in n)]]; "
    "print([p for p in paths if not os.path.islink(p) and 'user.x' in os.listxattr(p)])\""
)


@case(Feature.SNAPSHOT)
async def a_snapshot_is_put_back_whatever_became_of_its_files(place: Place):
    everything = f"{SHOW}; find . $HOME -links +1 -type f; {ATTRIBUTES}"
    await place.text(MAKE)
    before = await place.text(everything)
    kept = await place.sandbox.snapshot()
    for name, meddling in MEDDLE.items():
        await place.text(meddling)
        await place.sandbox.reset(kept)
        assert await place.text(everything) == before, name
    await place.text("echo >>a/b/c; rm -r a")  # its owner may still do everything with it


@case(Feature.SNAPSHOT, Limit.DISK)
async def a_full_disk_is_no_obstacle_to_a_snapshot(place: Place):
    await place.text("mkdir a z; head -c 40000000 /dev/zero >a/kept")
    kept = await place.sandbox.snapshot()
    assert (await place.sh("rm a/kept; head -c 90000000 /dev/zero >z/junk")).exit_code != 0
    await place.sandbox.reset(kept)
    assert await place.text("stat -c %s a/kept; ls z") == "40000000\n"


@case(Feature.SNAPSHOT)
async def a_directory_that_nobody_may_read_is_a_refusal(place: Place):
    await place.text("mkdir -m 0 closed")
    if await place.text("id -u") != "0\n":
        with pytest.raises(SandboxError, match="closed cannot be read"):
            await place.sandbox.snapshot()
    assert await place.sandbox.alive()


@case(Feature.SNAPSHOT)
async def a_snapshot_of_a_tree_that_changes_all_the_time_ends(place: Place):
    changing = asyncio.create_task(
        place.sh("while :; do mkdir -p a/b; echo x >a/b/c; mv a z; ln -s z a; rm -r a z; done 2>/dev/null", timeout_seconds=1)
    )
    for _ in range(250):
        await place.sandbox.snapshot()
        await asyncio.sleep(0.004)
    await changing
    assert await place.sandbox.alive()


@case(Feature.SNAPSHOT)
async def more_snapshots_than_it_keeps_are_refused(place: Place):
    await place.sandbox.write("a", b"first")
    first = await place.sandbox.snapshot()
    for _ in range(255):
        await place.sandbox.snapshot()
    with pytest.raises(SandboxError, match="256 snapshots"):
        await place.sandbox.snapshot()
    await place.sandbox.write("a", b"last")
    await place.sandbox.reset(first)
    assert await place.text("cat a") == "first"


@case(Feature.RESET)
async def a_workspace_that_was_closed_is_open_after_a_reset(place: Place):
    await place.sh("python3 -c \"import os; os.setxattr('.', 'user.x', b'1')\"; chmod 0 .")
    await place.sandbox.reset()
    assert await place.text(f"echo x >a; cat a; {ATTRIBUTES}") == "x\n[]\n"


@case(Feature.SNAPSHOT)
async def a_snapshot_of_another_name_is_refused(place: Place):
    for name in ("77", "nonsense"):
        with pytest.raises(SandboxError, match="no snapshot"):
            await place.sandbox.reset(name)


@case(Feature.FORK)
async def a_fork_has_the_files_and_its_own_life(place: Place):
    await place.text(MAKE)
    twin = await place.sandbox.fork()
    assert (await twin.exec(["bash", "-c", SHOW], timeout_seconds=30)).stdout.decode() == await place.text(SHOW)
    await twin.write("only-here", b"")
    assert "only-here" not in await place.sandbox.files()
    await place.sandbox.destroy()
    assert await twin.alive()


@case()
async def a_network_that_it_cannot_give_is_refused(place: Place):
    await place.sandbox.set_network(Network.NONE)
    if Feature.SET_NETWORK not in place.capabilities.features:
        with pytest.raises(CapabilityError):
            await place.sandbox.set_network(Network.OPEN)


@case()
async def ten_sandboxes_leave_no_descriptor_and_no_process(place: Place):
    await place.sandbox.destroy()
    await (await place.backend.create(SPEC)).destroy()
    before = footprint()
    for _ in range(10):
        sandbox = await place.backend.create(SPEC)
        await sandbox.exec(["true"], timeout_seconds=30)
        await sandbox.destroy()
    assert_no_more_than(before)


@case(spec=SandboxSpec(env={"A": "1"}))
async def what_the_spec_says_holds_after_a_reset(place: Place):
    if Feature.RESET in place.capabilities.features:
        await place.sandbox.reset()
    assert await place.text("echo $A") == "1\n"


def assert_no_more_than(before: dict[str, int]) -> None:
    """Nothing was left; what is less is an idle connection to a daemon that was closed meanwhile."""
    now = footprint()
    assert all(now[kind] <= before[kind] for kind in before), (now, before)


def footprint() -> dict[str, int]:
    """What this process holds of the kernel's: descriptors, children, mounts."""
    gc.collect()
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "children": len(children()),
        "mounts": len(mounts()),
    }

"""Nothing of a command outlives it. Survivors are counted from outside of the sandbox, by a number in their command line."""

import asyncio
import os

import pytest

from backends.base import SandboxError
from tests.backends.conformance.cases import Cases, Place
from tests.backends.processes import gone, processes_with

case = Cases("kill")


def sleeper() -> tuple[str, str]:
    """A command that sleeps for hours, and the number by which it is found: nothing else on the machine has it."""
    mark = f"4{os.urandom(5).hex()}"
    return f"sleep 4000.{int(mark, 16)}", f"4000.{int(mark, 16)}"


ESCAPES = {
    "loop": "while :; do {s} & wait; done",
    "child": "{s} & wait",
    "own session": "setsid {s} & wait",
    "double fork": "(setsid sh -c '{s} & exit' &); {s}",
    "deaf to signals": "(trap '' TERM HUP INT; {s}; {s}) & wait",
    "nohup": "nohup {s} >/dev/null 2>&1 & wait",
    "stopped": "{s} & kill -STOP $!; wait",
    "stopped and continued": "{s} & while :; do kill -STOP $!; kill -CONT $!; done",
    "stops its group": "setsid {s} & {s} & kill -STOP 0",
    "reads a terminal": "setsid python3 -c 'import pty; pty.spawn(\"{s}\".split())' || {s}",
    "stops its parent": "{s} & kill -STOP $PPID; wait",
    "respawner": "while true; do setsid sh -c '{s} & {s}' & sleep 0.01; done",
    "blocked on a pipe": "mkfifo p; (exec 3<>p; dd <&3 >/dev/null 2>&1) & {s}",
    "flood of output": "setsid {s} & yes",
}


@case.table("a timeout leaves no", ESCAPES)
async def a_timeout_leaves_nothing(place: Place, escape: str):
    command, mark = sleeper()
    result = await place.sh(f"{escape.format(s=command)};:", timeout_seconds=1)
    assert result.timed_out
    assert processes_with(mark) == []


@case()
async def a_running_command_is_seen_from_outside(place: Place):
    """Or else the cases that count survivors would prove nothing."""
    command, mark = sleeper()
    running = asyncio.create_task(place.sh(f"{command};:", timeout_seconds=60))
    while not processes_with(mark):
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await place.sandbox.alive()  # answered after the cancellation was carried out
    assert processes_with(mark) == []


@case()
async def a_program_that_forks_for_ever_is_gone(place: Place):
    mark = f"re-forking-{os.urandom(4).hex()}"
    program = f"import os\nwhile True:\n    if os.fork():\n        os._exit(0)\n    os.setsid()  # {mark}"
    result = await place.sh(f'python3 -S -c "{program}"; sleep 4000', timeout_seconds=1)
    assert result.timed_out
    assert processes_with(mark) == []


WAITING = """
import ctypes, os, sys, time
CLONE_VFORK, SIGCHLD = 0x4000, 17
clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
if ctypes.CDLL(None).syscall(clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0):
    os._exit(1)
with open(f"/proc/{os.getppid()}/stat") as file:
    print(file.read().rpartition(")")[2].split()[0], flush=True)
time.sleep(float(sys.argv[1]))
"""


@case()
async def a_process_that_takes_no_signal_ends_with_what_it_waits_for(place: Place):
    """One that waits as for a disk. What nothing could end takes a disk that does not answer, which no command can make."""
    _, mark = sleeper()
    await place.sandbox.write("waiting.py", WAITING.encode())
    found = await place.sh(f"python3 -S waiting.py {mark}; :", timeout_seconds=2)
    assert (found.timed_out, found.stdout) == (True, b"D\n")
    assert processes_with(mark) == []


@case()
async def what_a_command_leaves_behind_ends_with_it(place: Place):
    command, mark = sleeper()
    result = await place.sh(f"setsid {command} & (setsid {command} &) ; echo done", timeout_seconds=30)
    assert (result.exit_code, result.stdout, result.timed_out) == (0, b"done\n", False)
    assert processes_with(mark) == []


@case()
async def a_child_that_holds_the_output_open_holds_nothing_up(place: Place):
    result = await place.sh("sleep 4000 & exit 0", timeout_seconds=60)
    assert (result.exit_code, result.timed_out) == (0, False)


@case()
async def the_end_of_one_command_spares_another(place: Place):
    slow = asyncio.create_task(place.sh("sleep 2; echo alive", timeout_seconds=60))
    await place.sh("setsid sleep 4000", timeout_seconds=0.5)
    assert (await slow).stdout == b"alive\n"


@case()
async def a_program_is_killed_with_what_it_started(place: Place):
    command, mark = sleeper()
    program = await place.sandbox.spawn(["bash", "-c", f"setsid {command} & echo up; {command};:"])
    assert await program.receive() == b"up\n"
    await program.kill()
    assert processes_with(mark) == []


@case()
async def a_session_over_its_time_takes_its_children_along(place: Place):
    command, mark = sleeper()
    session = await place.sandbox.session()
    found = await session.run(f"setsid {command} & {command}", timeout_seconds=1)
    assert found.timed_out
    assert processes_with(mark) == []


@case()
async def a_cancelled_run_of_a_session_is_killed(place: Place):
    command, mark = sleeper()
    session = await place.sandbox.session()
    running = asyncio.create_task(session.run(f"{command};:", timeout_seconds=60))
    while not processes_with(mark):
        await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await place.sandbox.alive()
    assert processes_with(mark) == []


@case()
async def destroy_ends_everything(place: Place):
    command, mark = sleeper()
    await place.sandbox.spawn(["bash", "-c", f"setsid {command} & {command};:"])
    session = await place.sandbox.session()
    await session.run(f"{command} & disown", timeout_seconds=30)
    running = asyncio.create_task(place.sh(f"{command};:", timeout_seconds=60))
    await asyncio.sleep(0)
    await place.sandbox.destroy()
    with pytest.raises(SandboxError):
        await running
    assert await gone(mark)


@case()
async def orphans_do_not_become_zombies(place: Place):
    fork_twice = "    if not os.fork():\n        os.fork()\n        os._exit(0)\n    os.wait()\n"
    await place.python(f"import os\nfor _ in range(100):\n{fork_twice}")
    assert (await place.sandbox.stats()).processes == 1


@case("private_pids", dangerous=True)
async def stopping_everything_it_sees_stops_only_itself(place: Place):
    command, mark = sleeper()
    stopped = await place.sh(f"setsid {command} & kill -STOP -1; {command};:", timeout_seconds=1)
    assert (stopped.timed_out, processes_with(mark)) == (True, [])
    assert (await place.sh("echo alive")).stdout == b"alive\n"


@case("private_pids", dangerous=True)
async def killing_everything_it_sees_kills_only_itself(place: Place):
    await place.sh("kill -9 -1")
    assert (await place.sh("echo alive")).stdout == b"alive\n"

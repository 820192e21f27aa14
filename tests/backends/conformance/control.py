"""A command against the agent that runs it: it can neither speak for it, nor silence it, nor take it along."""

import pytest

from backends.base import ExecRefused, SessionKind
from tests.backends.conformance.cases import Cases, Place

case = Cases("control")

TRY = """
import ctypes, glob, os, signal
libc = ctypes.CDLL(None, use_errno=True)
agent = {agent}
def system(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
FORGED = b'\\0\\0\\0\\x09\\0\\0\\0\\0{{"id": 1}}' * 100
got_in = False
try:
    {statement}
    got_in = True
except OSError:
    pass
print("got in" if got_in else "refused")
"""
FORGERIES = {
    "descriptors": "[open(path, 'wb').write(FORGED) for path in glob.glob(f'/proc/{agent}/fd/*') or [f'/proc/{agent}/fd/100']]",
    "memory": "open(f'/proc/{agent}/mem', 'rb+')",
    "environment": "open(f'/proc/{agent}/environ').read(1)",
    "map": "open(f'/proc/{agent}/maps').read(1)",
    "ptrace": "system(101, 16, agent, 0, 0)",
    "stolen descriptors": "[system(438, os.pidfd_open(agent), n, 0) for n in range(3, 120)]",
    "process_vm_readv": "system(310, agent, 0, 0, 0, 0, 0)",
    "limits": "import resource; resource.prlimit(agent, resource.RLIMIT_NOFILE, (3, 3))",
}


@case.table("not by its", FORGERIES, "private_pids")
async def a_command_cannot_speak_for_the_agent(place: Place, statement: str):
    found = await place.python(TRY.format(agent=1, statement=statement.replace("{agent}", "1")))
    assert found.stdout == b"refused\n"
    assert (await place.sh("echo alive")).stdout == b"alive\n"


@case("private_pids")
async def a_command_cannot_starve_the_process_above_it(place: Place):
    program = "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))"
    assert b"PermissionError" in (await place.python(program)).stderr


SIGNALS = {
    "SIGKILL": "kill -9 1",
    "SIGSTOP": "kill -STOP 1",
    "SIGINT": "kill -INT 1",
    "SIGTERM": "kill -TERM 1",
    "SIGSEGV": "kill -SEGV 1",
}


@case.table("deaf to", SIGNALS, "private_pids", dangerous=True)
async def the_agent_survives_signals(place: Place, command: str):
    await place.sh(command)
    assert (await place.sh("echo alive")).stdout == b"alive\n"


@case()
async def a_killed_parent_ends_only_its_own_command(place: Place):
    await place.sh("kill -9 $PPID; sleep 4000", timeout_seconds=5)
    assert (await place.sh("echo alive")).stdout == b"alive\n"


FRAMES = {
    "a reply": r"printf '\0\0\0\011\0\0\0\0{\"id\": 1}'",
    "an endless reply": r"printf '\377\377\377\377\377\377\377\377'",
    "lengths below zero": r"printf '\200\0\0\0\200\0\0\0'",
}


@case.table("only output", FRAMES)
async def frames_on_the_standard_streams_are_output(place: Place, command: str):
    found = await place.sh(f"{command}; {command} >&2")
    assert found.stdout == found.stderr != b""
    assert (await place.sh("echo alive")).stdout == b"alive\n"


@case()
async def a_command_has_three_descriptors(place: Place):
    # listing the directory is itself an open descriptor, the lowest that is free
    listing = "import os; print(sorted(os.listdir('/proc/self/fd'), key=int))"
    assert (await place.python(listing)).stdout == b"['0', '1', '2', '3']\n"


@case()
async def a_path_of_traps_is_the_commands_own(place: Place):
    await place.sandbox.upload({f"bin/{name}": b"#!/bin/false\n" for name in ("python3", "env", "sh")})
    result = await place.sandbox.exec(
        ["bash", "-c", "echo mine"], timeout_seconds=30, env={"PATH": "/workspace/bin:/usr/bin:/bin"}
    )
    assert result.stdout == b"mine\n"
    assert (await place.sh("python3 -c 'print(1)'")).stdout == b"1\n"


@case()
async def a_module_in_the_way_does_not_reach_the_agent(place: Place):
    for name in ("json", "os", "select", "resource"):
        await place.sandbox.write(f"{name}.py", b"raise SystemExit('caught')")
    assert (await place.sh("echo alive")).stdout == b"alive\n"
    assert await place.sandbox.alive()


@case("hides_host")
async def what_runs_the_agent_cannot_be_replaced(place: Place):
    assert (await place.sh("rm -f $(command -v python3) $(command -v bash)")).exit_code != 0
    assert (await place.sh("echo alive")).stdout == b"alive\n"


@case()
async def a_session_that_floods_its_status_pipe_is_ended(place: Place):
    session = await place.sandbox.session(kind=SessionKind.PYTHON)
    found = await session.run("import os\nos.write(4, b'x' * 60000)\nimport time; time.sleep(60)", timeout_seconds=30)
    assert found.ended
    assert (await session.run("1 + 1", timeout_seconds=30)).stdout == b"2\n"


@case()
async def a_session_can_lie_about_its_status_and_breaks_nothing(place: Place):
    session = await place.sandbox.session(kind=SessionKind.PYTHON)
    for status in ("b'99999'", "b'9' * 5000", "b'-1'", "b''"):
        found = await session.run(f"import os\n_ = os.write(4, {status} + b'\\0/nowhere\\0')", timeout_seconds=30)
        assert (found.exit_code, found.ended) == (1, False)
        await session.restart()  # its own answer still waits in the pipe
    assert (await place.sh("echo alive")).stdout == b"alive\n"


@case()
async def more_words_than_an_agent_takes_are_refused(place: Place):
    with pytest.raises(ExecRefused):
        await place.sh(f": {'x' * (5 << 20)}")
    session = await place.sandbox.session()
    with pytest.raises(ExecRefused):
        await session.run("echo '\ud800'", timeout_seconds=30)
    assert (await place.sh("echo alive")).stdout == b"alive\n"


@case()
async def a_session_that_closes_its_pipes_ends_at_its_time(place: Place):
    session = await place.sandbox.session(kind=SessionKind.PYTHON)
    found = await session.run("import os, time\nos.close(4)\ntime.sleep(60)", timeout_seconds=2)
    assert (found.timed_out, found.ended) == (True, True)


@case()
async def a_directory_name_of_any_bytes_is_told(place: Place):
    session = await place.sandbox.session()
    found = await session.run(r"d=$(printf 'a\377\nb'); mkdir -p $'a\377\nb' && cd $'a\377\nb'", timeout_seconds=30)
    assert (found.exit_code, found.cwd) == (0, "/workspace/a\ufffd\nb")
